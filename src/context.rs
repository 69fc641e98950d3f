//! What is known around a call beyond the request and its credentials: the action, the caller's registration, what is
//! noticed about it, its risk, and the session. Everything here is local and read in one pass.

use std::sync::Arc;

use crate::{
    action::{Action, catalogue::Catalogue, tier::Tiers},
    clock::Now,
    identity::Peer,
    request::Request,
    risk::{self, Risk, Weights},
    session::{Glance, View},
    verdict::{Mode, Signal, SignalName, Tier},
    workload::{self, Registry, Workload},
};

/// The compiled documents of one policy set.
#[derive(Debug, Clone, Copy)]
pub struct Documents<'a> {
    pub catalogue: &'a Catalogue,
    pub registry: &'a Registry,
    pub tiers: &'a Tiers,
    pub weights: &'a Weights,
}

impl Documents<'_> {
    /// Whether they say nothing about calls.
    pub fn are_empty(&self) -> bool {
        self.catalogue.is_empty() && self.registry.is_empty() && self.tiers.is_empty() && self.weights.is_empty()
    }
}

/// The facts of one call.
#[derive(Debug, Clone)]
pub struct Context {
    pub action: Action,
    /// How hard the action is enforced, raised by risk.
    pub tier: Tier,
    /// The caller's entry in the registry, or none; absent where there is no registry or no peer.
    pub workload: Option<Option<Arc<Workload>>>,
    pub signals: Vec<Signal>,
    /// Absent where nothing is weighed: without a verified peer.
    pub risk: Option<Risk>,
    /// Absent where nobody asks, or there is no principal.
    pub view: Option<View>,
    /// Whether something that could not be had was done without, as the tier permits.
    pub degraded: bool,
}

impl Context {
    /// What is known without the caller's behaviour. `signals` are those about its credentials.
    pub fn gather(documents: Documents<'_>, request: &Request, peer: Option<&Peer>, signals: Vec<Signal>, now: Now) -> Self {
        let action = documents.catalogue.find(request);
        let mut context = Self {
            tier: documents.tiers.of(action.entry.as_deref()),
            action,
            workload: None,
            signals,
            risk: None,
            view: None,
            degraded: false,
        };
        if let Some(peer) = peer.filter(|_| !documents.registry.is_empty()) {
            let entry = documents.registry.find(&peer.text);
            context.signals.extend(workload::signals(entry.map(|entry| &**entry), peer.x509.as_ref(), now));
            context.workload = Some(entry.cloned());
        }
        context
    }

    /// Adds what the caller's behaviour says, and lets the risk of it all raise the tier.
    pub fn weigh(&mut self, documents: Documents<'_>, behaviour: &Glance, now: Now) {
        let Documents { tiers, weights, .. } = documents;
        let seen = |name, detail| Signal { name, since_ns: now.ns, detail };
        if behaviour.first_use {
            let name = self.action.entry.as_ref().map_or("", |entry| &entry.name);
            self.signals.push(seen(SignalName::FirstUse, name.to_owned()));
        }
        if behaviour.denials >= weights.denial_streak {
            self.signals.push(seen(SignalName::DenialStreak, format!("{} in a row", behaviour.denials)));
        }
        if behaviour.calls >= weights.burst.calls {
            self.signals.push(seen(SignalName::Burst, format!("{} calls", behaviour.calls)));
        }
        self.signals.extend(behaviour.changed.iter().map(|name| seen(*name, String::new())));
        let risk = risk::assess(weights, &self.signals, &behaviour.noted, now);
        if self.tier != Tier::None {
            self.tier = self.tier.max(tiers.at_risk(risk.level));
        }
        self.risk = Some(risk);
    }

    /// Whether denials by policy, tier, path and risk are only recorded, for this action, tier or caller.
    pub fn is_observed(&self, tiers: &Tiers) -> bool {
        let workload = self.workload.iter().flatten().any(|workload| workload.mode == Mode::Observe);
        workload
            || self.action.entry.as_ref().is_some_and(|entry| entry.mode == Mode::Observe)
            || tiers.mode(self.tier) == Mode::Observe
    }
}

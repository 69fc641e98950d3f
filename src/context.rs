//! What is known around a call beyond the request and its credentials: the action, the caller's registration, what is
//! noticed about it, its risk, and the session. Everything here is local and read in one pass.

use std::{cmp::Reverse, sync::Arc};

use uuid::Uuid;

use crate::{
    action::{Action, catalogue::Catalogue, tier::Tiers},
    clock::Now,
    grant::Grant,
    identity::Peer,
    request::Request,
    revocation::{Revocation, Snapshot},
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

/// A grant that was revoked.
#[derive(Debug, Clone)]
pub struct Withdrawn {
    pub grant: Arc<Grant>,
    pub by: Arc<Revocation>,
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
    /// What the principal is granted, live and not revoked.
    pub grants: Vec<Arc<Grant>>,
    /// The same of which somebody has said that it is no longer good.
    pub withdrawn: Vec<Withdrawn>,
    /// The task that the call is in.
    pub task: Option<Arc<str>>,
    /// A verified token names a task that was ended.
    pub task_ended: bool,
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
            grants: Vec::new(),
            withdrawn: Vec::new(),
            task: None,
            task_ended: false,
            degraded: false,
        };
        if let Some(peer) = peer.filter(|_| !documents.registry.is_empty()) {
            let entry = documents.registry.find(&peer.text);
            context.signals.extend(workload::signals(entry.map(|entry| &**entry), peer.x509.as_ref(), now));
            context.workload = Some(entry.cloned());
        }
        context
    }

    /// Adds what is granted to the principal, and the task that the call is in: the one that a verified token names
    /// (`claimed`), if it is open, else the only one of the grants.
    pub fn hold(&mut self, granted: &[Arc<Grant>], claimed: Option<&str>, revocations: &Snapshot, now: Now) {
        let tasks = || granted.iter().filter_map(|grant| Some((grant, grant.scope.task.as_ref()?)));
        self.task = match claimed {
            Some(claimed) => tasks().map(|(_, task)| task).find(|task| ***task == *claimed).cloned(),
            None => {
                let mut live = tasks().filter(|(grant, _)| grant.is_live(now)).map(|(_, task)| task);
                live.next().filter(|first| live.all(|other| other == *first)).cloned()
            }
        };
        for grant in granted.iter().filter(|grant| grant.is_live(now)) {
            match revocations.grant(grant.id, now) {
                None => self.grants.push(Arc::clone(grant)),
                Some(by) => self.withdrawn.push(Withdrawn { grant: Arc::clone(grant), by: Arc::clone(by) }),
            }
        }
        // The first that covers the call is taken: rather one that is not used up by it, and rather one that lasts longer.
        self.grants.sort_by_key(|grant| (grant.scope.max_uses.is_some(), Reverse(grant.until())));
    }

    /// The grant that covers the call, of several the first.
    pub fn covering(&self) -> Option<&Arc<Grant>> {
        self.grants.iter().find(|grant| grant.covers(&self.action, self.task.as_deref()))
    }

    /// The grant of an id, if it covers the call.
    pub fn granted(&self, id: Uuid) -> Option<&Arc<Grant>> {
        self.grants.iter().find(|grant| grant.id == id && grant.covers(&self.action, self.task.as_deref()))
    }

    /// What has withdrawn the grant that would have covered the call.
    pub fn withdrawn(&self) -> Option<&Arc<Revocation>> {
        let covered = |withdrawn: &&Withdrawn| withdrawn.grant.covers(&self.action, self.task.as_deref());
        self.withdrawn.iter().find(covered).map(|withdrawn| &withdrawn.by)
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

//! Which policy a command asks, and under which settings: options that `eval` and `bench` share. What they come to stands
//! in for a running doorward.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{Exit, complain};
use crate::{
    authorizer::{Settings, xfcc},
    clock::Now,
    config::{self, Config, Environment, Own, Placement, RegoVersion},
    envoy::{decode, descriptors::Descriptors},
    identity::{Header, Identity, Peer, PeerRules, Who},
    policy::{
        input::Here,
        inspect::{Opened, open},
        problem::Code,
    },
    request::Request,
    tls,
    trust::{TrustStore, own::OwnSvid},
    verdict::Evidence,
};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Files, folders and bundles with Rego and data
    #[arg(long = "policy", value_name = "PATH", num_args = 1.., required_unless_present = "config", conflicts_with = "config")]
    paths: Vec<PathBuf>,
    /// Ask the policy of this configuration file, as its first listener would
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The rule that decides, as a path below `data`
    #[arg(long, value_name = "PATH")]
    decision: Option<String>,
    /// Behave as another server where our safe default differs
    #[arg(long, value_enum)]
    compat: Option<Compat>,
    /// The sources are Rego v0
    #[arg(long, conflicts_with = "config")]
    v0_compatible: bool,
    /// Longest evaluation, in place of `policy.limits.evaluation`
    #[arg(long, value_name = "TIME")]
    timeout: Option<humantime::Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Compat {
    OpaEnvoy,
}

/// A policy and all that decides beside it.
#[derive(Debug)]
pub(super) struct Sidecar {
    pub(super) policy: Opened,
    pub(super) settings: Settings,
    pub(super) decode: decode::Settings,
    pub(super) here: Here,
    identity: Identity,
    /// None without a configuration: then a certificate is believed.
    rules: Option<PeerRules>,
}

impl Args {
    /// Loads everything; what is wrong has been said.
    pub(super) fn open(&self, now: Now) -> Result<Sidecar, Exit> {
        let config = match self.config.as_deref().map(config::load).transpose() {
            Ok(config) => config,
            Err(error) => return Err(invalid(error)),
        };
        let rego = if self.v0_compatible { RegoVersion::V0 } else { RegoVersion::V1 };
        let mut policy =
            config.as_ref().map_or_else(|| config::Policy::of_paths(&self.paths, rego), |config| config.policy.clone());
        if let Some(decision) = &self.decision {
            policy.decision.clone_from(decision);
        }
        policy.compat = self.compat.map(|Compat::OpaEnvoy| config::Compat::OpaEnvoy).or(policy.compat);
        let opened = open(&policy, now).map_err(|error| {
            for problem in &error.problems {
                complain(problem);
            }
            if self.config.is_none() && error.problems.iter().any(|problem| problem.code == Code::NoDecision) {
                complain("the rule that decides is not named; add `--decision PATH`");
            }
            Exit::Invalid
        })?;
        let config = config.map(|config| Config { policy: policy.clone(), ..config });
        let mut settings = config.as_ref().map_or_else(|| Settings::of_policy(&policy), Settings::new);
        settings.evaluation = self.timeout.map_or(settings.evaluation, Duration::from);
        self.stand_in(config.as_ref(), opened, settings).map_err(invalid)
    }

    fn stand_in(&self, config: Option<&Config>, policy: Opened, settings: Settings) -> anyhow::Result<Sidecar> {
        let listener = config.and_then(|config| config.listeners.first());
        let trust = match config {
            Some(config) => TrustStore::load(&config.trust)?,
            None => TrustStore::load(&config::Trust::default())?,
        };
        let own = Arc::new(OwnSvid::default());
        // The Workload API is not asked: what comes from it is not there.
        if let Some(Own::Files(files)) = config.and_then(|config| config.trust.own.as_ref()) {
            own.set(tls::load(files)?);
        }
        let identity = Identity::new(Arc::new(trust), own);
        let descriptors = Descriptors::default();
        descriptors.reload(config.and_then(|config| config.policy.proto_descriptor.as_deref()))?;
        let environment = Environment::read();
        let placement = listener.map_or(Placement::default(), |listener| listener.placement);
        let place = config.map(|config| config.place.clone()).unwrap_or_default();
        let here = Here::new(place.pairs(listener).into_iter().chain([
            ("pod", environment.pod.as_deref()),
            ("namespace", environment.namespace.as_deref()),
            ("node", environment.node.as_deref()),
            ("placement", Some(placement.as_str())),
            ("spiffe_id", identity.own_id().as_deref()),
        ]));
        let decode = decode::Settings {
            max_body: listener.and_then(|listener| listener.max_body).map(config::Size::bytes),
            skip_body_parse: listener.is_some_and(|listener| listener.skip_body_parse),
            compat: settings.compat,
            descriptors: descriptors.current(),
        };
        let rules = listener.map(|listener| PeerRules::new(&listener.peer, listener.placement));
        Ok(Sidecar { policy, settings, decode, here, identity, rules })
    }
}

fn invalid(error: impl Into<anyhow::Error>) -> Exit {
    complain(super::chain(error));
    Exit::Invalid
}

impl Sidecar {
    /// Who the peer of a request is. What was taken on trust is added to `notes`.
    pub(super) fn who(&self, request: &Request, now: Now, notes: &mut Vec<String>) -> Who {
        let source = request.source.as_ref();
        if let Some(rules) = &self.rules {
            return self.identity.who(source, xfcc(request).map(Header::parse).as_ref(), rules, now);
        }
        let believed = config::PeerTrust { trust: config::PeerProof::Certificate, ..config::PeerTrust::default() };
        let who = self.identity.who(source, None, &PeerRules::new(&believed, Placement::default()), now);
        if let Who::Proved(peer) = &who {
            notes.push(
                "the chain of the peer's certificate was not checked and is taken for good; `--config` checks it".to_owned(),
            );
            return Who::Proved(Arc::new(Peer { evidence: Evidence::Sidecar, ..Peer::clone(peer) }));
        }
        if who == Who::Absent && source.is_some_and(|source| !source.principal.is_empty()) {
            notes.push("`source.principal` alone proves nothing, so there is no peer; `--peer` vouches for one".to_owned());
        }
        who
    }
}

/// The peer that the command line vouches for.
pub(super) fn vouched(id: &str, notes: &mut Vec<String>) -> anyhow::Result<Who> {
    let peer = Peer::named(id, Evidence::Sidecar)
        .map_err(|reason| anyhow::anyhow!("`{id}` is no SPIFFE ID of a workload ({reason}); write `spiffe://domain/path`"))?;
    notes.push(format!(
        "`{id}` was taken for proved, with evidence `{}`, because the command line says so",
        Evidence::Sidecar.as_str()
    ));
    Ok(Who::Proved(Arc::new(peer)))
}

//! The policy set in force, replaced as a whole while calls go on. What is refused displaces nothing, and says why.
//! When to reload is the composer's business.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use tracing::{info, warn};

use super::{
    downloads::{BundleStatus, Delivery, Downloads, View},
    engine::{Abandoned, PolicySet},
    former::{Former, FormerSets},
    inspect::Opened,
    load::{self, Sources},
    problem::{Code, LoadError, Problem, Severity},
};
use crate::{
    clock::Now,
    config::{self, Download},
};

/// How long bytes that did not compile are refused without another attempt.
const RETRY: Duration = Duration::from_secs(600);
/// Refusals kept; more copies of bundles than that do not wait at a time.
const KEPT: usize = 16;

/// Revision by name of a bundle.
type Revisions = BTreeMap<String, String>;

/// What a set may ask of the process that it decides in. Without it, of a process that has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Records can be on disk before a call is answered: what tier strict promises.
    pub durable_records: bool,
    /// Every listener sees all of a session, or the configuration says that parts are enough.
    pub whole_sessions: bool,
}

impl Default for Host {
    fn default() -> Self {
        Self { durable_records: true, whole_sessions: true }
    }
}

impl Host {
    /// Why a set asks for too much.
    fn refuse(self, set: &PolicySet) -> Result<(), LoadError> {
        let mut problems = Vec::new();
        let documents = set.documents();
        if !self.durable_records && (documents.catalogue.has_strict() || documents.tiers.may_be_strict()) {
            let text = "tier strict wants records on disk before a call is answered, and the sink cannot promise that; set \
                        `records.sink.file.path`";
            problems.push(Problem::of_file(Code::Document, "data.doorward.actions", text));
        }
        if !self.whole_sessions && documents.catalogue.has_path_relevant() {
            let text = "actions with `adds`, `requires` or `forbid_after` want whole sessions, and an `inbound` listener sees only \
                        the calls that come to its own workload; move them to an `egress` listener or a `gateway` with \
                        `sessions.sole: true`, or write `sessions.incomplete: allow`";
            problems.push(Problem::of_file(Code::Document, "data.doorward.actions", text));
        }
        if problems.is_empty() { Ok(()) } else { Err(LoadError { problems }) }
    }
}

/// Holds the set in force, or none before the first that loads.
#[derive(Debug, Default)]
pub struct PolicyStore {
    host: ArcSwap<Host>,
    current: ArcSwapOption<PolicySet>,
    /// The configuration that the set in force was made by. Held while a reload works, so that none overtakes another.
    config: Mutex<Option<config::Policy>>,
    status: Mutex<Status>,
    downloads: Downloads,
    abandoned: Abandoned,
    refused: Mutex<Refused>,
    /// None where nobody asks old sets.
    former: Option<FormerSets>,
}

/// A set that can be put in force.
struct New {
    set: Arc<PolicySet>,
    revisions: Revisions,
    former: Option<Former>,
}

/// Sets that did not compile, so that the same bytes under the same settings are not compiled again at each look.
#[derive(Debug, Default)]
struct Refused {
    config: Option<config::Policy>,
    /// By digest, with the time of the attempt.
    errors: BTreeMap<String, (Now, LoadError)>,
}

impl Refused {
    fn error(&self, config: &config::Policy, digest: &str, now: Now) -> Option<LoadError> {
        let (at, error) = self.errors.get(digest).filter(|_| self.config.as_ref() == Some(config))?;
        (now.since_epoch().saturating_sub(at.since_epoch()) < RETRY).then(|| error.clone())
    }

    fn keep(&mut self, config: &config::Policy, digest: String, error: LoadError, now: Now) {
        if self.config.as_ref() != Some(config) || self.errors.len() >= KEPT {
            *self = Self { config: Some(config.clone()), errors: BTreeMap::new() };
        }
        self.errors.insert(digest, (now, error));
    }
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// The same files under the same settings are in force already.
    Unchanged,
    Loaded {
        revision: String,
        digest: String,
    },
    /// What was in force stays, if anything was.
    Refused {
        error: LoadError,
    },
}

impl LoadError {
    /// Whether nothing is wrong but that a bundle has still to be fetched.
    pub fn is_waiting(&self) -> bool {
        self.problems.iter().all(|problem| problem.code == Code::NotFetched)
    }
}

/// What is in force, and what was refused since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When the set in force was loaded, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_at: Option<String>,
    /// Why the latest reload was refused; absent once one succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Refusal>,
    /// Reloads that put a set in force, since the start.
    pub loads: u64,
    /// Reloads that were refused, since the start.
    pub refusals: u64,
    /// The bundles that have a name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<BundleStatus>,
    #[serde(skip)]
    revisions: Revisions,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// RFC 3339.
    pub at: String,
    pub problems: Vec<Problem>,
}

impl PolicyStore {
    /// A store that keeps the latest sets after they were in force.
    pub fn remembering() -> Self {
        Self { former: Some(FormerSets::default()), ..Self::default() }
    }

    /// The set of this digest that decided by this rule, where it is kept still.
    pub fn former(&self, digest: &str, rule: &str) -> Option<Arc<Former>> {
        self.former.as_ref()?.find(digest, rule)
    }

    /// Says what sets may ask for that are loaded from now on.
    pub fn set_host(&self, host: Host) {
        self.host.store(Arc::new(host));
    }

    /// The set that decides now. A call takes it once.
    pub fn current(&self) -> Option<Arc<PolicySet>> {
        self.current.load_full()
    }

    /// The configuration that the set in force was made by.
    pub fn config(&self) -> Option<config::Policy> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the sources again, and puts them in force if they are new and sound. Where the newest downloads are not, good
    /// ones take their place, so that one bad bundle holds up no other. Blocks for as long as that takes.
    pub fn reload(&self, config: &config::Policy, now: Now) -> Reload {
        let mut loaded_by = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        self.downloads.prepare(config, now);
        let mut refused: Option<LoadError> = None;
        for view in self.downloads.views() {
            match self.attempt(config, loaded_by.as_ref() == Some(config), &view, now) {
                Err(error) => drop(refused.get_or_insert(error)),
                Ok(new) => {
                    self.downloads.accept(config, &view);
                    match (new, refused.take()) {
                        (Some(new), error) => {
                            *loaded_by = Some(config.clone());
                            return self.loaded(new, error, now);
                        }
                        (None, Some(error)) => return self.refused(error, now),
                        (None, None) => {
                            self.status.lock().unwrap_or_else(PoisonError::into_inner).last_error = None;
                            return Reload::Unchanged;
                        }
                    }
                }
            }
        }
        // There is always a view, and each one that fails says why.
        self.refused(refused.unwrap_or_else(|| LoadError { problems: Vec::new() }), now)
    }

    /// The set that `view` makes; none when it is in force already.
    fn attempt(&self, config: &config::Policy, same_config: bool, view: &View, now: Now) -> Result<Option<New>, LoadError> {
        let fetched = view.iter().map(|(name, (delivery, _))| (name.clone(), delivery.bytes.clone())).collect();
        let sources = load::read_all(config, &fetched, now).map_err(|mut error| {
            self.downloads.explain(&mut error);
            error
        })?;
        let in_force = self.current.load();
        if same_config && in_force.as_ref().is_some_and(|set| **set.digest() == *sources.digest) {
            return Ok(None);
        }
        let revisions = sources.revisions.clone();
        let texts = self.former.as_ref().map(|_| (sources.modules.clone(), sources.size));
        let set = Arc::new(self.compile(sources, config, now)?);
        self.host.load().refuse(&set)?;
        for bundle in &config.bundles {
            if let Some(revision) = bundle.name.as_ref().and_then(|name| revisions.get(name)) {
                load::accept(bundle, revision, config)?;
            }
        }
        let former = texts.map(|(modules, size)| {
            let opened = Opened::new(Arc::clone(&set), modules, config.rego);
            Former { opened, config: config.clone(), size }
        });
        Ok(Some(New { set, revisions, former }))
    }

    fn compile(&self, sources: Sources, config: &config::Policy, now: Now) -> Result<PolicySet, LoadError> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = refused.error(config, &sources.digest, now) {
            return Err(error);
        }
        if self.abandoned.is_running() {
            let text = "waits until an earlier set, which took too long to compile, has been compiled";
            return Err(Problem::of_file(Code::TooSlow, "policy", text.to_owned()).into());
        }
        let digest = sources.digest.clone();
        PolicySet::compile(sources, config, &self.abandoned).inspect_err(|error| refused.keep(config, digest, error.clone(), now))
    }

    fn loaded(&self, new: New, error: Option<LoadError>, now: Now) -> Reload {
        let New { set, revisions, former } = new;
        let (revision, digest) = (set.revision().to_string(), set.digest().to_string());
        for finding in set.findings() {
            match finding.severity() {
                Severity::Error | Severity::Warning => warn!(%finding, "policy has a weakness"),
                Severity::Note => info!(%finding, "about the policy"),
            }
        }
        if let (Some(sets), Some(former)) = (&self.former, former) {
            sets.push(former);
        }
        self.current.store(Some(set));
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.revision = Some(revision.clone());
        status.digest = Some(digest.clone());
        status.loaded_at = Some(now.rfc3339());
        status.last_error = error.map(|error| Refusal { at: now.rfc3339(), problems: error.problems });
        status.loads += 1;
        status.revisions = revisions;
        Reload::Loaded { revision, digest }
    }

    fn refused(&self, error: LoadError, now: Now) -> Reload {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.last_error = Some(Refusal { at: now.rfc3339(), problems: error.problems.clone() });
        status.refusals += 1;
        Reload::Refused { error }
    }

    /// Takes a bundle that was fetched, if it is sound by itself; the next reload tries to put it in force. Returns
    /// whether there is something to reload for.
    pub fn offer(&self, config: &config::Policy, name: &str, delivery: Delivery, now: Now) -> Result<bool, LoadError> {
        self.downloads.offer(config, name, delivery, now)
    }

    /// A request for a bundle brought nothing new, or failed with `error`.
    pub fn asked(&self, name: &str, error: Option<String>) {
        self.downloads.asked(name, error);
    }

    /// What to ask a server with for the newest copy that is here.
    pub fn etag(&self, download: &Download) -> Option<String> {
        self.downloads.etag(download)
    }

    /// Takes the set out of force. Only where nothing depends on one.
    pub fn clear(&self) {
        let mut loaded_by = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(None);
        *loaded_by = None;
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Status::default();
    }

    pub fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.bundles = self.downloads.status(&status.revisions);
        status
    }
}

#[cfg(test)]
mod tests;

//! The policy set in force, replaced as a whole while calls go on. What is refused displaces nothing, and says why.
//! When to reload is the composer's business.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use serde::Serialize;
use tracing::{info, warn};

use super::{
    engine::PolicySet,
    load,
    problem::{LoadError, Problem, Severity},
};
use crate::{clock::Now, config};

/// Holds the set in force, or none before the first that loads.
#[derive(Debug, Default)]
pub struct PolicyStore {
    current: ArcSwapOption<PolicySet>,
    /// The configuration that the set in force was made by. Held while a reload works, so that none overtakes another.
    config: Mutex<Option<config::Policy>>,
    status: Mutex<Status>,
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// RFC 3339.
    pub at: String,
    pub problems: Vec<Problem>,
}

impl PolicyStore {
    /// The set that decides now. A call takes it once.
    pub fn current(&self) -> Option<Arc<PolicySet>> {
        self.current.load_full()
    }

    /// The configuration that the set in force was made by.
    pub fn config(&self) -> Option<config::Policy> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the sources again, and puts them in force if they are new and sound. Blocks for as long as that takes.
    pub fn reload(&self, config: &config::Policy, now: Now) -> Reload {
        let mut loaded_by = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let result = load::read(config).and_then(|sources| {
            let in_force = self.current.load();
            let same =
                in_force.as_ref().is_some_and(|set| **set.digest() == *sources.digest) && loaded_by.as_ref() == Some(config);
            if same { Ok(None) } else { PolicySet::compile(sources, config).map(Some) }
        });
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(None) => {
                status.last_error = None;
                Reload::Unchanged
            }
            Ok(Some(set)) => {
                let (revision, digest) = (set.revision().to_string(), set.digest().to_string());
                for finding in set.findings() {
                    match finding.severity() {
                        Severity::Error | Severity::Warning => warn!(%finding, "policy has a weakness"),
                        Severity::Note => info!(%finding, "about the policy"),
                    }
                }
                self.current.store(Some(Arc::new(set)));
                *loaded_by = Some(config.clone());
                status.revision = Some(revision.clone());
                status.digest = Some(digest.clone());
                status.loaded_at = Some(now.rfc3339());
                status.last_error = None;
                status.loads += 1;
                Reload::Loaded { revision, digest }
            }
            Err(error) => {
                status.last_error = Some(Refusal { at: now.rfc3339(), problems: error.problems.clone() });
                status.refusals += 1;
                Reload::Refused { error }
            }
        }
    }

    /// Takes the set out of force. Only where nothing depends on one.
    pub fn clear(&self) {
        let mut loaded_by = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(None);
        *loaded_by = None;
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Status::default();
    }

    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests;

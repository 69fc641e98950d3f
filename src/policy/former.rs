//! The sets that were in force of late, with their texts, so that an old decision can be asked about again. Only where
//! somebody can ask: they cost memory.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::inspect::Opened;
use crate::config;

/// Sets that are kept, the one in force among them.
pub const MAX_SETS: usize = 8;
/// Bytes of the sources of all but the one in force. In memory a set is several times its sources.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A set, and the configuration that it was in force by.
#[derive(Debug)]
pub struct Former {
    pub opened: Opened,
    pub config: config::Policy,
    /// Bytes of its sources.
    pub(super) size: u64,
}

/// The youngest last.
#[derive(Debug, Default)]
pub(super) struct FormerSets(Mutex<VecDeque<Arc<Former>>>);

impl FormerSets {
    /// A set came into force.
    pub(super) fn push(&self, new: Former) {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = MAX_BYTES;
        let fits = |set: &Arc<Former>| {
            left = left.checked_sub(set.size)?;
            Some(())
        };
        let fitting = sets.iter().rev().take(MAX_SETS - 1).map_while(fits).count();
        let gone = sets.len() - fitting;
        sets.drain(..gone);
        sets.push_back(Arc::new(new));
    }

    /// The set of this digest that decided by this rule.
    pub(super) fn find(&self, digest: &str, rule: &str) -> Option<Arc<Former>> {
        let sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sets.iter().rev().find(|set| **set.opened.set.digest() == *digest && set.config.decision == rule).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Now, policy::inspect::open};

    #[test]
    fn large_sets_go_earlier_and_the_one_in_force_never_does() {
        let folder = tempfile::tempdir().unwrap();
        let sets = FormerSets::default();
        let push = |number: u32, size| {
            std::fs::write(folder.path().join("a.rego"), format!("package envoy.authz\nallow := {number} > 1\n")).unwrap();
            let config = config::Policy::at(folder.path());
            let opened = open(&config, Now::from_seconds(0)).unwrap();
            let digest = opened.set.digest().to_string();
            sets.push(Former { opened, config, size });
            digest
        };
        let digests = [push(1, 10), push(2, MAX_BYTES - 9), push(3, MAX_BYTES + 1)];
        let kept = || digests.each_ref().map(|digest| sets.find(digest, "envoy/authz/allow").is_some());
        assert_eq!(kept(), [false, true, true]);
        push(4, 1);
        assert_eq!(kept(), [false, false, false]);
    }
}

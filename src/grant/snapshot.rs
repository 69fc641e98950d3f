//! The grants in the form that a call asks: by subject, in parts of which a change copies only its own. To ask takes no lock
//! and makes nothing, and how many grants there are does not matter.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher as _,
    sync::Arc,
};

use foldhash::quality::RandomState;

use super::{Fate, Grant};
use crate::state::Epoch;

const SHARDS: usize = 256;

/// All that is granted in one epoch.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Absent where nothing can be granted.
    pub epoch: Option<Epoch>,
    shards: Vec<Arc<Shard>>,
    hasher: RandomState,
    len: usize,
    /// Tasks that somebody has ended, by subject, as long as their grants are kept.
    ended: Arc<Tasks>,
}

/// Subject and task.
type Tasks = HashSet<(Arc<str>, Arc<str>), RandomState>;

type Shard = HashMap<Arc<str>, Vec<Arc<Grant>>, RandomState>;

impl Default for Snapshot {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Arc::default()).collect();
        Self { epoch: None, shards, hasher: RandomState::default(), len: 0, ended: Arc::default() }
    }
}

impl Snapshot {
    pub const fn len(&self) -> usize {
        self.len
    }

    /// What is granted to a subject. Some of it may have ended: ask each.
    pub fn of(&self, subject: &str) -> &[Arc<Grant>] {
        if self.len == 0 {
            return &[];
        }
        self.shards.get(self.place(subject)).and_then(|shard| shard.get(subject)).map_or(&[], Vec::as_slice)
    }

    /// Whether a task of the subject was ended, and not begun anew.
    pub fn has_ended(&self, subject: &Arc<str>, task: &str) -> bool {
        !self.ended.is_empty() && self.ended.contains(&(Arc::clone(subject), task.into()))
    }

    pub(super) fn end_task(&mut self, grant: &Grant) {
        if let Some(task) = &grant.scope.task {
            Arc::make_mut(&mut self.ended).insert((Arc::clone(&grant.subject), Arc::clone(task)));
        }
    }

    fn forget_task(&mut self, grant: &Grant) {
        let Some(task) = grant.scope.task.as_ref().filter(|_| !self.ended.is_empty()) else { return };
        Arc::make_mut(&mut self.ended).remove(&(Arc::clone(&grant.subject), Arc::clone(task)));
    }

    /// Forgets what is known of a grant.
    pub(super) fn forget(&mut self, grant: &Grant) {
        self.remove(grant);
        self.forget_task(grant);
    }

    fn place(&self, subject: &str) -> usize {
        usize::try_from(self.hasher.hash_one(subject) % SHARDS as u64).unwrap_or_default()
    }

    /// Shows a grant as it is now.
    pub(super) fn put(&mut self, grant: &Arc<Grant>) {
        self.remove(grant);
        if matches!(grant.fate, Fate::Granted { .. }) {
            self.forget_task(grant);
            let place = self.place(&grant.subject);
            if let Some(shard) = self.shards.get_mut(place) {
                Arc::make_mut(shard).entry(Arc::clone(&grant.subject)).or_default().push(Arc::clone(grant));
                self.len += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, grant: &Grant) {
        let place = self.place(&grant.subject);
        let Some(shard) = self.shards.get_mut(place) else { return };
        if !shard.get(&grant.subject).is_some_and(|grants| grants.iter().any(|known| known.id == grant.id)) {
            return;
        }
        let shard = Arc::make_mut(shard);
        if let Some(grants) = shard.get_mut(&grant.subject) {
            grants.retain(|known| known.id != grant.id);
            self.len -= 1;
            if grants.is_empty() {
                shard.remove(&grant.subject);
            }
        }
    }
}

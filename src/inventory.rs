//! What was observed: `credentials`, who presented which first; `seen`, every principal and what it did, which `file` keeps
//! over a restart. Here that is merged with the registry: who owns it, what it might do and does not, and who never came.

pub mod credentials;
mod file;
pub mod seen;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use self::{
    file::FileError,
    seen::{Seen, Sighting},
};
use crate::{
    clock::Now,
    config,
    workload::{Registry, Standing, Workload},
};

/// Sightings that are copied at a time: who looks through all of them must not keep those waiting who note new ones.
const CHUNK: usize = 256;

/// What was seen, and the file that it survives in, where there is one.
#[derive(Debug)]
pub struct Inventory {
    pub seen: Seen,
    file: Option<PathBuf>,
    came: Mutex<Option<Came>>,
}

/// Patterns of the registry of one policy that somebody was seen of.
#[derive(Debug)]
struct Came {
    policy: Arc<str>,
    patterns: Arc<HashSet<Arc<str>>>,
    at: Instant,
    took: Duration,
}

/// Why the file of `inventory.file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("`{}` (`inventory.file`) cannot be used", path.display())]
pub struct InventoryError {
    path: PathBuf,
    source: FileError,
}

impl Inventory {
    /// Reads what the file has, if there is one.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn open(config: &config::Inventory) -> Result<Self, InventoryError> {
        let inventory = Self { seen: Seen::new(config.max), file: config.file.clone(), came: Mutex::default() };
        if let Some(path) = &config.file {
            file::read(path, &inventory.seen).map_err(|source| InventoryError { path: path.clone(), source })?;
        }
        Ok(inventory)
    }

    /// The patterns of the registry that somebody was seen of; `policy` is the digest of the set that it is in. To find them all
    /// names are looked at, so what was found stands for ten times as long as that took: pages of a list share it.
    pub fn came(&self, registry: &Registry, policy: &Arc<str>) -> Arc<HashSet<Arc<str>>> {
        let mut came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let stands = |came: &&Came| came.policy == *policy && began.duration_since(came.at) < came.took * 10;
        if let Some(came) = came.as_ref().filter(stands) {
            return Arc::clone(&came.patterns);
        }
        let patterns = Arc::new(patterns_that_came(&self.seen, registry));
        *came = Some(Came { policy: Arc::clone(policy), patterns: Arc::clone(&patterns), at: began, took: began.elapsed() });
        patterns
    }

    /// Writes the file, where there is one and something has come.
    ///
    /// # Errors
    /// Where it cannot be written; then the old one is still there.
    pub fn save(&self) -> Result<(), InventoryError> {
        let Some(path) = self.file.as_ref().filter(|_| self.seen.take_changed()) else { return Ok(()) };
        file::write(path, &self.seen).map_err(|source| {
            self.seen.set_changed();
            InventoryError { path: path.clone(), source: source.into() }
        })
    }
}

/// One principal, or one entry of the registry that nobody was seen of.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where nobody was seen, the entry as the registry writes it, which may be a pattern.
    pub principal: Arc<str>,
    pub sighting: Option<Sighting>,
    pub registration: Option<Registration>,
}

/// What the registry has about a principal.
#[derive(Debug, Clone)]
pub struct Registration {
    /// The SPIFFE ID or pattern that its entry is under.
    pub entry: Arc<str>,
    pub workload: Arc<Workload>,
}

/// What is noticed about an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Nobody is known to answer for it.
    Unowned,
    /// It was seen, and the registry has no entry of it.
    Unregistered,
    ThirdParty,
    /// Not seen for long, or registered and never seen.
    Stale,
    /// It was used after it should have been.
    Overdue,
    /// Its registration has expired, or is not active.
    Ended,
}

impl Finding {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unowned => "unowned",
            Self::Unregistered => "unregistered",
            Self::ThirdParty => "third_party",
            Self::Stale => "stale",
            Self::Overdue => "overdue",
            Self::Ended => "ended",
        }
    }
}

impl Identity {
    /// `stale` is how long one may not be seen.
    pub fn findings(&self, stale: Duration, now: Now) -> Vec<Finding> {
        let workload = self.registration.as_ref().map(|registration| &registration.workload);
        let owner = workload.and_then(|workload| workload.owner.as_ref());
        let last = self.sighting.as_ref().map(|sighting| sighting.last);
        let found = [
            (Finding::Unowned, owner.is_none_or(|owner| owner.is_empty())),
            (Finding::Unregistered, workload.is_none()),
            (Finding::ThirdParty, workload.is_some_and(|workload| workload.third_party)),
            (Finding::Stale, last.is_none_or(|last| last.after(stale) < now)),
            (Finding::Overdue, self.sighting.as_ref().is_some_and(|sighting| sighting.late.is_some())),
            (Finding::Ended, workload.is_some_and(|workload| workload.standing(now) != Standing::Active)),
        ];
        found.into_iter().filter(|(_, holds)| *holds).map(|(finding, _)| finding).collect()
    }

    /// Of the actions that it may do, those that it never did.
    pub fn unused(&self, allowed: &[Arc<str>]) -> Vec<Arc<str>> {
        let used = self.sighting.iter().flat_map(|sighting| &sighting.actions).map(|used| &*used.action);
        let used: HashSet<&str> = used.collect();
        allowed.iter().filter(|action| !used.contains(&***action)).cloned().collect()
    }
}

/// One identity by its name: a principal that was seen or that the registry would know, or an entry as it is written there.
pub fn find(seen: &Seen, registry: &Registry, principal: &str) -> Option<Identity> {
    let (sighting, registration) = (seen.find(principal), registered(registry, principal));
    let entry = || registry.entries().find(|(entry, _)| &***entry == principal);
    let registration = registration
        .or_else(|| entry().map(|(entry, workload)| Registration { entry: Arc::clone(entry), workload: Arc::clone(workload) }));
    (sighting.is_some() || registration.is_some()).then(|| Identity { principal: principal.into(), sighting, registration })
}

/// Identities after `after` that begin with `prefix`, in the order of their names, as many as `limit` of those `wanted`.
/// `came` are the patterns of the registry that somebody was seen of.
pub fn list(
    seen: &Seen,
    registry: &Registry,
    came: &HashSet<Arc<str>>,
    after: Option<&str>,
    prefix: &str,
    limit: usize,
    wanted: impl Fn(&Identity) -> bool,
) -> Vec<Identity> {
    let is_after = |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
    let mut entries: Vec<_> = registry.entries().filter(|(entry, _)| is_after(entry)).collect();
    entries.sort_unstable_by_key(|(entry, _)| *entry);
    let mut entries = entries.into_iter().peekable();
    let mut found = Vec::new();
    let mut take = |identity: Identity| {
        if wanted(&identity) {
            found.push(identity);
        }
        found.len() < limit
    };
    let mut came_by = |until: Option<&str>, take: &mut dyn FnMut(Identity) -> bool| {
        while let Some((entry, workload)) = entries.next_if(|(entry, _)| until.is_none_or(|until| &***entry < until)) {
            let has_come = if is_pattern(entry) { came.contains(entry) } else { seen.knows(entry) };
            if !has_come {
                let registration = Registration { entry: Arc::clone(entry), workload: Arc::clone(workload) };
                let identity = Identity { principal: Arc::clone(entry), sighting: None, registration: Some(registration) };
                if !take(identity) {
                    return false;
                }
            }
        }
        true
    };
    let mut last: Option<Arc<str>> = after.map(Into::into);
    loop {
        let chunk = seen.after(last.as_deref(), prefix, CHUNK);
        let Some(end) = chunk.last() else { break };
        last = Some(Arc::clone(&end.principal));
        for sighting in chunk {
            let principal = Arc::clone(&sighting.principal);
            if !came_by(Some(&principal), &mut take) {
                return found;
            }
            let registration = registered(registry, &principal);
            if !take(Identity { principal, sighting: Some(sighting), registration }) {
                return found;
            }
        }
    }
    came_by(None, &mut take);
    found
}

fn registered(registry: &Registry, principal: &str) -> Option<Registration> {
    let (entry, workload) = registry.entry(principal)?;
    Some(Registration { entry: Arc::clone(entry), workload: Arc::clone(workload) })
}

/// The patterns of the registry that somebody was seen of.
fn patterns_that_came(seen: &Seen, registry: &Registry) -> HashSet<Arc<str>> {
    let mut came = HashSet::new();
    let open = registry.entries().filter(|(entry, _)| is_pattern(entry)).count();
    let mut last: Option<Arc<str>> = None;
    while came.len() < open {
        let names = seen.names_after(last.as_deref(), "", CHUNK);
        let found = names.iter().filter_map(|name| registry.entry(name)).map(|(entry, _)| entry);
        came.extend(found.filter(|entry| is_pattern(entry)).cloned());
        match names.last() {
            Some(name) => last = Some(Arc::clone(name)),
            None => break,
        }
    }
    came
}

fn is_pattern(entry: &str) -> bool {
    entry.contains('*')
}

#[cfg(test)]
mod tests;

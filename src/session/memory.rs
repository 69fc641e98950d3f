//! Sessions in this process: sharded by principal, everything of one principal behind one lock, each table bounded so
//! that a principal can only push out what is its own.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use foldhash::quality::RandomState;

use super::{
    Bounds, Glance, Key, Listed, Source, Step, Stepped, View, Who,
    file::{File, FileError, Line},
    nanos,
    principal::{Doing, Marks, Principal},
};
use crate::{
    action::Entry,
    clock::Now,
    verdict::{Decision, Reason, SignalName},
};

const SHARDS: usize = 256;
/// Shortest time between two looks for room in a full shard, in nanoseconds.
const SWEEP: u64 = 1_000_000_000;
/// A label is written to the file again once its end has moved by this share of its life.
const EXTENSION: u64 = 10;

#[derive(Debug)]
pub(super) struct Memory {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    names: RwLock<Names>,
    bounds: Bounds,
    label_ttl: Duration,
    pub(super) file: Option<File>,
    /// Sessions and principals of all shards.
    sessions: AtomicUsize,
    principals: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    principals: HashMap<Arc<str>, Box<Principal>, RandomState>,
    /// When expired ones were looked for last.
    swept: u64,
}

/// Names of actions as numbers; 0 is an action that is not known.
#[derive(Debug)]
struct Names {
    numbers: HashMap<Arc<str>, u32, RandomState>,
    names: Arc<Vec<Arc<str>>>,
}

impl Default for Names {
    fn default() -> Self {
        Self { numbers: HashMap::default(), names: Arc::new(vec![Arc::from("")]) }
    }
}

/// An intent that was appended, until its outcome is known.
#[derive(Debug)]
#[must_use = "an intent without an outcome stands"]
pub struct Intent {
    principal: Arc<str>,
    marks: Marks,
}

/// Name of a session, as in [`View::id`]: the first eight bytes of a digest, the same in each process.
pub fn id(principal: &str, key: &Key) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [principal, key.source.as_str(), &key.id] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Memory {
    pub(super) fn new(bounds: Bounds, label_ttl: Duration) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            names: RwLock::default(),
            bounds,
            label_ttl,
            file: None,
            sessions: AtomicUsize::new(0),
            principals: AtomicUsize::new(0),
        }
    }

    /// Takes over what `file` remembers, and lets it remember from now on.
    pub(super) fn keep_in(&mut self, file: File, now: Now) -> Result<(), FileError> {
        for line in file.read()? {
            let line = line?;
            self.with(line.principal(), now.ns, |principal| {
                line.restore(principal, &self.bounds, now.ns, |action| self.number(&Arc::from(action)));
            });
        }
        self.file = Some(file);
        self.sweep(now);
        self.save(now)
    }

    fn shard(&self, principal: &str) -> MutexGuard<'_, Shard> {
        let place = usize::try_from(self.hasher.hash_one(principal) % SHARDS as u64).unwrap_or_default();
        // There are always as many shards as that.
        #[expect(clippy::indexing_slicing, reason = "the remainder of the number of shards")]
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on a principal, made where there is room for it, and keeps count of its sessions.
    fn with<T>(&self, name: &Arc<str>, now: u64, work: impl FnOnce(&mut Principal) -> T) -> Option<T> {
        let mut shard = self.shard(name);
        if !shard.principals.contains_key(name) {
            let most = self.bounds.max.div_ceil(SHARDS);
            if shard.principals.len() >= most && now >= shard.swept.saturating_add(SWEEP) {
                self.sweep_shard(&mut shard, now);
            }
            // What others did is not forgotten for a newcomer.
            if shard.principals.len() >= most {
                return None;
            }
            shard.principals.insert(Arc::clone(name), Box::default());
            self.principals.fetch_add(1, Ordering::Relaxed);
        }
        shard.principals.get_mut(name).map(|principal| self.counted(principal, work))
    }

    /// The same on a principal that is there.
    fn with_known<T>(&self, name: &Arc<str>, work: impl FnOnce(&mut Principal) -> T) -> Option<T> {
        self.shard(name).principals.get_mut(name).map(|principal| self.counted(principal, work))
    }

    // INVARIANT: whatever adds or removes sessions goes through here, so that their number is right.
    fn counted<T>(&self, principal: &mut Principal, work: impl FnOnce(&mut Principal) -> T) -> T {
        let before = principal.sessions.len();
        let done = work(principal);
        let after = principal.sessions.len();
        if after >= before {
            self.sessions.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.sessions.fetch_sub(before - after, Ordering::Relaxed);
        }
        done
    }

    fn number(&self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.names.read().unwrap_or_else(PoisonError::into_inner).numbers.get(name) {
            return *number;
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let Names { numbers, names } = &mut *names;
        *numbers.entry(Arc::clone(name)).or_insert_with(|| {
            let all = Arc::make_mut(names);
            all.push(Arc::clone(name));
            u32::try_from(all.len() - 1).unwrap_or_default()
        })
    }

    fn names(&self) -> Arc<Vec<Arc<str>>> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner).names)
    }

    pub(super) fn look(&self, who: &Who<'_>, action: Option<&Arc<str>>, window: Duration, now: Now) -> Glance {
        let action = action.map(|action| self.number(action));
        let glance = self.with_known(who.principal, |principal| {
            principal.called(window, now.ns);
            principal.look(who, action, window, now.ns)
        });
        glance.unwrap_or_default()
    }

    pub(super) fn step(&self, step: &Step<'_>) -> Result<Stepped, Reason> {
        let Step { who, entry, class, resource_hash, wants_view, sole: _, now } = *step;
        let action = entry.map_or(0, |entry| self.number(&entry.name));
        let relevant = entry.is_some_and(|entry| entry.is_path_relevant());
        let names = wants_view.then(|| self.names());
        let doing = Doing { action, adds: entry.map_or(&[], |entry| &entry.adds), class, resource_hash, relevant };
        let stepped = self.with(who.principal, now.ns, |principal| {
            principal.session(who.key, who.id, &self.bounds, now.ns);
            let view = names.map(|names| principal.view(who.id, &names, now.ns));
            let (labels, marks) = principal.step(&who, doing, &self.bounds, now.ns)?;
            let lines = match (&self.file, entry) {
                (Some(_), Some(entry)) => lines(principal, &who, entry, action, now.ns),
                _ => Vec::new(),
            };
            let intent = Intent { principal: Arc::clone(who.principal), marks };
            Ok((Stepped { labels, complete: !principal.overflowed, view, session: who.id, intent }, lines))
        });
        let (stepped, lines) = stepped.unwrap_or(Err(Reason::SessionLimit))?;
        if let Some(file) = &self.file {
            // It stands all the same: what cannot be written must not be shed either.
            file.append(&lines).map_err(|_| Reason::SessionUnavailable)?;
        }
        self.make_room();
        Ok(stepped)
    }

    /// Where there are too many sessions, a principal with most of them loses its oldest: the one with most in one shard, as
    /// to know that of all would cost each step something. Who has one session keeps it.
    fn make_room(&self) {
        static PLACE: AtomicUsize = AtomicUsize::new(0);
        for _ in 0..SHARDS {
            if self.sessions.load(Ordering::Relaxed) <= self.bounds.max {
                return;
            }
            let place = PLACE.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let Some(shard) = self.shards.get(place) else { return };
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let several = shard.principals.values_mut().filter(|principal| principal.sessions.len() > 1);
            if let Some(most) = several.max_by_key(|principal| principal.sessions.len()) {
                self.counted(most, Principal::evict);
            }
        }
    }

    pub(super) fn outcome(&self, intent: Intent, decision: Decision, now: Now) {
        let Intent { principal, marks } = intent;
        self.with_known(&principal, |principal| principal.outcome(marks, decision, now.ns));
    }

    pub(super) fn denied(&self, principal: &Arc<str>) {
        self.with_known(principal, Principal::denied);
    }

    pub(super) fn label(&self, principal: &Arc<str>, labels: &[Arc<str>], now: Now) {
        let until = now.ns.saturating_add(nanos(self.label_ttl));
        let added = self.with(principal, now.ns, |principal| {
            for label in labels {
                principal.overflowed |= !principal.own.add(label, until, None, now.ns);
            }
        });
        if let (Some(()), Some(file)) = (added, &self.file) {
            let lines: Vec<Line> = labels.iter().map(|label| Line::label(principal, None, label, until)).collect();
            if let Err(error) = file.append(&lines) {
                tracing::error!(%error, "a label of a policy's answer was not written to the file of the sessions");
            }
        }
    }

    pub(super) fn note(&self, principal: &Arc<str>, signals: impl Iterator<Item = SignalName>, now: Now) {
        let mut signals = signals.peekable();
        if signals.peek().is_some() {
            self.with_known(principal, |principal| signals.for_each(|signal| principal.note(signal, now.ns)));
        }
    }

    pub(super) fn end(&self, principal: &Arc<str>, key: &Key, now: Now) -> bool {
        let id = id(principal, key);
        let ended = self.with_known(principal, |principal| principal.end(key, id, now.ns)).unwrap_or_default();
        if let (true, Some(file)) = (ended && key.source != Source::Ambient, &self.file)
            && let Err(error) = file.append(&[Line::ended(principal, key, now.ns)])
        {
            tracing::error!(%error, "the end of a session was not written to its file");
        }
        ended
    }

    pub(super) fn has_ended(&self, principal: &Arc<str>, id: u64) -> bool {
        let ended = |principal: &mut Principal| principal.sessions.iter().any(|session| session.id == id && session.ended);
        self.with_known(principal, ended).unwrap_or_default()
    }

    pub(super) fn list(&self, after: Option<u64>, limit: usize, now: Now, wanted: impl Fn(&Listed) -> bool) -> Vec<Listed> {
        let mut found = std::collections::BTreeMap::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, principal) in &shard.principals {
                for session in principal.sessions.iter().filter(|session| !session.is_over(&self.bounds, now.ns)) {
                    // Nothing is made of what lies outside of the page.
                    let late = found.len() >= limit && found.last_key_value().is_some_and(|(last, _)| session.id > *last);
                    if late || after.is_some_and(|after| session.id <= after) {
                        continue;
                    }
                    let listed = session.listed(name, &principal.own, now.ns);
                    if wanted(&listed) {
                        found.insert(session.id, listed);
                        if found.len() > limit {
                            found.pop_last();
                        }
                    }
                }
            }
        }
        found.into_values().collect()
    }

    pub(super) fn count(&self, now: Now, wanted: impl Fn(&str) -> bool) -> usize {
        let of_one = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let lives = |principal: &Principal| principal.sessions.iter().any(|session| !session.is_over(&self.bounds, now.ns));
            shard.principals.iter().filter(|(name, principal)| wanted(name) && lives(principal)).count()
        };
        self.shards.iter().map(of_one).sum()
    }

    pub(super) fn show(&self, id: u64, now: Now) -> Option<(Listed, View)> {
        let names = self.names();
        self.shards.iter().find_map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.principals.iter().find_map(|(name, principal)| {
                let session = principal.sessions.iter().find(|session| session.id == id)?;
                Some((session.listed(name, &principal.own, now.ns), principal.view(id, &names, now.ns)))
            })
        })
    }

    pub(super) fn sweep(&self, now: Now) {
        for shard in &self.shards {
            self.sweep_shard(&mut shard.lock().unwrap_or_else(PoisonError::into_inner), now.ns);
        }
    }

    fn sweep_shard(&self, shard: &mut Shard, now: u64) {
        shard.swept = now;
        let before = shard.principals.len();
        shard.principals.retain(|_, principal| self.counted(principal, |principal| principal.sweep(&self.bounds, now)));
        self.principals.fetch_sub(before - shard.principals.len(), Ordering::Relaxed);
    }

    /// Writes all anew. What is acquired meanwhile goes to a file beside it, which is read too.
    pub(super) fn save(&self, now: Now) -> Result<(), FileError> {
        let Some(file) = &self.file else { return Ok(()) };
        let names = self.names();
        file.replace(|write| {
            self.shards.iter().try_for_each(|shard| {
                let lines = {
                    let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                    let principals = shard.principals.iter();
                    principals.flat_map(|(name, principal)| Line::all(name, principal, &names, now.ns)).collect::<Vec<_>>()
                };
                write(&lines)
            })
        })
    }

    pub(super) fn census(&self) -> super::Census {
        super::Census { sessions: self.sessions.load(Ordering::Relaxed), principals: self.principals.load(Ordering::Relaxed) }
    }
}

/// What must be in the file before the step is answered: labels that are new or live clearly longer, and the count of what
/// paths are asked about. Of other actions the first one is written, and the rest when all is.
fn lines(principal: &mut Principal, who: &Who<'_>, entry: &Entry, action: u32, now: u64) -> Vec<Line> {
    let mut lines = Vec::new();
    for adds in &entry.adds {
        let of_session = adds.for_session && who.key.source.is_vouched();
        let behaviour = if of_session {
            principal.sessions.iter_mut().find(|session| session.key == *who.key).map(|session| &mut session.own)
        } else {
            Some(&mut principal.own)
        };
        let label = behaviour.and_then(|behaviour| behaviour.labels.iter_mut().find(|label| label.name == adds.label));
        if let Some(label) = label {
            let end = label.end();
            if end > label.written.saturating_add(end.saturating_sub(now) / EXTENSION) {
                label.written = end;
                lines.push(Line::label(who.principal, of_session.then_some(who.key), &adds.label, end));
            }
        }
    }
    let first =
        principal.own.counts.iter().any(|(counted, tally)| *counted == action && tally.at(now).is_some_and(|count| count.n == 1));
    if first || entry.is_path_relevant() {
        lines.push(Line::count(who.principal, &entry.name, now));
    }
    lines
}

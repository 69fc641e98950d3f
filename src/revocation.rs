//! What is no longer good: an identity, a certificate, a token, a session, or all that was issued before an instant. Each
//! revocation has an end, so that the set stays bounded. They are kept in the control log (`state`), and compiled into a
//! snapshot that a call reads without waiting (`snapshot`); what one selects is `selector`'s.

mod selector;
mod snapshot;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, serde_as};
use uuid::Uuid;

pub use self::{
    selector::{Selector, SelectorError},
    snapshot::{Backdates, Facts, Snapshot},
};
use crate::{
    clock::Now,
    config::State,
    state::{Appended, Entry, Log, StateError},
};

/// How long a revocation counts where nobody says how long, and at most.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
pub const MAX_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// Revocations that count at a time.
pub const MAX: usize = 250_000;
/// Longest reason, and longest id that a caller gives its request, in bytes.
pub const MAX_REASON: usize = 1024;
pub const MAX_REQUEST_ID: usize = 128;

/// How far in the future a floor may lie, for clocks that differ, in seconds.
const FUTURE_S: i64 = 60;
/// Kind of our entries in the control log.
const REVOKE: &str = "revoke";
/// How often an append is tried while another process appends too.
const TRIES: usize = 16;

/// A statement that something is no longer good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    pub id: Uuid,
    /// Its number in the control log.
    pub rev: u64,
    pub selector: Selector,
    /// A floor: only what was issued before it is refused. In seconds since the Unix epoch.
    pub issued_before: Option<i64>,
    pub reason: String,
    /// Who revoked: `uid 1000`.
    pub author: String,
    pub at: Now,
    /// It does not count from then on.
    pub expires_at: Now,
    /// What the author called the request, so that it is carried out once however often it comes.
    pub request_id: String,
}

impl Revocation {
    pub fn is_live(&self, now: Now) -> bool {
        now < self.expires_at
    }

    /// For the record and the log of an operator.
    pub fn text(&self) -> String {
        let floor = self.issued_before.map(|before| format!(" issued before {}", seconds(before).rfc3339()));
        format!("revocation {} of {}{}: {}", self.id, self.selector, floor.unwrap_or_default(), self.reason)
    }
}

/// What somebody wants revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Empty: the request has no name, and is carried out each time.
    pub request_id: String,
    pub selector: Selector,
    pub issued_before: Option<i64>,
    pub reason: String,
    pub author: String,
    /// How long it counts.
    pub life: Duration,
}

/// A revocation that counts.
#[derive(Debug, Clone)]
pub struct Revoked {
    pub revocation: Arc<Revocation>,
    pub log: Uuid,
    /// It had been carried out before, and was not again.
    pub repeated: bool,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    #[error("`request_id` was another request's; choose a new one")]
    OtherRequest,
    #[error("{MAX} revocations count already; revoke by prefix, trust domain or owner instead, or for a shorter time")]
    Full,
    #[error("an instant before which things were issued goes with a SPIFFE ID, a prefix, a trust domain or an owner")]
    NoFloor,
    #[error("the instant before which things were issued lies in the future; leave it out to refuse all")]
    FutureFloor,
    #[error("give a reason, of at most {MAX_REASON} bytes")]
    Reason,
    #[error("`request_id` has at most {MAX_REQUEST_ID} bytes")]
    RequestId,
    #[error("a revocation counts for a time above zero, and for 366 days at most")]
    Life,
    #[error("other processes write to the control log all the time; try again")]
    Busy,
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why the revocations cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("entry {rev} of the control log is of a kind (`{kind}`) that this build does not know; start a newer one")]
    UnknownKind { rev: u64, kind: String },
    #[error("entry {rev} of the control log cannot be read by this build; start a newer one")]
    Unreadable { rev: u64, source: serde_json::Error },
}

/// All revocations of this process.
#[derive(Debug)]
pub struct Revocations {
    snapshot: ArcSwap<Snapshot>,
    ledger: Mutex<Ledger>,
    durable: bool,
}

/// What only writers need.
#[derive(Debug)]
struct Ledger {
    log: Log,
    /// Those that count, by their number.
    live: BTreeMap<u64, Arc<Revocation>>,
    /// The same, by the name of the request.
    requests: HashMap<String, Arc<Revocation>, RandomState>,
    /// When the next one ends.
    next_end: Now,
}

impl Revocations {
    /// Reads what counts from the control log. `signing_key` is `control.signing_key`.
    ///
    /// # Errors
    /// When the log is not whole, or says what this build does not understand.
    pub fn open(config: &State, signing_key: Option<&std::path::PathBuf>, now: Now) -> Result<Self, RevocationError> {
        let (log, entries) = Log::open(config, signing_key)?;
        let durable = log.is_durable();
        let mut ledger = Ledger { log, live: BTreeMap::new(), requests: HashMap::default(), next_end: END };
        let mut snapshot = Snapshot::default();
        ledger.take_in(entries, &mut snapshot, now)?;
        Ok(Self { snapshot: ArcSwap::from_pointee(snapshot), ledger: Mutex::new(ledger), durable })
    }

    /// What counts now.
    pub fn current(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Whether revocations survive a restart.
    pub const fn is_durable(&self) -> bool {
        self.durable
    }

    /// Revokes: it is on the disk, and counts for each call from then on, when this returns. It blocks.
    ///
    /// # Errors
    /// When the request is not in order, or the log cannot be written; nothing is revoked then.
    pub fn revoke(&self, asked: &Asked, now: Now) -> Result<Revoked, RevokeError> {
        let Asked { request_id, selector, issued_before, reason, author, life } = asked;
        if issued_before.is_some() && !selector.is_of_a_subject() {
            return Err(RevokeError::NoFloor);
        }
        if issued_before.is_some_and(|before| before > now.seconds().saturating_add(FUTURE_S)) {
            return Err(RevokeError::FutureFloor);
        }
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(RevokeError::Reason);
        }
        if request_id.len() > MAX_REQUEST_ID {
            return Err(RevokeError::RequestId);
        }
        if life.is_zero() || *life > MAX_LIFE {
            return Err(RevokeError::Life);
        }
        let mut ledger = self.ledger();
        let revocation = Revocation {
            id: Uuid::now_v7(),
            rev: 0,
            selector: selector.clone(),
            issued_before: *issued_before,
            reason: reason.clone(),
            author: author.clone(),
            at: now,
            expires_at: Now { ns: now.ns.saturating_add(u64::try_from(life.as_nanos()).unwrap_or(u64::MAX)) },
            request_id: request_id.clone(),
        };
        let body = serde_json::to_vec(&Body::from(&revocation)).unwrap_or_default();
        for _ in 0..TRIES {
            if let Some(known) = ledger.requests.get(request_id).filter(|_| !request_id.is_empty()) {
                return match is_same(known, asked) {
                    true => Ok(Revoked { revocation: Arc::clone(known), log: self.log(), repeated: true }),
                    false => Err(RevokeError::OtherRequest),
                };
            }
            if ledger.live.len() >= MAX {
                return Err(RevokeError::Full);
            }
            match ledger.log.append(REVOKE, &body)? {
                Appended::Behind(entries) => self.put(&mut ledger, entries, now),
                Appended::Done(epoch) => {
                    let revocation = Arc::new(Revocation { rev: epoch.rev, ..revocation });
                    let mut snapshot = Snapshot::clone(&self.snapshot.load());
                    ledger.add(&revocation, &mut snapshot);
                    snapshot.epoch = Some(epoch);
                    self.snapshot.store(Arc::new(snapshot));
                    return Ok(Revoked { revocation, log: epoch.log, repeated: false });
                }
            }
        }
        Err(RevokeError::Busy)
    }

    /// Those that count, in the order of their numbers after `after`, at most `limit` of those that `wanted` takes.
    pub fn list(&self, after: u64, limit: usize, now: Now, wanted: impl Fn(&Revocation) -> bool) -> Vec<Arc<Revocation>> {
        let ledger = self.ledger();
        let later = ledger.live.range(after.saturating_add(1)..).map(|(_, revocation)| revocation);
        later.filter(|revocation| revocation.is_live(now) && wanted(revocation)).take(limit).cloned().collect()
    }

    /// One that counts.
    pub fn find(&self, id: Uuid, now: Now) -> Option<Arc<Revocation>> {
        self.list(0, 1, now, |revocation| revocation.id == id).pop()
    }

    /// Takes in what another process has revoked, and forgets what has ended. It blocks.
    ///
    /// # Errors
    /// When the log cannot be read any more; what was read stays in force.
    pub fn follow(&self, now: Now) -> Result<(), StateError> {
        let mut ledger = self.ledger();
        let missed = ledger.log.catch_up();
        if let Ok(missed) = &missed
            && !missed.is_empty()
        {
            self.put(&mut ledger, missed.clone(), now);
        }
        if now >= ledger.next_end {
            let mut snapshot = Snapshot::clone(&self.snapshot.load());
            ledger.sweep(&mut snapshot, now);
            self.snapshot.store(Arc::new(snapshot));
        }
        missed.map(drop)
    }

    /// Brings into force what another process has appended. What of it cannot be understood is told of: that process is a
    /// newer build, and this one is to end.
    fn put(&self, ledger: &mut Ledger, entries: Vec<Entry>, now: Now) {
        let mut snapshot = Snapshot::clone(&self.snapshot.load());
        if let Err(error) = ledger.take_in(entries, &mut snapshot, now) {
            tracing::error!(%error, "what another process has written to the control log is not understood");
        }
        self.snapshot.store(Arc::new(snapshot));
    }

    fn log(&self) -> Uuid {
        self.snapshot.load().epoch.map_or(Uuid::nil(), |epoch| epoch.log)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Takes in all that can be understood, and tells of the first that cannot.
    fn take_in(&mut self, entries: Vec<Entry>, snapshot: &mut Snapshot, now: Now) -> Result<(), RevocationError> {
        snapshot.epoch = self.log.epoch();
        let mut taken = Ok(());
        for entry in entries {
            match read(entry) {
                Ok(revocation) if revocation.is_live(now) => self.add(&Arc::new(revocation), snapshot),
                Ok(_) => {}
                Err(error) => taken = taken.and(Err(error)),
            }
        }
        taken
    }

    fn add(&mut self, revocation: &Arc<Revocation>, snapshot: &mut Snapshot) {
        snapshot.add(revocation);
        self.live.insert(revocation.rev, Arc::clone(revocation));
        if !revocation.request_id.is_empty() {
            self.requests.insert(revocation.request_id.clone(), Arc::clone(revocation));
        }
        self.next_end = self.next_end.min(revocation.expires_at);
    }

    fn sweep(&mut self, snapshot: &mut Snapshot, now: Now) {
        let Self { live, requests, next_end, .. } = self;
        *next_end = END;
        live.retain(|_, revocation| {
            let stays = revocation.is_live(now);
            match stays {
                true => *next_end = (*next_end).min(revocation.expires_at),
                false => {
                    snapshot.remove(revocation);
                    requests.remove(&revocation.request_id);
                }
            }
            stays
        });
    }
}

fn read(Entry { rev, kind, body }: Entry) -> Result<Revocation, RevocationError> {
    if kind != REVOKE {
        return Err(RevocationError::UnknownKind { rev, kind });
    }
    let body: Body = serde_json::from_slice(&body).map_err(|source| RevocationError::Unreadable { rev, source })?;
    Ok(body.revocation(rev))
}

/// Later than anything.
const END: Now = Now { ns: u64::MAX };

fn is_same(known: &Revocation, asked: &Asked) -> bool {
    let Asked { request_id: _, selector, issued_before, reason, author, life } = asked;
    let lives = known.expires_at.since_epoch().saturating_sub(known.at.since_epoch());
    known.selector == *selector
        && known.issued_before == *issued_before
        && known.reason == *reason
        && known.author == *author
        && lives == *life
}

fn seconds(seconds: i64) -> Now {
    Now::from_seconds(u64::try_from(seconds).unwrap_or_default())
}

/// The body of an entry. What stands in a log is read for ever: add to it, and change nothing.
#[serde_as]
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde_as(as = "DisplayFromStr")]
    id: Uuid,
    selector: Selector,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued_before: Option<i64>,
    reason: String,
    author: String,
    at_ns: u64,
    expires_at_ns: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    request_id: String,
}

impl From<&Revocation> for Body {
    fn from(revocation: &Revocation) -> Self {
        let Revocation { id, rev: _, selector, issued_before, reason, author, at, expires_at, request_id } = revocation.clone();
        Self { id, selector, issued_before, reason, author, at_ns: at.ns, expires_at_ns: expires_at.ns, request_id }
    }
}

impl Body {
    fn revocation(self, rev: u64) -> Revocation {
        let Self { id, selector, issued_before, reason, author, at_ns, expires_at_ns, request_id } = self;
        let (at, expires_at) = (Now { ns: at_ns }, Now { ns: expires_at_ns });
        Revocation { id, rev, selector, issued_before, reason, author, at, expires_at, request_id }
    }
}

#[cfg(test)]
mod tests;

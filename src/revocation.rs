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
    identity::author::Person,
    state::{Entry, Epoch, Fact, Journal, StateError, Unread},
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
/// How long a request to restore waits for somebody else, and how many may wait.
const RESTORE_LIFE: Duration = Duration::from_secs(24 * 3600);
const MAX_RESTORES: usize = 1_000;
/// Kinds of our entries in the control log.
const REVOKE: &str = "revoke";
const RESTORE_REQUEST: &str = "restore_request";
const RESTORE: &str = "restore";

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
    #[error(transparent)]
    State(#[from] StateError),
}

/// What somebody asks to have restored before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreAsked {
    pub revocation: Uuid,
    pub reason: String,
    pub by: Person,
}

/// A request to end a revocation, which waits for somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    pub id: Uuid,
    pub revocation: Uuid,
    pub reason: String,
    pub by: Person,
    pub at: Now,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("there is no such revocation, or not any more")]
    Unknown,
    #[error("there is no such request to restore, or not any more: it waits for a day")]
    UnknownRequest,
    #[error("who has asked to restore does not approve it")]
    Requester,
    #[error("give a reason, of at most {MAX_REASON} bytes")]
    Reason,
    #[error("as many requests to restore are open as there may be ({MAX_RESTORES})")]
    TooMany,
    #[error(transparent)]
    State(#[from] StateError),
}

/// All revocations of this process.
#[derive(Debug, Default)]
pub struct Revocations {
    snapshot: ArcSwap<Snapshot>,
    ledger: Mutex<Ledger>,
}

/// What only writers need.
#[derive(Debug, Default)]
struct Ledger {
    /// Those that count, by their number.
    live: BTreeMap<u64, Arc<Revocation>>,
    /// The same, by the name of the request.
    requests: HashMap<String, Arc<Revocation>, RandomState>,
    /// Requests to restore, by their id.
    restores: HashMap<Uuid, Restore, RandomState>,
    /// When the next one ends.
    next_end: Option<Now>,
}

impl Revocations {
    /// What counts now.
    pub fn current(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Revokes: it is on the disk, and counts for each call from then on, when this returns. It blocks.
    ///
    /// # Errors
    /// When the request is not in order, or the log cannot be written; nothing is revoked then.
    pub fn revoke(&self, journal: &Journal, asked: &Asked, now: Now) -> Result<Revoked, RevokeError> {
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
        let revocation = Revocation {
            id: Uuid::now_v7(),
            rev: 0,
            selector: selector.clone(),
            issued_before: *issued_before,
            reason: reason.clone(),
            author: author.clone(),
            at: now,
            expires_at: now.after(*life),
            request_id: request_id.clone(),
        };
        let body = serde_json::to_vec(&Body::from(&revocation)).unwrap_or_default();
        let mut known = None;
        let appended = journal.append(REVOKE, now, || {
            let ledger = self.ledger();
            known = ledger.requests.get(request_id).filter(|_| !request_id.is_empty()).cloned();
            match &known {
                Some(known) if is_same(known, asked) => Ok(None),
                Some(_) => Err(RevokeError::OtherRequest),
                None if ledger.live.len() >= MAX => Err(RevokeError::Full),
                None => Ok(Some(body.clone())),
            }
        })?;
        let (revocation, repeated) = match (appended, known) {
            (Some(epoch), _) => (Arc::new(Revocation { rev: epoch.rev, ..revocation }), false),
            (None, Some(known)) => (known, true),
            (None, None) => return Err(StateError::NotDurable.into()),
        };
        Ok(Revoked { revocation, log: journal.epoch().map_or(Uuid::nil(), |epoch| epoch.log), repeated })
    }

    /// Asks for the end of a revocation before its time. It blocks.
    ///
    /// # Errors
    /// When there is nothing to restore, or the log cannot be written.
    pub fn ask_to_restore(&self, journal: &Journal, asked: &RestoreAsked, now: Now) -> Result<Restore, RestoreError> {
        let RestoreAsked { revocation, reason, by } = asked.clone();
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(RestoreError::Reason);
        }
        let restore = Restore { id: Uuid::now_v7(), revocation, reason, by, at: now };
        journal.append(RESTORE_REQUEST, now, || {
            let ledger = self.ledger();
            ledger.find(revocation, now).ok_or(RestoreError::Unknown)?;
            if ledger.restores.len() >= MAX_RESTORES {
                return Err(RestoreError::TooMany);
            }
            Ok(Some(serde_json::to_vec(&RestoreBody::from(&restore)).unwrap_or_default()))
        })?;
        Ok(restore)
    }

    /// Ends a revocation that somebody else has asked to restore. It blocks.
    ///
    /// # Errors
    /// When nobody has asked, or who approves has; when the log cannot be written.
    pub fn restore(&self, journal: &Journal, request: Uuid, by: &Person, now: Now) -> Result<Arc<Revocation>, RestoreError> {
        let mut ended = None;
        journal.append(RESTORE, now, || {
            let ledger = self.ledger();
            let restore = ledger.restores.get(&request).filter(|restore| restore.is_open(now));
            let restore = restore.ok_or(RestoreError::UnknownRequest)?;
            if restore.by.is(by) {
                return Err(RestoreError::Requester);
            }
            ended = Some(ledger.find(restore.revocation, now).ok_or(RestoreError::Unknown)?);
            let body = RestoredBody { request, by: by.clone(), at_ns: now.ns };
            Ok(Some(serde_json::to_vec(&body).unwrap_or_default()))
        })?;
        ended.ok_or(RestoreError::Unknown)
    }

    /// Those that count, in the order of their numbers after `after`, at most `limit` of those that `wanted` takes.
    pub fn list(&self, after: u64, limit: usize, now: Now, wanted: impl Fn(&Revocation) -> bool) -> Vec<Arc<Revocation>> {
        let ledger = self.ledger();
        let later = ledger.live.range(after.saturating_add(1)..).map(|(_, revocation)| revocation);
        later.filter(|revocation| revocation.is_live(now) && wanted(revocation)).take(limit).cloned().collect()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fact for Revocations {
    fn take(&self, entries: &[Entry], epoch: Option<Epoch>, now: Now) -> Result<(), Unread> {
        let mut ledger = self.ledger();
        let (mut snapshot, mut taken) = (Snapshot::clone(&self.snapshot.load()), Ok(()));
        for entry in entries.iter().filter(|entry| self.takes(&entry.kind)) {
            if let Err(source) = ledger.take(entry, &mut snapshot, now) {
                taken = taken.and(Err(Unread::Unreadable { rev: entry.rev, source }));
            }
        }
        snapshot.epoch = epoch;
        self.snapshot.store(Arc::new(snapshot));
        taken
    }

    fn takes(&self, kind: &str) -> bool {
        [REVOKE, RESTORE_REQUEST, RESTORE].contains(&kind)
    }

    fn sweep(&self, now: Now) {
        let mut ledger = self.ledger();
        ledger.restores.retain(|_, restore| restore.is_open(now));
        if ledger.next_end.is_some_and(|end| now >= end) {
            let mut snapshot = Snapshot::clone(&self.snapshot.load());
            ledger.sweep(&mut snapshot, now);
            self.snapshot.store(Arc::new(snapshot));
        }
    }
}

impl Ledger {
    fn take(&mut self, Entry { rev, kind, body }: &Entry, snapshot: &mut Snapshot, now: Now) -> Result<(), serde_json::Error> {
        match kind.as_str() {
            REVOKE => {
                let revocation = serde_json::from_slice::<Body>(body)?.revocation(*rev);
                if revocation.is_live(now) {
                    self.add(&Arc::new(revocation), snapshot);
                }
            }
            RESTORE_REQUEST => {
                let restore = serde_json::from_slice::<RestoreBody>(body)?.restore();
                self.restores.insert(restore.id, restore);
            }
            _ => {
                let RestoredBody { request, .. } = serde_json::from_slice(body)?;
                let restored = self.restores.remove(&request).and_then(|restore| self.find(restore.revocation, now));
                if let Some(revocation) = restored {
                    snapshot.remove(&revocation);
                    self.live.remove(&revocation.rev);
                    self.requests.remove(&revocation.request_id);
                }
            }
        }
        Ok(())
    }

    fn find(&self, id: Uuid, now: Now) -> Option<Arc<Revocation>> {
        self.live.values().find(|revocation| revocation.id == id && revocation.is_live(now)).cloned()
    }

    fn add(&mut self, revocation: &Arc<Revocation>, snapshot: &mut Snapshot) {
        snapshot.add(revocation);
        self.live.insert(revocation.rev, Arc::clone(revocation));
        if !revocation.request_id.is_empty() {
            self.requests.insert(revocation.request_id.clone(), Arc::clone(revocation));
        }
        self.next_end = earlier(self.next_end, revocation.expires_at);
    }

    fn sweep(&mut self, snapshot: &mut Snapshot, now: Now) {
        let Self { live, requests, next_end, .. } = self;
        *next_end = None;
        live.retain(|_, revocation| {
            let stays = revocation.is_live(now);
            match stays {
                true => *next_end = earlier(*next_end, revocation.expires_at),
                false => {
                    snapshot.remove(revocation);
                    requests.remove(&revocation.request_id);
                }
            }
            stays
        });
    }
}

impl Restore {
    fn is_open(&self, now: Now) -> bool {
        now < self.at.after(RESTORE_LIFE)
    }
}

fn earlier(known: Option<Now>, end: Now) -> Option<Now> {
    Some(known.map_or(end, |known| known.min(end)))
}

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

/// The body of a request to restore.
#[serde_as]
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreBody {
    #[serde_as(as = "DisplayFromStr")]
    id: Uuid,
    #[serde_as(as = "DisplayFromStr")]
    revocation: Uuid,
    reason: String,
    by: Person,
    at_ns: u64,
}

impl From<&Restore> for RestoreBody {
    fn from(restore: &Restore) -> Self {
        let Restore { id, revocation, reason, by, at } = restore.clone();
        Self { id, revocation, reason, by, at_ns: at.ns }
    }
}

impl RestoreBody {
    fn restore(self) -> Restore {
        let Self { id, revocation, reason, by, at_ns } = self;
        Restore { id, revocation, reason, by, at: Now { ns: at_ns } }
    }
}

/// The body of its approval.
#[serde_as]
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoredBody {
    #[serde_as(as = "DisplayFromStr")]
    request: Uuid,
    by: Person,
    at_ns: u64,
}

#[cfg(test)]
mod tests;

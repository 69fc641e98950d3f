//! Permission for a time: asked for, approved by somebody else, and gone with its time, its uses or its task. Each step is
//! an entry of the control log (`state`). Calls read a snapshot without waiting (`snapshot`); how a denial becomes a request
//! is `request_token`'s.

mod entry;
mod ledger;
pub mod request_token;
mod snapshot;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use uuid::Uuid;

pub use self::snapshot::Snapshot;
use self::{
    entry::{Approve, Close, Requested, TaskEnd, Use},
    ledger::Ledger,
};
use crate::{
    action::{Action, Entry},
    clock::Now,
    identity::author::{Author, Person},
    state::{Entry as LogEntry, Epoch, Fact, Journal, StateError, Unread},
    verdict::Sensitivity,
};

/// How long a grant lasts where nobody says how long, and at most where the catalogue does not say.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(3600);
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a request waits for its approvals; how long a grant is kept after its end, for lists and for its task.
const OPEN: Duration = Duration::from_secs(24 * 3600);
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Most uses of a grant that has a number of them: each is an entry of the log.
pub const MAX_USES: u32 = 1_000;
/// Grants that are kept at a time; those of one subject that are open or live; open requests of one subject and of one
/// owner's subjects.
const MAX: usize = 250_000;
const MAX_OF_SUBJECT: usize = 64;
const OPEN_OF_SUBJECT: usize = 8;
const OPEN_OF_OWNER: usize = 64;
/// Requests of one requester that are kept and that nobody approved: who asks and takes back without end leaves room for others.
const MAX_OF_REQUESTER: usize = 2_000;
/// Most actions and resources of one grant.
const MAX_SCOPE: usize = 16;
/// Longest texts, in bytes.
const MAX_TEXT: usize = 256;
const MAX_REASON: usize = 1024;
const MAX_REQUEST_ID: usize = 128;

/// A permission, or the request for one.
#[derive(Debug, Clone)]
pub struct Grant {
    pub id: Uuid,
    /// Number of the request in the control log.
    pub rev: u64,
    /// SPIFFE ID of the workload that may act.
    pub subject: Arc<str>,
    /// Who owned it by the registry when it was asked for.
    pub owner: Option<String>,
    pub scope: Scope,
    /// How long it lasts from its last approval.
    pub life: Duration,
    /// What the requester claims.
    pub reason: String,
    pub ticket: String,
    pub requested_by: Author,
    /// The denial that the request came from, as we know it.
    pub denied: Option<Denied>,
    pub at: Now,
    pub request_id: String,
    /// Approvals that it needs.
    pub needed: u32,
    pub approvals: Vec<Approval>,
    pub fate: Fate,
    /// Shared by all that is known of this grant, whatever becomes of it.
    used: Arc<AtomicU32>,
}

/// What a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Names of the catalogue.
    pub actions: Vec<Arc<str>>,
    /// `type`, `type/id`, or `type/` and the beginning of an id with `*` behind it; empty: all.
    pub resources: Vec<Arc<str>>,
    pub tenant: Option<Arc<str>>,
    pub task: Option<Arc<str>>,
    pub max_uses: Option<u32>,
}

/// A denial, as its request token says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    pub decision: String,
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub by: Person,
    pub at: Now,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It waits for approvals.
    Open,
    Granted {
        until: Now,
    },
    Denied(Closed),
    /// Ended before its time, perhaps before it was granted.
    Ended(Closed),
}

/// Who ended something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    pub by: Author,
    pub at: Now,
    pub reason: String,
}

/// How a grant stands at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Open,
    /// Nobody approved it in time.
    Lapsed,
    Live,
    UsedUp,
    Expired,
    Denied,
    Ended,
}

impl Standing {
    pub const ALL: [Self; 7] = [Self::Open, Self::Lapsed, Self::Live, Self::UsedUp, Self::Expired, Self::Denied, Self::Ended];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Lapsed => "lapsed",
            Self::Live => "live",
            Self::UsedUp => "used_up",
            Self::Expired => "expired",
            Self::Denied => "denied",
            Self::Ended => "ended",
        }
    }
}

impl Grant {
    pub fn standing(&self, now: Now) -> Standing {
        match &self.fate {
            Fate::Open if now < self.at.after(OPEN) => Standing::Open,
            Fate::Open => Standing::Lapsed,
            Fate::Granted { until } if now >= *until => Standing::Expired,
            Fate::Granted { .. } if self.uses_left() == Some(0) => Standing::UsedUp,
            Fate::Granted { .. } => Standing::Live,
            Fate::Denied(_) => Standing::Denied,
            Fate::Ended(_) => Standing::Ended,
        }
    }

    pub fn is_live(&self, now: Now) -> bool {
        self.standing(now) == Standing::Live
    }

    /// None where it may be used as often as one likes.
    pub fn uses_left(&self) -> Option<u32> {
        Some(self.scope.max_uses?.saturating_sub(self.used()))
    }

    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub const fn until(&self) -> Option<Now> {
        match self.fate {
            Fate::Granted { until } => Some(until),
            Fate::Open | Fate::Denied(_) | Fate::Ended(_) => None,
        }
    }

    /// Whether it is for what a call does. `task` is that of the call.
    pub fn covers(&self, action: &Action, task: Option<&str>) -> bool {
        let Scope { actions, resources, tenant, task: own_task, .. } = &self.scope;
        let Some(entry) = &action.entry else { return false };
        let resource = action.resource.as_ref();
        actions.contains(&entry.name)
            && own_task.as_deref().is_none_or(|own| task == Some(own))
            && tenant.as_deref().is_none_or(|own| resource.and_then(|resource| resource.tenant.as_deref()) == Some(own))
            && (resources.is_empty()
                || resource.is_some_and(|found| resources.iter().any(|pattern| fits(pattern, &found.kind, found.id.as_deref()))))
    }

    /// When it need not be known any more.
    fn gone_at(&self) -> Now {
        match &self.fate {
            Fate::Open => self.at.after(OPEN),
            Fate::Granted { until } => *until,
            Fate::Denied(closed) | Fate::Ended(closed) => closed.at,
        }
        .after(KEPT)
    }

    fn overlaps(&self, scope: &Scope) -> bool {
        self.scope.task == scope.task && self.scope.actions.iter().any(|action| scope.actions.contains(action))
    }
}

/// Whether a pattern over resources takes this one.
fn fits(pattern: &str, kind: &str, id: Option<&str>) -> bool {
    match pattern.split_once('/') {
        None => pattern == kind,
        Some((own, rest)) if own == kind => match (rest.strip_suffix('*'), id) {
            (_, None) => false,
            (Some(beginning), Some(id)) => id.starts_with(beginning),
            (None, Some(id)) => id == rest,
        },
        Some(_) => false,
    }
}

/// What the catalogue permits at most for a set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    pub life: Duration,
    pub uses: Option<u32>,
    pub approvals: u32,
}

impl Ceiling {
    /// The lowest of all: a critical action needs two people.
    pub fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let highest = Self { life: MAX_LIFE, uses: None, approvals: 1 };
        entries.fold(highest, |ceiling, entry| {
            let own = if entry.sensitivity == Sensitivity::Critical { 2 } else { 1 };
            let limits = &entry.grant_limits;
            Self {
                life: ceiling.life.min(limits.life.unwrap_or(DEFAULT_LIFE)),
                uses: ceiling.uses.into_iter().chain(limits.uses).min(),
                approvals: ceiling.approvals.max(own).max(limits.approvals.unwrap_or(1)),
            }
        })
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Empty: the request has no name, and each is a new one.
    pub request_id: String,
    pub subject: String,
    /// Of the subject, by the registry.
    pub owner: Option<String>,
    pub scope: Scope,
    /// None: as long as may be, an hour at most.
    pub life: Option<Duration>,
    pub reason: String,
    pub ticket: String,
    pub by: Author,
    pub denied: Option<Denied>,
}

/// A person's yes to a request.
#[derive(Debug, Clone, Copy)]
pub struct Approving<'a> {
    pub grant: Uuid,
    pub by: &'a Person,
    /// Owner of the subject by the registry in force.
    pub owner: Option<&'a str>,
    /// By the catalogue in force; none where it does not know all actions any more.
    pub ceiling: Option<Ceiling>,
}

/// Why nothing became of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GrantError {
    #[error("a grant needs a subject that is a SPIFFE ID, between 1 and {MAX_SCOPE} actions, and at most {MAX_SCOPE} resources")]
    Scope,
    #[error("`{0}` is no resource like `customer`, `customer/42` or `customer/4*`, of at most {MAX_TEXT} bytes")]
    Resource(String),
    #[error(
        "give a reason, of at most {MAX_REASON} bytes; ticket, task and tenant have at most {MAX_TEXT}, `request_id` \
         {MAX_REQUEST_ID}; none has control characters"
    )]
    Text,
    #[error("the catalogue lets a grant of these actions last {} s at most, and for a time above zero", .0.as_secs())]
    Life(Duration),
    #[error("a grant of these actions has between 1 and {0} uses")]
    Uses(u32),
    #[error("`request_id` was another request's; choose a new one")]
    OtherRequest,
    #[error("there was a request from this denial already")]
    Replayed,
    #[error("a workload asks for itself only")]
    ForAnother,
    #[error("a user id asks for no grant: ask as the workload, by its SVID, or as a person, by an OIDC token")]
    NobodyAsks,
    #[error("a live grant is not renewed by who has it; somebody else has to ask")]
    SelfRenewal,
    #[error("too many requests of {0} are open; have some approved or denied first")]
    TooManyOpen(String),
    #[error("{0} has as many grants as there may be of one subject ({MAX_OF_SUBJECT})")]
    TooManyOfSubject(Arc<str>),
    #[error("as many requests of one requester that nobody approved are kept as there may be ({MAX_OF_REQUESTER})")]
    TooManyOfRequester,
    #[error("as many grants are kept as there may be ({MAX})")]
    Full,
    #[error("there is no such grant, or not any more")]
    Unknown,
    #[error("it is {} and waits for no approval", .0.as_str())]
    NotOpen(Standing),
    #[error("it is {} already", .0.as_str())]
    OverAlready(Standing),
    #[error("who has asked does not approve")]
    Requester,
    #[error("who owns the subject does not approve")]
    Owner,
    #[error("who the grant is for does not approve")]
    Subject,
    #[error("the registry names no owner of the subject, so nobody can be known to be somebody else; register it first")]
    NoOwner,
    #[error("the same person does not approve twice; the actions need {0} people")]
    Twice(u32),
    #[error("who approved the grant that this one renews does not approve the renewal")]
    Renewal,
    #[error("the catalogue does not know all of its actions any more, or permits less than was asked for")]
    Ceiling,
    #[error("the clock was set back, and what is granted now would be over by the time it showed before; set it right, or wait")]
    Clock,
    #[error("there is no such task")]
    UnknownTask,
    #[error("no use of it is left")]
    UsedUp,
    #[error("{0}")]
    State(Arc<StateError>),
}

impl From<StateError> for GrantError {
    fn from(error: StateError) -> Self {
        Self::State(Arc::new(error))
    }
}

/// All grants of this process.
#[derive(Debug, Default)]
pub struct Grants {
    snapshot: ArcSwap<Snapshot>,
    ledger: Mutex<Ledger>,
    /// The latest time that was seen: a clock that is set back brings nothing back.
    latest: AtomicU64,
}

impl Grants {
    /// What is granted now.
    pub fn current(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The time that grants are judged by.
    pub fn now(&self, now: Now) -> Now {
        Now { ns: now.ns.max(self.latest.load(Ordering::Relaxed)) }
    }

    /// Asks for a grant; whether the request had been made before. It blocks.
    ///
    /// # Errors
    /// When the request is not in order, or the log cannot be written; nothing is asked for then.
    pub fn request(
        &self,
        journal: &Journal,
        asked: &Asked,
        ceiling: Ceiling,
        now: Now,
    ) -> Result<(Arc<Grant>, bool), GrantError> {
        let life = check(asked, ceiling)?;
        let body = Requested::new(asked, life, ceiling.approvals, now);
        let id = body.id();
        let mut known = None;
        let now = self.now(now);
        journal.append(entry::REQUEST, now, || {
            let ledger = self.ledger();
            known = ledger.same(asked, life)?;
            if known.is_some() {
                return Ok(None);
            }
            ledger.takes(asked, now)?;
            Ok::<_, GrantError>(Some(body.bytes()))
        })?;
        match known {
            Some(known) => Ok((known, true)),
            None => Ok((self.find(id)?, false)),
        }
    }

    /// Approves a request; with the last approval it is granted. It blocks.
    ///
    /// # Errors
    /// When it is not for this person to approve it, or nothing is there to approve.
    pub fn approve(&self, journal: &Journal, approving: Approving<'_>, now: Now) -> Result<Arc<Grant>, GrantError> {
        // It ends by the clock as it is: one that was ahead for a while makes no grant longer.
        let (by_clock, now) = (now, self.now(now));
        journal.append(entry::APPROVE, now, || {
            let ledger = self.ledger();
            let grant = ledger.find(approving.grant)?;
            ledger.may_approve(&grant, approving, now)?;
            let needed = approving.ceiling.map_or(grant.needed, |ceiling| ceiling.approvals.max(grant.needed));
            let is_last = grant.approvals.len().saturating_add(1) >= usize::try_from(needed).unwrap_or(usize::MAX);
            let until = is_last.then(|| by_clock.after(grant.life));
            if until.is_some_and(|until| until <= now) {
                return Err(GrantError::Clock);
            }
            Ok::<_, GrantError>(Some(Approve::new(grant.id, approving.by, until, now).bytes()))
        })?;
        self.find(approving.grant)
    }

    /// Denies a request, or ends a grant. It blocks.
    ///
    /// # Errors
    /// When it is over already.
    pub fn close(&self, journal: &Journal, id: Uuid, closed: &Closed, denied: bool) -> Result<Arc<Grant>, GrantError> {
        if closed.reason.len() > MAX_REASON || !closed.reason.lines().all(is_plain) {
            return Err(GrantError::Text);
        }
        journal.append(entry::CLOSE, closed.at, || {
            let standing = self.ledger().find(id)?.standing(self.now(closed.at));
            match (standing, denied) {
                (Standing::Open, _) | (Standing::Live | Standing::UsedUp, false) => {}
                (standing, true) => return Err(GrantError::NotOpen(standing)),
                (standing, false) => return Err(GrantError::OverAlready(standing)),
            }
            Ok(Some(Close::new(id, closed, denied).bytes()))
        })?;
        self.find(id)
    }

    /// Ends a task, of one subject or of all, with its grants; those are returned. It blocks.
    ///
    /// # Errors
    /// When nobody has such a task.
    pub fn end_task(
        &self,
        journal: &Journal,
        task: &str,
        subject: Option<&str>,
        closed: &Closed,
    ) -> Result<Vec<Arc<Grant>>, GrantError> {
        if closed.reason.len() > MAX_REASON || !closed.reason.lines().all(is_plain) {
            return Err(GrantError::Text);
        }
        let mut ends = Vec::new();
        journal.append(entry::TASK_END, closed.at, || {
            ends = self.ledger().in_task(task, subject);
            if ends.is_empty() {
                return Err(GrantError::UnknownTask);
            }
            Ok(Some(TaskEnd::new(task, subject, closed).bytes()))
        })?;
        Ok(ends)
    }

    /// Counts a use of a grant with a number of them. It is on the disk when this returns. It blocks.
    ///
    /// # Errors
    /// When no use is left, or it is over.
    pub fn use_once(&self, journal: &Journal, id: Uuid, decision: Uuid, now: Now) -> Result<(), GrantError> {
        let now = self.now(now);
        journal.append(entry::USE, now, || match self.ledger().find(id)?.standing(now) {
            Standing::Live => Ok(Some(Use::new(id, decision, now).bytes())),
            Standing::UsedUp => Err(GrantError::UsedUp),
            standing => Err(GrantError::OverAlready(standing)),
        })?;
        Ok(())
    }

    /// One that is kept.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, id: Uuid) -> Result<Arc<Grant>, GrantError> {
        self.ledger().find(id)
    }

    /// Those that are kept, in the order of their requests after `after`, at most `limit` of those that `wanted` takes.
    pub fn list(&self, after: u64, limit: usize, wanted: impl Fn(&Grant) -> bool) -> Vec<Arc<Grant>> {
        self.ledger().list(after, limit, wanted)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fact for Grants {
    fn take(&self, entries: &[LogEntry], epoch: Option<Epoch>, now: Now) -> Result<(), Unread> {
        let mut ledger = self.ledger();
        let (mut snapshot, mut taken) = (Snapshot::clone(&self.snapshot.load()), Ok(()));
        for entry in entries.iter().filter(|entry| self.takes(&entry.kind)) {
            match ledger.take(entry, &mut snapshot) {
                Ok(at) => {
                    self.latest.fetch_max(at.ns, Ordering::Relaxed);
                }
                Err(source) => taken = taken.and(Err(Unread::Unreadable { rev: entry.rev, source })),
            }
        }
        ledger.sweep(&mut snapshot, self.now(now));
        snapshot.epoch = epoch;
        self.snapshot.store(Arc::new(snapshot));
        taken
    }

    fn takes(&self, kind: &str) -> bool {
        [entry::REQUEST, entry::APPROVE, entry::CLOSE, entry::USE, entry::TASK_END].contains(&kind)
    }

    fn sweep(&self, now: Now) {
        self.latest.fetch_max(now.ns, Ordering::Relaxed);
        let mut ledger = self.ledger();
        if ledger.next_change(self.now(now)) {
            let mut snapshot = Snapshot::clone(&self.snapshot.load());
            ledger.sweep(&mut snapshot, self.now(now));
            self.snapshot.store(Arc::new(snapshot));
        }
    }
}

/// How long the grant is to last, if all else is in order too.
fn check(asked: &Asked, ceiling: Ceiling) -> Result<Duration, GrantError> {
    let Asked { request_id, subject, scope, life, reason, ticket, by, .. } = asked;
    let Scope { actions, resources, tenant, task, max_uses } = scope;
    match by {
        Author::Unix(_) => return Err(GrantError::NobodyAsks),
        Author::Workload(id) if id != subject => return Err(GrantError::ForAnother),
        Author::Workload(_) | Author::Person(_) => {}
    }
    let is_workload = crate::identity::x509::workload(subject).is_ok_and(|id| id.to_string() == *subject);
    if !is_workload || actions.is_empty() || actions.len().max(resources.len()) > MAX_SCOPE {
        return Err(GrantError::Scope);
    }
    let is_resource = |text: &str| {
        let (kind, rest) = text.split_once('/').unwrap_or((text, "x"));
        let starred = rest.strip_suffix('*').unwrap_or(rest);
        (1..=MAX_TEXT).contains(&text.len())
            && !kind.is_empty()
            && !kind.contains('*')
            && !rest.is_empty()
            && !starred.contains('*')
            && is_plain(text)
    };
    if let Some(wrong) = resources.iter().find(|text| !is_resource(text)) {
        return Err(GrantError::Resource(wrong.chars().take(64).collect()));
    }
    let short = |text: &str, most: usize| text.len() <= most;
    let named = [tenant, task].into_iter().flatten().all(|text| !text.is_empty() && short(text, MAX_TEXT) && is_plain(text));
    if reason.trim().is_empty()
        || !short(reason, MAX_REASON)
        || !named
        || !short(ticket, MAX_TEXT)
        || !short(request_id, MAX_REQUEST_ID)
        || actions.iter().any(|action| !short(action, MAX_TEXT))
        || !reason.lines().chain([ticket.as_str(), request_id]).all(is_plain)
    {
        return Err(GrantError::Text);
    }
    let most = ceiling.uses.unwrap_or(MAX_USES);
    if max_uses.map_or(ceiling.uses.is_some(), |uses| uses == 0 || uses > most) {
        return Err(GrantError::Uses(most));
    }
    let life = life.unwrap_or(DEFAULT_LIFE.min(ceiling.life));
    if life.is_zero() || life > ceiling.life {
        return Err(GrantError::Life(ceiling.life));
    }
    Ok(life)
}

/// Whether a text shows as what it is, to whoever has to approve it.
fn is_plain(text: &str) -> bool {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !text.contains(hidden)
}

#[cfg(test)]
mod tests;

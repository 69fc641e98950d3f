//! What only those need who ask, approve and end: all grants that are kept, by number and by id, and the rules of who may.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foldhash::quality::RandomState;
use uuid::Uuid;

use super::{
    Approving, Asked, Fate, Grant, GrantError, MAX, MAX_OF_REQUESTER, MAX_OF_SUBJECT, OPEN_OF_OWNER, OPEN_OF_SUBJECT, Snapshot,
    Standing,
    entry::{self, Approve, Close, Requested, TaskEnd, Use},
};
use crate::{clock::Now, identity::author::Author, state::Entry};

#[derive(Debug, Default)]
pub(super) struct Ledger {
    by_rev: BTreeMap<u64, Arc<Grant>>,
    revs: HashMap<Uuid, u64, RandomState>,
    of_subject: HashMap<Arc<str>, Vec<u64>, RandomState>,
    requests: HashMap<String, u64, RandomState>,
    /// How many of them each has asked for that nobody has approved.
    of_requester: HashMap<String, usize, RandomState>,
    /// Denials that were asked about.
    decisions: HashSet<String, RandomState>,
    /// Requests that wait, or have waited in vain.
    open: HashSet<u64, RandomState>,
    /// When the next one ends or can be forgotten.
    next: Option<Now>,
}

impl Ledger {
    pub(super) fn find(&self, id: Uuid) -> Result<Arc<Grant>, GrantError> {
        self.revs.get(&id).and_then(|rev| self.by_rev.get(rev)).cloned().ok_or(GrantError::Unknown)
    }

    pub(super) fn list(&self, after: u64, limit: usize, wanted: impl Fn(&Grant) -> bool) -> Vec<Arc<Grant>> {
        let later = self.by_rev.range(after.saturating_add(1)..).map(|(_, grant)| grant);
        later.filter(|grant| wanted(grant)).take(limit).cloned().collect()
    }

    /// All of a subject that are kept.
    fn of<'a>(&'a self, subject: &str) -> impl Iterator<Item = &'a Arc<Grant>> {
        self.of_subject.get(subject).into_iter().flatten().filter_map(|rev| self.by_rev.get(rev))
    }

    /// The request that this one repeats.
    pub(super) fn same(&self, asked: &Asked, life: Duration) -> Result<Option<Arc<Grant>>, GrantError> {
        let known = self.requests.get(&asked.request_id).filter(|_| !asked.request_id.is_empty());
        let Some(known) = known.and_then(|rev| self.by_rev.get(rev)) else { return Ok(None) };
        let Asked { request_id: _, subject, owner: _, scope, life: _, reason, ticket, by, denied } = asked;
        let is_same = *known.subject == **subject
            && known.scope == *scope
            && known.life == life
            && known.reason == *reason
            && known.ticket == *ticket
            && is_same_author(&known.requested_by, by)
            && known.denied == *denied;
        if is_same { Ok(Some(Arc::clone(known))) } else { Err(GrantError::OtherRequest) }
    }

    /// Whether there is room for a request, and it is one that its author may make.
    pub(super) fn takes(&self, asked: &Asked, now: Now) -> Result<(), GrantError> {
        if let Some(denied) = &asked.denied
            && self.decisions.contains(&denied.decision)
        {
            return Err(GrantError::Replayed);
        }
        let (mut open, mut counted) = (0, 0);
        for grant in self.of(&asked.subject) {
            let standing = grant.standing(now);
            open += usize::from(standing == Standing::Open);
            counted += usize::from(matches!(standing, Standing::Open | Standing::Live));
            let is_own = matches!(asked.by, Author::Workload(_));
            if standing == Standing::Live && is_own && grant.overlaps(&asked.scope) {
                return Err(GrantError::SelfRenewal);
            }
        }
        if open >= OPEN_OF_SUBJECT {
            return Err(GrantError::TooManyOpen(asked.subject.clone()));
        }
        // Workloads without an owner share one bound too, or whoever makes them up has none.
        if self.open_of_owner(asked.owner.as_deref(), now) >= OPEN_OF_OWNER {
            return Err(GrantError::TooManyOpen("one owner's workloads".to_owned()));
        }
        if counted >= MAX_OF_SUBJECT {
            return Err(GrantError::TooManyOfSubject(asked.subject.as_str().into()));
        }
        if self.of_requester.get(&requester(&asked.by)).is_some_and(|kept| *kept >= MAX_OF_REQUESTER) {
            return Err(GrantError::TooManyOfRequester);
        }
        if self.by_rev.len() >= MAX { Err(GrantError::Full) } else { Ok(()) }
    }

    fn open_of_owner(&self, owner: Option<&str>, now: Now) -> usize {
        let open = self.open.iter().filter_map(|rev| self.by_rev.get(rev));
        open.filter(|grant| grant.owner.as_deref() == owner && grant.standing(now) == Standing::Open).count()
    }

    /// Whether this person may approve it now.
    pub(super) fn may_approve(&self, grant: &Grant, approving: Approving<'_>, now: Now) -> Result<(), GrantError> {
        let Approving { by, owner, ceiling, .. } = approving;
        match grant.standing(now) {
            Standing::Open => {}
            standing => return Err(GrantError::NotOpen(standing)),
        }
        if grant.requested_by.person().is_some_and(|requester| requester.is(by)) {
            return Err(GrantError::Requester);
        }
        if *by.name == *grant.subject || *by.subject == *grant.subject {
            return Err(GrantError::Subject);
        }
        let owner = owner.filter(|owner| !owner.is_empty()).ok_or(GrantError::NoOwner)?;
        if by.may_own(owner) {
            return Err(GrantError::Owner);
        }
        let ceiling = ceiling.ok_or(GrantError::Ceiling)?;
        if grant.approvals.iter().any(|approval| approval.by.is(by)) {
            return Err(GrantError::Twice(ceiling.approvals.max(grant.needed)));
        }
        let was_live = |other: &Grant| other.until().is_some_and(|until| until > grant.at) && other.rev < grant.rev;
        let renewed = |other: &&Arc<Grant>| was_live(other) && other.overlaps(&grant.scope);
        if self.of(&grant.subject).filter(renewed).any(|other| other.approvals.iter().any(|approval| approval.by.is(by))) {
            return Err(GrantError::Renewal);
        }
        let too_much =
            grant.life > ceiling.life || ceiling.uses.is_some_and(|most| grant.scope.max_uses.is_none_or(|uses| uses > most));
        if too_much { Err(GrantError::Ceiling) } else { Ok(()) }
    }

    /// Open and live grants of a task.
    pub(super) fn in_task(&self, task: &str, subject: Option<&str>) -> Vec<Arc<Grant>> {
        let fits = |grant: &&Arc<Grant>| {
            grant.scope.task.as_deref() == Some(task)
                && subject.is_none_or(|subject| *grant.subject == *subject)
                && matches!(grant.fate, Fate::Open | Fate::Granted { .. })
        };
        self.by_rev.values().filter(fits).cloned().collect()
    }

    /// Takes in an entry; the time of it.
    pub(super) fn take(&mut self, entry: &Entry, snapshot: &mut Snapshot) -> Result<Now, serde_json::Error> {
        let Entry { rev, kind, body } = entry;
        let at_ns = match kind.as_str() {
            entry::REQUEST => {
                let grant = serde_json::from_slice::<Requested>(body)?.grant(*rev);
                let at = grant.at.ns;
                self.insert(grant);
                at
            }
            entry::APPROVE => {
                let approve: Approve = serde_json::from_slice(body)?;
                let (id, at) = (approve.grant, approve.at_ns);
                self.change(id, snapshot, |grant| approve.apply(grant));
                at
            }
            entry::CLOSE => {
                let close: Close = serde_json::from_slice(body)?;
                let (id, at) = (close.grant, close.at_ns);
                self.change(id, snapshot, |grant| close.apply(grant));
                at
            }
            entry::USE => {
                let used: Use = serde_json::from_slice(body)?;
                if let Ok(grant) = self.find(used.grant) {
                    grant.used.fetch_add(1, Ordering::Relaxed);
                }
                used.at_ns
            }
            _ => {
                let end: TaskEnd = serde_json::from_slice(body)?;
                for grant in self.in_task(&end.task, end.subject.as_deref()) {
                    self.change(grant.id, snapshot, |grant| grant.fate = Fate::Ended(end.closed()));
                    snapshot.end_task(&grant);
                }
                end.at_ns
            }
        };
        Ok(Now { ns: at_ns })
    }

    fn insert(&mut self, grant: Grant) {
        let rev = grant.rev;
        self.revs.insert(grant.id, rev);
        self.of_subject.entry(Arc::clone(&grant.subject)).or_default().push(rev);
        if !grant.request_id.is_empty() {
            self.requests.insert(grant.request_id.clone(), rev);
        }
        *self.of_requester.entry(requester(&grant.requested_by)).or_default() += 1;
        if let Some(denied) = &grant.denied {
            self.decisions.insert(denied.decision.clone());
        }
        self.open.insert(rev);
        self.look_at(&grant);
        self.by_rev.insert(rev, Arc::new(grant));
    }

    fn change(&mut self, id: Uuid, snapshot: &mut Snapshot, change: impl FnOnce(&mut Grant)) {
        let Some(grant) = self.revs.get(&id).and_then(|rev| self.by_rev.get_mut(rev)) else { return };
        let was_alone = grant.approvals.is_empty();
        change(Arc::make_mut(grant));
        let grant = Arc::clone(grant);
        if was_alone && !grant.approvals.is_empty() {
            self.count_no_more(&grant);
        }
        if grant.fate != Fate::Open {
            self.open.remove(&grant.rev);
        }
        snapshot.put(&grant);
        self.look_at(&grant);
    }

    fn count_no_more(&mut self, grant: &Grant) {
        let requester = requester(&grant.requested_by);
        if let Some(kept) = self.of_requester.get_mut(&requester) {
            *kept -= 1;
            if *kept == 0 {
                self.of_requester.remove(&requester);
            }
        }
    }

    fn look_at(&mut self, grant: &Grant) {
        let next = grant.until().unwrap_or_else(|| grant.gone_at());
        self.next = Some(self.next.map_or(next, |known| known.min(next)));
    }

    /// Whether something has ended or can be forgotten.
    pub(super) fn next_change(&self, now: Now) -> bool {
        self.next.is_some_and(|next| now >= next)
    }

    /// Takes what has ended out of the way of calls, and forgets what need not be known any more.
    pub(super) fn sweep(&mut self, snapshot: &mut Snapshot, now: Now) {
        if !self.next_change(now) {
            return;
        }
        self.next = None;
        let mut gone = Vec::new();
        let mut next: Option<Now> = None;
        for grant in self.by_rev.values() {
            let forget = grant.gone_at();
            if now >= forget {
                gone.push(Arc::clone(grant));
                continue;
            }
            let change = match grant.until() {
                Some(until) if now < until => until,
                Some(_) => {
                    // Its task stays open until it is ended, or long forgotten.
                    if grant.scope.task.is_none() {
                        snapshot.remove(grant);
                    }
                    forget
                }
                None => forget,
            };
            next = Some(next.map_or(change, |known| known.min(change)));
        }
        self.next = next;
        for grant in gone {
            snapshot.forget(&grant);
            self.by_rev.remove(&grant.rev);
            self.revs.remove(&grant.id);
            self.open.remove(&grant.rev);
            self.requests.remove(&grant.request_id);
            if grant.approvals.is_empty() {
                self.count_no_more(&grant);
            }
            if let Some(denied) = &grant.denied {
                self.decisions.remove(&denied.decision);
            }
            if let Some(revs) = self.of_subject.get_mut(&grant.subject) {
                revs.retain(|rev| *rev != grant.rev);
                if revs.is_empty() {
                    self.of_subject.remove(&grant.subject);
                }
            }
        }
    }
}

/// What a requester is counted by.
fn requester(author: &Author) -> String {
    match author {
        Author::Person(person) => format!("{}#{}", person.issuer, person.subject),
        Author::Unix(_) | Author::Workload(_) => author.to_string(),
    }
}

/// What a token says of a person beyond who it is may have changed between two tries.
fn is_same_author(known: &Author, author: &Author) -> bool {
    match (known, author) {
        (Author::Person(known), Author::Person(person)) => known.issuer == person.issuer && known.subject == person.subject,
        _ => known == author,
    }
}

//! Every principal that was seen, and what it did: noted from finished decisions, so that no call waits for it. As many as
//! the table has room for; then a newcomer takes the place of one of its own kind that has not been seen for long, and never
//! of one that is known better than itself.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use foldhash::quality::RandomState;
use uuid::Uuid;

use crate::{clock::Now, identity::lifetime::Lifetimes, verdict::Decision};

/// Actions of one principal that are told apart; what it does beyond is counted together.
const ACTIONS: usize = 128;
/// Longest name, in bytes: that of the longest SPIFFE ID. The subject of a token may be longer.
const NAME: usize = 2048;
/// Names of actions in all: those of the catalogues since the start.
const NAMES: usize = 1 << 16;
/// Principals that are compared for one that makes room, and that are looked at to find so many.
const SAMPLE: usize = 16;
const LOOKS: usize = 256;

/// How well a principal is known, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Issuer and subject of a token: an issuer may make up any number.
    Subject,
    /// A workload that the registry has no entry of.
    Workload,
    Registered,
}

/// Why a principal should not have been used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// Its registration had expired.
    Expired,
    /// Its registration was not active.
    Disabled,
    /// What it was there for had ended.
    TaskEnded,
}

impl Overdue {
    pub const ALL: [Self; 3] = [Self::Expired, Self::Disabled, Self::TaskEnded];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Disabled => "disabled",
            Self::TaskEnded => "task_ended",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// One decision about a principal.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    pub principal: &'a Arc<str>,
    pub rank: Rank,
    pub at: Now,
    /// Of the decision.
    pub id: Uuid,
    pub decision: Decision,
    /// Of the catalogue, where the call went through.
    pub action: Option<&'a Arc<str>>,
    pub lifetimes: Lifetimes,
}

/// What is known of a principal, for those who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub principal: Arc<str>,
    pub rank: Rank,
    pub first: Now,
    pub last: Now,
    pub allowed: u64,
    pub denied: u64,
    /// The latest decision.
    pub decision: Uuid,
    pub lifetimes: Lifetimes,
    pub actions: Vec<Used>,
    /// Uses of actions that are not told apart.
    pub others: u64,
    pub late: Option<Late>,
}

/// How often an action went through, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub action: Arc<str>,
    pub first: Now,
    pub last: Now,
    pub count: u64,
}

/// Calls that came when none should have come any more, allowed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    pub reasons: Vec<Overdue>,
    pub first: Now,
    pub last: Now,
    pub count: u64,
}

/// The principals that were seen.
#[derive(Debug)]
pub struct Seen {
    table: Mutex<Table>,
    max: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// In order, so that what belongs together stands together, and pages need no search.
    principals: BTreeMap<Arc<str>, Box<Principal>>,
    /// How many there are of each trust domain and of each issuer, by the beginning of their names.
    groups: HashMap<Box<str>, usize, RandomState>,
    names: Names,
    /// Where room was looked for last.
    looked: Option<Arc<str>>,
    forgotten: u64,
    refused: u64,
    /// Whether anything came since it was written down.
    changed: bool,
}

/// Names of actions as numbers.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32, RandomState>,
    names: Vec<Arc<str>>,
}

/// Times are in seconds since the Unix epoch.
#[derive(Debug)]
struct Principal {
    allowed: u64,
    denied: u64,
    decision: Uuid,
    actions: Vec<Count>,
    others: u64,
    lifetimes: Lifetimes,
    first: u32,
    last: u32,
    late: Count,
    rank: Rank,
}

/// How often something was, by its number.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    number: u32,
    first: u32,
    last: u32,
    count: u32,
}

/// What fills the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    pub principals: usize,
    /// Made room for others.
    pub forgotten: u64,
    /// Decisions about principals that there was no room for, or whose name is too long.
    pub refused: u64,
}

impl Seen {
    pub fn new(max: usize) -> Self {
        Self { table: Mutex::default(), max }
    }

    /// Notes a decision.
    pub fn see(&self, sight: &Sight<'_>) {
        let mut table = self.table();
        let number = sight.action.map(|action| table.names.number(action));
        let Some(principal) = table.entry(sight, self.max) else { return };
        principal.see(sight, number);
        table.changed = true;
    }

    /// Notes that a principal was used after it should have been, for whoever knows that.
    pub fn overdue(&self, principal: &str, why: Overdue, at: Now) {
        if let Some(principal) = self.table().principals.get_mut(principal) {
            principal.late.again(seconds(at));
            principal.late.number |= u32::from(why.bit());
        }
    }

    pub fn find(&self, principal: &str) -> Option<Sighting> {
        let table = self.table();
        let (name, principal) = table.principals.get_key_value(principal)?;
        Some(principal.shown(name, &table.names))
    }

    pub fn knows(&self, principal: &str) -> bool {
        self.table().principals.contains_key(principal)
    }

    /// So many of those that begin with `prefix` and come after `after`, in order.
    pub fn after(&self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Sighting> {
        let table = self.table();
        table.range(after, prefix).take(limit).map(|(name, principal)| principal.shown(name, &table.names)).collect()
    }

    /// The names of the same.
    pub fn names_after(&self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Arc<str>> {
        self.table().range(after, prefix).take(limit).map(|(name, _)| Arc::clone(name)).collect()
    }

    pub fn census(&self) -> Census {
        let table = self.table();
        Census { principals: table.principals.len(), forgotten: table.forgotten, refused: table.refused }
    }

    /// Whether anything was noted since this was asked last.
    pub(super) fn take_changed(&self) -> bool {
        std::mem::take(&mut self.table().changed)
    }

    pub(super) fn set_changed(&self) {
        self.table().changed = true;
    }

    /// Puts back what was written down.
    pub(super) fn restore(&self, sighting: &Sighting) {
        let mut table = self.table();
        if table.principals.contains_key(&sighting.principal) {
            return;
        }
        let actions = sighting.actions.iter().take(ACTIONS).map(|used| Count {
            number: table.names.number(&used.action),
            first: seconds(used.first),
            last: seconds(used.last),
            count: u32::try_from(used.count).unwrap_or(u32::MAX),
        });
        let actions = actions.collect();
        let Some(principal) = table.room(&sighting.principal, sighting.rank, self.max) else { return };
        let late = sighting.late.as_ref().map(|late| Count {
            number: late.reasons.iter().map(|why| u32::from(why.bit())).sum(),
            first: seconds(late.first),
            last: seconds(late.last),
            count: u32::try_from(late.count).unwrap_or(u32::MAX),
        });
        *principal = Principal {
            allowed: sighting.allowed,
            denied: sighting.denied,
            decision: sighting.decision,
            actions,
            others: sighting.others,
            lifetimes: sighting.lifetimes,
            first: seconds(sighting.first),
            last: seconds(sighting.last),
            late: late.unwrap_or_default(),
            rank: sighting.rank,
        };
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rank {
    /// Of a name.
    pub fn of(principal: &str, registered: bool) -> Self {
        match principal.starts_with(SCHEME) {
            _ if registered => Self::Registered,
            true => Self::Workload,
            false => Self::Subject,
        }
    }
}

const SCHEME: &str = "spiffe://";

impl Table {
    /// The place of a principal, made where there is room for it.
    fn entry(&mut self, sight: &Sight<'_>, max: usize) -> Option<&mut Principal> {
        let known = self.principals.contains_key(sight.principal);
        if known {
            return self.principals.get_mut(sight.principal).map(|principal| &mut **principal);
        }
        let principal = self.room(sight.principal, sight.rank, max)?;
        (principal.first, principal.rank) = (seconds(sight.at), sight.rank);
        Some(principal)
    }

    /// An empty place for a newcomer.
    fn room(&mut self, name: &Arc<str>, rank: Rank, max: usize) -> Option<&mut Principal> {
        let group = group(name);
        if name.len() > NAME || (self.principals.len() >= max && !self.make_room(group, rank, max)) {
            self.refused += 1;
            return None;
        }
        match self.groups.get_mut(group) {
            Some(count) => *count += 1,
            None => drop(self.groups.insert(group.into(), 1)),
        }
        Some(self.principals.entry(Arc::clone(name)).or_insert_with(|| Box::new(Principal::new(rank))))
    }

    /// Forgets one: of the newcomer's own trust domain or issuer where that has its share of the table already, else of the
    /// one that has most.
    fn make_room(&mut self, group: &str, rank: Rank, max: usize) -> bool {
        let own = self.groups.get(group).copied().unwrap_or_default();
        let share = max / (self.groups.len() + usize::from(own == 0)).max(1);
        let largest = self.groups.iter().max_by_key(|(_, count)| **count).map(|(group, _)| group.clone());
        let from = if own >= share { [Some(group.into()), None] } else { [largest, Some(group.into())] };
        let Some(oldest) = from.iter().flatten().find_map(|group| self.oldest(group, rank)) else { return false };
        self.forget(&oldest);
        true
    }

    /// Of some in a group that are no better known than `rank`, the least known, and of these the one that was not seen for
    /// longest. Where it looked last it goes on.
    fn oldest(&mut self, group: &str, rank: Rank) -> Option<Arc<str>> {
        let from = self.looked.take().filter(|looked| looked.starts_with(group));
        let (mut last, mut left, mut oldest) = (None, SAMPLE, None);
        for (name, principal) in self.range(from.as_deref(), group).chain(self.range(None, group)).take(LOOKS) {
            last = Some(name);
            if principal.rank > rank {
                continue;
            }
            let how = (principal.rank, principal.last);
            if oldest.is_none_or(|(oldest, _)| how < oldest) {
                oldest = Some((how, name));
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
        let (last, oldest) = (last.cloned(), oldest.map(|(_, name)| Arc::clone(name)));
        self.looked = last;
        oldest
    }

    fn forget(&mut self, name: &Arc<str>) {
        self.principals.remove(name);
        self.forgotten += 1;
        let group = group(name);
        if let Some(count) = self.groups.get_mut(group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(group);
            }
        }
    }

    fn range(&self, after: Option<&str>, prefix: &str) -> impl Iterator<Item = (&Arc<str>, &Box<Principal>)> {
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        self.principals.range::<str, _>((from, Bound::Unbounded)).take_while(move |(name, _)| name.starts_with(prefix))
    }
}

/// What all of a trust domain, or of an issuer, have in common: the beginning of the name.
fn group(principal: &str) -> &str {
    let end = match principal.strip_prefix(SCHEME) {
        Some(rest) => rest.find('/').map(|at| SCHEME.len() + at + 1),
        None => principal.find('#').map(|at| at + 1),
    };
    end.and_then(|end| principal.get(..end)).unwrap_or(principal)
}

impl Principal {
    fn new(rank: Rank) -> Self {
        Self {
            allowed: 0,
            denied: 0,
            decision: Uuid::nil(),
            actions: Vec::new(),
            others: 0,
            lifetimes: Lifetimes::default(),
            first: 0,
            last: 0,
            late: Count::default(),
            rank,
        }
    }

    fn see(&mut self, sight: &Sight<'_>, action: Option<u32>) {
        let at = seconds(sight.at);
        match sight.decision {
            Decision::Allow => self.allowed += 1,
            Decision::Deny => self.denied += 1,
        }
        // Of two records of one decision the later one counts: what was allowed has been denied after all.
        if sight.id == self.decision && sight.decision == Decision::Deny {
            self.allowed = self.allowed.saturating_sub(1);
        }
        self.lifetimes.extend(&sight.lifetimes);
        self.rank = sight.rank;
        (self.first, self.last) = (self.first.min(at), self.last.max(at));
        // They come in the order in which they are written, which is not quite that in which they were made.
        self.decision = self.decision.max(sight.id);
        let Some(number) = action else { return };
        let room = self.actions.len() < ACTIONS && number != 0;
        match self.actions.iter_mut().find(|count| count.number == number) {
            Some(count) => count.again(at),
            None if room => {
                self.actions.reserve_exact(1);
                self.actions.push(Count { number, first: at, last: at, count: 1 });
            }
            None => self.others += 1,
        }
    }

    fn shown(&self, name: &Arc<str>, names: &Names) -> Sighting {
        let used = |count: &Count| Used {
            action: names.name(count.number),
            first: instant(count.first),
            last: instant(count.last),
            count: u64::from(count.count),
        };
        let mut actions: Vec<_> = self.actions.iter().map(used).collect();
        actions.sort_unstable_by(|a, b| a.action.cmp(&b.action));
        let late = (self.late.count > 0).then(|| Late {
            reasons: Overdue::ALL.into_iter().filter(|why| self.late.number & u32::from(why.bit()) != 0).collect(),
            first: instant(self.late.first),
            last: instant(self.late.last),
            count: u64::from(self.late.count),
        });
        Sighting {
            principal: Arc::clone(name),
            rank: self.rank,
            first: instant(self.first),
            last: instant(self.last),
            allowed: self.allowed,
            denied: self.denied,
            decision: self.decision,
            lifetimes: self.lifetimes,
            actions,
            others: self.others,
            late,
        }
    }
}

impl Count {
    fn again(&mut self, at: u32) {
        self.first = if self.count == 0 { at } else { self.first.min(at) };
        self.last = self.last.max(at);
        self.count = self.count.saturating_add(1);
    }
}

impl Names {
    /// 0 where there are too many.
    fn number(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() >= NAMES {
            return 0;
        }
        self.names.push(Arc::clone(name));
        let number = u32::try_from(self.names.len()).unwrap_or_default();
        self.numbers.insert(Arc::clone(name), number);
        number
    }

    fn name(&self, number: u32) -> Arc<str> {
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        place.and_then(|place| self.names.get(place)).cloned().unwrap_or_default()
    }
}

fn seconds(at: Now) -> u32 {
    u32::try_from(at.seconds()).unwrap_or(u32::MAX)
}

fn instant(seconds: u32) -> Now {
    Now::from_seconds(u64::from(seconds))
}

#[cfg(test)]
mod tests;

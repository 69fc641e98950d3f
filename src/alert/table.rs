//! The alerts there are: what repeats is one alert, which is over when it has not happened for a while. Nobody can fill the
//! table: what a principal has too much of, and what all have, is one alert that says so. Each Alertmanager is told by
//! itself, again and again while an alert lasts, and once that it is over.

use std::{borrow::Cow, collections::HashMap, sync::Arc, time::Duration};

use foldhash::quality::RandomState;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Key, Occurrence, What,
    message::{Severity, Wording},
};
use crate::{clock::Now, config};

/// An alert that is not sent for so many intervals is over for Alertmanager.
const INTERVALS: u32 = 4;

/// How many alerts there may be, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub max: usize,
    pub max_per_principal: usize,
    pub resolve_after: Duration,
    pub keep: Duration,
    pub interval: Duration,
}

impl Limits {
    pub fn new(config: &config::Alerts) -> Self {
        let config::Alerts { max, max_per_principal, resolve_after, keep, alertmanager, .. } = config;
        Self {
            max: *max,
            max_per_principal: *max_per_principal,
            resolve_after: resolve_after.duration(),
            keep: keep.duration(),
            interval: alertmanager.interval.duration(),
        }
    }
}

/// All alerts.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    wording: Wording,
    alerts: HashMap<Key, State, RandomState>,
    /// How many of the alerts are whose.
    accounts: HashMap<Account, usize, RandomState>,
    /// Alertmanagers that are to be told.
    destinations: usize,
}

/// Who brought alerts about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Account {
    Principal(Option<Arc<str>>),
    /// By revoking, also a principal: that is none of its doing, and has room of its own.
    Operators,
}

/// One alert.
#[derive(Debug)]
pub(super) struct State {
    pub(super) starts: Now,
    /// It is over then, unless it happens again.
    pub(super) until: Now,
    /// Whether that was said when it began.
    fixed: bool,
    pub(super) count: u64,
    /// The latest record of it.
    pub(super) id: Uuid,
    pub(super) detail: Cow<'static, str>,
    /// What each Alertmanager has heard of it.
    sent: Vec<Sent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    /// That it is there, and when.
    Active(Now),
    /// That it is over, or when it will be.
    Over,
}

/// What somebody was told, to be entered once it has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    key: Key,
    starts: Now,
    sent: Sent,
}

/// What became of an occurrence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A new alert, or one that was over.
    New,
    Repeated,
    /// Into the alert that there are too many; `true` if that is new.
    Folded(bool),
}

impl Table {
    pub fn new(limits: Limits, wording: Wording, destinations: usize) -> Self {
        Self { limits, wording, alerts: HashMap::default(), accounts: HashMap::default(), destinations }
    }

    pub fn take_in(&mut self, occurrence: Occurrence, now: Now) -> Taken {
        let Occurrence { key, at, id, detail, life } = occurrence;
        let (key, folded) = self.place(key);
        let detail = if folded { Cow::Borrowed("") } else { detail };
        let until = at.after(life.unwrap_or(self.limits.resolve_after));
        let begin = || State {
            starts: at,
            until,
            fixed: life.is_some(),
            count: 0,
            id,
            detail: Cow::Borrowed(""),
            sent: vec![Sent::Nothing; self.destinations],
        };
        let account = account(&key);
        let state = self.alerts.entry(key).or_insert_with(|| {
            if let Some(account) = account {
                *self.accounts.entry(account).or_default() += 1;
            }
            begin()
        });
        if state.until <= now {
            *state = begin();
        }
        let is_new = state.count == 0;
        state.count += 1;
        (state.until, state.id, state.detail) = (state.until.max(until), id, detail);
        match (folded, is_new) {
            (true, is_new) => Taken::Folded(is_new),
            (false, true) => Taken::New,
            (false, false) => Taken::Repeated,
        }
    }

    /// The alert that an occurrence belongs to: its own, or where that finds no room the one that says so.
    fn place(&self, key: Key) -> (Key, bool) {
        let Some(account) = account(&key).filter(|_| !self.alerts.contains_key(&key)) else { return (key, false) };
        let count = |account: &Account| self.accounts.get(account).copied().unwrap_or_default();
        let (max, operators) = (self.limits.max, count(&Account::Operators));
        let of_callers = self.alerts.len() - operators;
        let is_full = match &account {
            Account::Operators => operators >= max,
            Account::Principal(_) if key.what.severity() == Severity::Critical => of_callers >= max,
            // Half of the room is left to what is worse.
            Account::Principal(_) => of_callers >= max.div_ceil(2),
        };
        if is_full {
            return (Key { what: What::TooMany, principal: None, owner: None, escalation: None }, true);
        }
        let has_share = account == Account::Operators || count(&account) < self.limits.max_per_principal;
        if has_share { (key, false) } else { (Key { what: What::TooMany, ..key }, true) }
    }

    /// What the Alertmanager `to` has to hear now.
    pub fn due(&self, to: usize, now: Now) -> Vec<(Receipt, Value)> {
        let mut due = Vec::new();
        for (key, state) in &self.alerts {
            let Some(sent) = state.sent.get(to) else { continue };
            let over = state.until <= now;
            let lasts = if state.fixed { state.until } else { now.after(self.limits.interval * INTERVALS) };
            let (ends, sent) = match (over, sent) {
                (false, Sent::Nothing) => (lasts, Sent::Active(now)),
                (false, Sent::Active(at)) if at.after(self.limits.interval) <= now => (lasts, Sent::Active(now)),
                (true, Sent::Active(_)) => (now, Sent::Over),
                // It was over before anybody could hear of it: heard of it shall be.
                (true, Sent::Nothing) => (now.after(self.limits.resolve_after), Sent::Over),
                (false, Sent::Active(_)) | (_, Sent::Over) => continue,
            };
            // A clock that was set back does not make an alert that Alertmanager refuses.
            let message = self.wording.message(key, state, ends.max(state.starts));
            due.push((Receipt { key: key.clone(), starts: state.starts, sent }, message));
        }
        due
    }

    /// It has arrived.
    pub fn told(&mut self, to: usize, receipts: impl IntoIterator<Item = Receipt>) {
        for Receipt { key, starts, sent } in receipts {
            // What has begun anew meanwhile is told anew.
            let state = self.alerts.get_mut(&key).filter(|state| state.starts == starts);
            if let Some(place) = state.and_then(|state| state.sent.get_mut(to)) {
                *place = sent;
            }
        }
    }

    /// When something is due for the Alertmanager `to`, if nothing else happens.
    pub fn next(&self, to: usize, now: Now) -> Option<Now> {
        let due = |state: &State| match state.sent.get(to)? {
            Sent::Nothing => Some(now),
            Sent::Active(at) => Some(at.after(self.limits.interval).min(state.until)),
            Sent::Over => None,
        };
        self.alerts.values().filter_map(due).min()
    }

    /// Forgets what is over and was told; says how many were over that not everybody had heard of in time, or while there was
    /// room.
    pub fn sweep(&mut self, now: Now) -> usize {
        let mut unheard = 0;
        let is_tight = self.alerts.len() >= self.limits.max.div_ceil(2);
        let Self { limits, alerts, accounts, .. } = self;
        alerts.retain(|key, state| {
            let told = state.sent.iter().all(|sent| *sent == Sent::Over);
            let gone = state.until <= now && (told || is_tight || state.until.after(limits.keep) <= now);
            if gone {
                unheard += usize::from(state.sent.contains(&Sent::Nothing));
                if let Some(account) = account(key)
                    && let Some(count) = accounts.get_mut(&account)
                {
                    *count -= 1;
                    if *count == 0 {
                        accounts.remove(&account);
                    }
                }
            }
            !gone
        });
        unheard
    }

    /// Those who are charged with something.
    #[cfg(test)]
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// How many are not over.
    pub fn active(&self, now: Now) -> usize {
        self.alerts.values().filter(|state| state.until > now).count()
    }
}

/// Who is charged with an alert; nobody for the one that there are too many.
fn account(key: &Key) -> Option<Account> {
    match key.what {
        What::TooMany => None,
        What::Revocation(_) => Some(Account::Operators),
        _ => Some(Account::Principal(key.principal.clone())),
    }
}

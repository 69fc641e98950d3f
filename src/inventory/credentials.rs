//! What was seen of each credential: who presented it first and in which zone, and who and where else since. A credential
//! that a second workload presents has been copied, or was never meant to be one workload's; either way that second
//! workload is told of. The same holds for a second zone.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher as _,
    sync::{Arc, Mutex, PoisonError},
};

use foldhash::quality::RandomState;

use crate::clock::Now;

/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 16;
/// Credentials of one principal in one shard; one more and its oldest is forgotten, nobody else's.
const PER_PRINCIPAL: usize = 64;
/// Credentials of all principals in one shard.
const PER_SHARD: usize = 16 * 1024;
/// Shortest time between two looks for expired ones in a full shard, in seconds.
const SWEEP_S: i64 = 10;
/// Later presenters of one credential that are told apart, and later zones.
const OTHERS: usize = 8;

/// Credentials by fingerprint, with the principals that presented them.
#[derive(Debug)]
pub struct Credentials {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    seen: HashMap<Arc<str>, Seen, RandomState>,
    by_principal: HashMap<Arc<str>, VecDeque<Arc<str>>, RandomState>,
    /// When expired ones were looked for last: a full table is not gone through for every newcomer.
    swept: i64,
}

/// Who presents a credential, and in which declared zone, where one is declared.
#[derive(Debug, Clone, Copy)]
pub struct Presenter<'a> {
    pub principal: &'a Arc<str>,
    pub zone: Option<&'a str>,
}

/// What is noticed about a presented credential: since when it has been presented by this one after another principal, and
/// here after another zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reuse {
    pub by_another: Option<Now>,
    pub elsewhere: Option<Now>,
}

#[derive(Debug)]
struct Seen {
    principals: Presenters,
    zones: Option<Presenters>,
    /// When the credential expires, in seconds: it proves nothing afterwards.
    until: i64,
}

impl Default for Credentials {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::default() }
    }
}

impl Credentials {
    /// Notes that `by` presented the credential, which expires at `until`, in Unix seconds.
    pub fn presented(&self, fingerprint: &Arc<str>, by: Presenter<'_>, until: i64, now: Now) -> Reuse {
        let place = usize::try_from(self.hasher.hash_one(fingerprint)).unwrap_or(usize::MAX) % SHARDS;
        let Some(shard) = self.shards.get(place) else { return Reuse::default() };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        match shard.seen.get_mut(fingerprint) {
            Some(seen) if seen.until >= now.seconds() => seen.again(by, now),
            _ => {
                shard.insert(fingerprint, by, until, now);
                Reuse::default()
            }
        }
    }

    /// How many are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap().seen.len()).sum()
    }
}

impl Seen {
    fn again(&mut self, by: Presenter<'_>, now: Now) -> Reuse {
        let by_another = self.principals.again(by.principal, now);
        let elsewhere = by.zone.and_then(|zone| match &mut self.zones {
            Some(zones) => zones.again(zone, now),
            none => {
                *none = Some(Presenters::new(zone.into()));
                None
            }
        });
        Reuse { by_another, elsewhere }
    }
}

/// The first, and those that came later.
#[derive(Debug)]
struct Presenters {
    first: Arc<str>,
    others: Vec<(Arc<str>, Now)>,
}

impl Presenters {
    const fn new(first: Arc<str>) -> Self {
        Self { first, others: Vec::new() }
    }

    /// Since when `one` has been there, if it is not the first. Whoever comes beyond the bound is told of all the same, as if
    /// each time were the first.
    fn again(&mut self, one: &str, now: Now) -> Option<Now> {
        if *self.first == *one {
            return None;
        }
        if let Some((_, since)) = self.others.iter().find(|(other, _)| **other == *one) {
            return Some(*since);
        }
        if self.others.len() < OTHERS {
            self.others.push((one.into(), now));
        }
        Some(now)
    }
}

impl Shard {
    fn insert(&mut self, fingerprint: &Arc<str>, by: Presenter<'_>, until: i64, now: Now) {
        let Presenter { principal, zone } = by;
        if self.seen.len() >= PER_SHARD && now.seconds() >= self.swept.saturating_add(SWEEP_S) {
            self.swept = now.seconds();
            self.forget_expired(now);
        }
        let full = self.seen.len() >= PER_SHARD;
        let own = self.by_principal.entry(Arc::clone(principal)).or_default();
        if full || own.len() >= PER_PRINCIPAL {
            // In a full table a newcomer finds no room: what others have must not be pushed out.
            let Some(oldest) = own.pop_front() else {
                self.by_principal.remove(principal);
                return;
            };
            self.seen.remove(&oldest);
        }
        own.push_back(Arc::clone(fingerprint));
        let principals = Presenters::new(Arc::clone(principal));
        let zones = zone.map(|zone| Presenters::new(zone.into()));
        self.seen.insert(Arc::clone(fingerprint), Seen { principals, zones, until });
    }

    fn forget_expired(&mut self, now: Now) {
        self.seen.retain(|_, seen| seen.until >= now.seconds());
        let Self { seen, by_principal, .. } = self;
        by_principal.retain(|_, own| {
            own.retain(|fingerprint| seen.contains_key(fingerprint));
            !own.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(table: &Credentials, key: &Arc<str>, principal: &Arc<str>, until: i64, at: u64) -> Option<Now> {
        table.presented(key, Presenter { principal, zone: None }, until, Now::from_seconds(at)).by_another
    }

    #[test]
    fn the_second_presenter_is_told_of_and_never_the_first() {
        let table = Credentials::default();
        let (key, a, b): (Arc<str>, Arc<str>, Arc<str>) = ("k".into(), "a".into(), "b".into());
        let see = |principal, at| see(&table, &key, principal, 100, at);
        assert_eq!(see(&a, 1), None);
        assert_eq!(see(&a, 2), None);
        assert_eq!(see(&b, 3), Some(Now::from_seconds(3)));
        assert_eq!(see(&b, 9), Some(Now::from_seconds(3)), "since when, not each time anew");
        assert_eq!(see(&a, 10), None);
        assert_eq!(see(&b, 101), None, "an expired credential is another story");
    }

    #[test]
    fn a_second_zone_is_told_of_and_never_the_first() {
        let table = Credentials::default();
        let (key, principal): (Arc<str>, Arc<str>) = ("k".into(), "a".into());
        let see = |zone, at| {
            let reuse = table.presented(&key, Presenter { principal: &principal, zone }, 100, Now::from_seconds(at));
            assert_eq!(reuse.by_another, None);
            reuse.elsewhere
        };
        assert_eq!(see(None, 1), None);
        assert_eq!(see(Some("eu-1"), 2), None, "the first that is declared");
        assert_eq!(see(Some("us-1"), 3), Some(Now::from_seconds(3)));
        assert_eq!(see(Some("us-1"), 4), Some(Now::from_seconds(3)));
        assert_eq!(see(Some("eu-1"), 5), None);
        assert_eq!(see(None, 6), None);
    }

    #[test]
    fn a_million_credentials_of_one_principal_push_out_its_own_only() {
        let table = Credentials::default();
        let (victim, flood, thief): (Arc<str>, Arc<str>, Arc<str>) = ("victim".into(), "flood".into(), "thief".into());
        let key: Arc<str> = "stolen".into();
        see(&table, &key, &victim, 100, 1);
        for number in 0..1_000_000 {
            see(&table, &format!("{number}").into(), &flood, 100, 1);
        }
        assert!(table.len() <= SHARDS * PER_PRINCIPAL + 1, "{}", table.len());
        assert!(see(&table, &key, &thief, 100, 2).is_some());
    }

    #[test]
    fn many_principals_find_a_table_that_ends() {
        let table = Credentials::default();
        for number in 0..400_000 {
            see(&table, &format!("{number}").into(), &format!("p{number}").into(), 100, 1);
        }
        assert!(table.len() <= SHARDS * PER_SHARD, "{}", table.len());
        see(&table, &"late".into(), &"late".into(), 300, 200);
        assert!(see(&table, &"late".into(), &"thief".into(), 300, 201).is_some(), "expired ones make room");
    }
}

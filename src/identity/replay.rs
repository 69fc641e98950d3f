//! What may be used once: identifiers are remembered for as long as they could be used again. What one holder can make
//! us remember is bounded; over the bound, that holder is refused.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest;

use crate::clock::Now;

/// Identifiers of one holder within one window.
const PER_HOLDER: usize = 10_000;
/// Identifiers of all holders within one window.
const ALL: usize = 1_000_000;

type Digest = [u8; 16];

/// Identifiers that were used.
#[derive(Debug, Default)]
pub struct Replay {
    windows: Mutex<Windows>,
}

/// The current window and the one before it, so that everything is remembered for one window at least.
#[derive(Debug, Default)]
struct Windows {
    began: Option<Now>,
    current: Used,
    before: Used,
}

#[derive(Debug, Default)]
struct Used {
    by_holder: HashMap<Digest, HashSet<Digest>>,
    count: usize,
}

impl Used {
    fn has(&self, holder: &Digest, id: &Digest) -> bool {
        self.by_holder.get(holder).is_some_and(|used| used.contains(id))
    }
}

impl Replay {
    /// True when `holder` has not used this identifier within `span`, which is how long it could be used, and may use more.
    pub fn first(&self, holder: &str, id: &[&str], span: Duration, now: Now) -> bool {
        let (holder, id) = (digest_of(&[holder]), digest_of(id));
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let age = windows.began.map(|began| now.since_epoch().saturating_sub(began.since_epoch()));
        if age.is_none_or(|age| age >= span) {
            let stale = age.is_none_or(|age| age >= span.saturating_mul(2));
            let current = std::mem::take(&mut windows.current);
            windows.before = if stale { Used::default() } else { current };
            windows.began = Some(now);
        }
        if windows.before.has(&holder, &id) || windows.current.has(&holder, &id) || windows.current.count >= ALL {
            return false;
        }
        let used = windows.current.by_holder.entry(holder).or_default();
        if used.len() >= PER_HOLDER {
            return false;
        }
        used.insert(id);
        windows.current.count += 1;
        true
    }
}

/// Half of SHA-256 over the parts, each with its length, so that none can be read as two.
fn digest_of(parts: &[&str]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().get(..16).and_then(|half| half.try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(120);

    #[test]
    fn an_identifier_is_good_once_within_its_span() {
        let replay = Replay::default();
        let at = Now::from_seconds;
        assert!(replay.first("a", &["k", "1"], SPAN, at(1000)));
        assert!(!replay.first("a", &["k", "1"], SPAN, at(1001)));
        assert!(replay.first("a", &["k1", ""], SPAN, at(1001)), "parts do not run into each other");
        assert!(replay.first("b", &["k", "1"], SPAN, at(1001)));
        assert!(!replay.first("a", &["k", "1"], SPAN, at(1130)), "the window before counts too");
        assert!(replay.first("a", &["k", "1"], SPAN, at(1400)));
    }

    #[test]
    fn one_holder_fills_only_its_own_share() {
        let replay = Replay::default();
        for id in 0..PER_HOLDER {
            assert!(replay.first("flood", &[&id.to_string()], SPAN, Now::from_seconds(1)));
        }
        assert!(!replay.first("flood", &["more"], SPAN, Now::from_seconds(1)));
        assert!(replay.first("other", &["more"], SPAN, Now::from_seconds(1)));
    }
}

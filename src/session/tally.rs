//! How often an action was done within a day: counted in parts of three hours, so that what is older goes part by part and
//! a caller who acts every day is not counted for ever.

use super::Count;
use crate::clock::Now;

/// Length of a part, in nanoseconds.
const PART: u64 = 3 * 3600 * 1_000_000_000;
/// A day, and the part that is running.
const PARTS: usize = 9;
/// How long a count is kept after the last time.
pub(super) const DAY: u64 = 24 * 3600 * 1_000_000_000;

/// May be too much, by what was done in the three hours before the day, and is never too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    /// The newest first.
    parts: [u32; PARTS],
    /// Number of the newest part since the Unix epoch.
    newest: u64,
    first: u64,
    last: u64,
}

impl Tally {
    pub(super) fn once(now: u64) -> Self {
        Self::of(1, now, now)
    }

    /// What was counted elsewhere, as if all of it had been at `last`.
    pub(super) fn of(n: u64, first: u64, last: u64) -> Self {
        let mut parts = [0; PARTS];
        parts[0] = u32::try_from(n).unwrap_or(u32::MAX);
        Self { parts, newest: last / PART, first, last }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.turn(other.last);
        self.parts[0] = self.parts[0].saturating_add(other.total());
        self.first = if self.total() == other.total() { other.first } else { self.first.min(other.first) };
        self.last = self.last.max(other.last);
    }

    /// Takes one back: the latest, as nobody knows any more which.
    pub(super) fn take_back(&mut self) {
        if let Some(part) = self.parts.iter_mut().find(|part| **part > 0) {
            *part -= 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total() == 0
    }

    pub(super) const fn is_over(&self, now: u64) -> bool {
        self.last.saturating_add(DAY) < now
    }

    /// What counts at `now`; nothing where the last time is more than a day ago.
    pub(super) fn at(&self, now: u64) -> Option<Count> {
        let mut turned = *self;
        turned.turn(now);
        let n = u64::from(turned.total());
        (n > 0 && !self.is_over(now)).then_some(Count { n, first: Now { ns: turned.first }, last: Now { ns: turned.last } })
    }

    fn total(&self) -> u32 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// Lets go of what is older than a day. A clock that goes back turns nothing.
    fn turn(&mut self, now: u64) {
        let newest = now / PART;
        let by = usize::try_from(newest.saturating_sub(self.newest)).unwrap_or(PARTS).min(PARTS);
        if by == 0 {
            return;
        }
        let had_all = self.total();
        self.parts.rotate_right(by);
        self.parts.iter_mut().take(by).for_each(|part| *part = 0);
        self.newest = newest;
        if self.total() != had_all {
            let oldest = self.parts.iter().rposition(|part| *part > 0).unwrap_or_default();
            self.first = self.first.max((newest - oldest as u64).saturating_mul(PART));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = PART / 3;

    #[test]
    fn who_acts_every_day_is_counted_by_the_day() {
        let mut tally = Tally::once(0);
        for hour in 1..=240 {
            tally.add(&Tally::once(hour * HOUR));
        }
        let count = tally.at(240 * HOUR).unwrap();
        assert!((25..=27).contains(&count.n), "{count:?}");
        assert!(count.first.ns <= 216 * HOUR && count.first.ns >= 213 * HOUR, "{count:?}");
        assert_eq!(count.last.ns, 240 * HOUR);
        let later = tally.at(250 * HOUR).unwrap();
        assert!((14..=17).contains(&later.n), "what is older goes without another call: {later:?}");
        assert_eq!(tally.at(265 * HOUR), None);
    }

    #[test]
    fn a_burst_counts_for_a_day_and_never_less() {
        let mut tally = Tally::of(100, 5, 2 * HOUR);
        for hour in 2..=26 {
            assert_eq!(tally.at(hour * HOUR).map(|count| count.n), Some(100), "hour {hour}");
        }
        assert_eq!(tally.at(26 * HOUR + 1), None);
        tally.add(&Tally::once(40 * HOUR));
        assert_eq!(tally.at(40 * HOUR), Some(Count { n: 1, first: Now { ns: 40 * HOUR }, last: Now { ns: 40 * HOUR } }));
    }

    #[test]
    fn what_is_taken_back_is_not_counted_and_a_clock_that_goes_back_loses_nothing() {
        let mut tally = Tally::once(50 * HOUR);
        tally.add(&Tally::once(10 * HOUR));
        assert_eq!(tally.at(50 * HOUR).map(|count| (count.n, count.first.ns)), Some((2, 10 * HOUR)));
        tally.take_back();
        tally.take_back();
        assert!(tally.is_empty());
        tally.take_back();
        assert_eq!(tally.at(50 * HOUR), None);
    }
}

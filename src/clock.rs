//! The only place that reads the wall clock. A request takes `now` once, at the edge, and passes it down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall-clock time in nanoseconds since the Unix epoch. A clock before 1970 reads as the epoch itself, so that
/// nothing is valid yet rather than still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    pub ns: u64,
}

impl Now {
    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> i64 {
        (self.ns / 1_000_000_000) as i64
    }

    /// Nanoseconds since the Unix epoch, as far as they fit.
    pub fn nanoseconds(self) -> i64 {
        i64::try_from(self.ns).unwrap_or(i64::MAX)
    }

    pub const fn from_seconds(seconds: u64) -> Self {
        Self { ns: seconds.saturating_mul(1_000_000_000) }
    }

    /// So long after `self`.
    pub fn after(self, span: Duration) -> Self {
        Self { ns: self.ns.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)) }
    }

    pub fn since_epoch(self) -> Duration {
        Duration::from_nanos(self.ns)
    }

    /// RFC 3339 in UTC with nanoseconds, `2026-11-22T06:47:00.000000001Z`.
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_nanos(UNIX_EPOCH + self.since_epoch()).to_string()
    }
}

/// Reads the wall clock.
pub fn now() -> Now {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may read the clock")]
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { ns: u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX) }
}

//! Time, injected: the only place that reads the wall clock.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment with nanoseconds, from before 1970 to far past 2038 (`i64` seconds, as ext4's and the kernel's).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z, rounded towards the past.
    pub secs: i64,
    /// Nanoseconds past `secs`, 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// The moment `duration` later, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let nanos = self.nanos + duration.subsec_nanos();
        let carry = i64::from(nanos / 1_000_000_000);
        let secs = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        Self { secs: self.secs.saturating_add(secs).saturating_add(carry), nanos: nanos % 1_000_000_000 }
    }

    /// How long after `earlier` this is; zero if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = i128::from(self.secs - earlier.secs) * 1_000_000_000 + i128::from(self.nanos) - i128::from(earlier.nanos);
        u64::try_from(nanos.max(0)).map_or(Duration::MAX, Duration::from_nanos)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self { secs: -secs, nanos: 0 },
                    nanos => Self { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(stamp: Timestamp) -> Self {
        let nanos = Duration::from_nanos(u64::from(stamp.nanos));
        let whole = match u64::try_from(stamp.secs) {
            Ok(after) => UNIX_EPOCH.checked_add(Duration::from_secs(after)),
            Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(stamp.secs.unsigned_abs())),
        };
        whole.and_then(|time| time.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with microseconds, as the lineage shows it; years that RFC 3339 can't name print as seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const YEAR_10000: i64 = 253_402_300_800;
        if (0..YEAR_10000).contains(&self.secs) {
            write!(f, "{}", humantime::format_rfc3339_micros(SystemTime::from(*self)))
        } else {
            write!(f, "@{}.{:09}", self.secs, self.nanos)
        }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock: for stamps that people read. It may jump.
    fn now(&self) -> Timestamp;
    /// A clock that never goes back: for intervals.
    fn instant(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_times_round_trip_on_both_sides_of_1970_and_2038() {
        for (secs, nanos) in [(-2, 800_000_000), (-1, 0), (0, 0), (0, 1), (1, 5), (4_294_967_296, 7), (-3_000_000_000, 999_999_999)] {
            let stamp = Timestamp { secs, nanos };
            assert_eq!(Timestamp::from(SystemTime::from(stamp)), stamp);
        }
    }

    #[test]
    fn intervals_carry_and_saturate() {
        let stamp = Timestamp { secs: 1, nanos: 900_000_000 };
        let later = stamp.plus(Duration::from_millis(200));
        assert_eq!(later, Timestamp { secs: 2, nanos: 100_000_000 });
        assert_eq!(later.since(stamp), Duration::from_millis(200));
        assert_eq!(stamp.since(later), Duration::ZERO);
    }
}

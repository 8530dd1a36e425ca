//! The one clock of a file.
//!
//! Whoever makes the file writes down what its host's clocks say: the origin. Processes of the same
//! host (the same boot of it, in the same time namespace) share `CLOCK_MONOTONIC`, so their times
//! are exact to each other. Those of other hosts count from the origin by `CLOCK_REALTIME`, which is
//! as exact as the hosts' clocks agree: with NTP in one network a fraction of a millisecond.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Readings from which the closest pair of two clocks is taken: whoever is interrupted between the
/// two has another try.
const READINGS: usize = 16;

/// What the clocks said when a file was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Whose monotonic clock.
    pub(super) machine: String,
    pub(super) monotonic_ns: i64,
    pub(super) unix_ns: i64,
}

/// Turns instants into times of the file.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    anchor: Instant,
    anchor_ns: i64,
    /// Whether times are exact to those of whoever made the file.
    pub(super) is_shared: bool,
}

fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// A reading of the real-time clock and of the monotonic one at about the same time.
fn both() -> (i64, i64) {
    let reading = |_| {
        let before = read(ClockId::Monotonic);
        let unix = read(ClockId::Realtime);
        let after = read(ClockId::Monotonic);
        (after - before, before + (after - before) / 2, unix)
    };
    let closest = (0..READINGS).map(reading).min().expect("there are readings");
    (closest.1, closest.2)
}

fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
    format!("{} {}", boot.trim(), namespace.display())
}

impl Origin {
    pub(super) fn now() -> Self {
        let (monotonic_ns, unix_ns) = both();
        Self { machine: machine(), monotonic_ns, unix_ns }
    }
}

impl Clock {
    pub(super) fn new(origin: &Origin) -> Self {
        let is_shared = origin.machine == machine();
        let (monotonic_ns, unix_ns) = both();
        let offset_ns = if is_shared {
            0
        } else {
            unix_ns - monotonic_ns - origin.unix_ns + origin.monotonic_ns
        };
        // The standard library's clock is the monotonic one.
        let before = read(ClockId::Monotonic);
        let anchor = Instant::now();
        let after = read(ClockId::Monotonic);
        let anchor_ns = before + (after - before) / 2 - origin.monotonic_ns + offset_ns;
        Self { anchor, anchor_ns, is_shared }
    }

    /// Nanoseconds from the origin to an instant.
    pub(super) fn ns(&self, instant: Instant) -> i64 {
        let ns = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        match instant.checked_duration_since(self.anchor) {
            Some(after) => self.anchor_ns.saturating_add(ns(after)),
            None => self.anchor_ns.saturating_sub(ns(self.anchor - instant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn processes_of_a_host_share_a_clock_and_others_count_by_the_time_of_day() {
        let origin = Origin::now();
        let here = Clock::new(&origin);
        let elsewhere = Origin { machine: "another one".to_owned(), ..origin.clone() };
        let there = Clock::new(&elsewhere);
        assert!(here.is_shared && !there.is_shared);
        let instant = Instant::now();
        let difference = here.ns(instant) - there.ns(instant);
        // Nobody has set the clock of this host meanwhile; the two readings are close together.
        assert!(difference.abs() < 1_000_000_000, "{difference} ns");
        let later = instant + Duration::from_nanos(1234);
        assert_eq!(here.ns(later) - here.ns(instant), 1234);
        assert!(here.ns(instant) >= 0);
        let before = here.anchor - Duration::from_nanos(5);
        assert_eq!(here.anchor_ns - here.ns(before), 5);
    }
}

//! Whether the launcher is still there, where it is on another host.
//!
//! A pipe ends with the process at its other end; a connection whose cable is cut does not. So who is
//! asked by the launcher every [`PING_INTERVAL`](crate::protocol::PING_INTERVAL), and is not asked
//! any more, holds it for gone.

use rustix::process::Signal;

/// Intervals without a word after which the launcher is gone: 20 s. Counting them, rather than time,
/// holds nothing against the launcher while we were stopped ourselves.
const INTERVALS_MAX: u32 = 10;

/// How long the launcher has said nothing.
#[derive(Debug, Default)]
pub(super) struct Lease {
    intervals: u32,
    is_suspended: bool,
}

impl Lease {
    /// The launcher has said something.
    pub(super) fn heard(&mut self) {
        *self = Self::default();
    }

    /// It has passed this signal on, and may be about to stop itself.
    pub(super) fn passed_on(&mut self, signal: Signal) {
        self.is_suspended = signal == Signal::TSTP;
    }

    /// An interval has passed. Returns whether the launcher is gone.
    pub(super) fn has_run_out(&mut self) -> bool {
        if !self.is_suspended {
            self.intervals += 1;
        }
        self.intervals >= INTERVALS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(lease: &mut Lease, intervals: u32) -> bool {
        (0..intervals).any(|_| lease.has_run_out())
    }

    #[test]
    fn a_launcher_is_gone_when_it_says_nothing_for_long() {
        let mut lease = Lease::default();
        assert!(!passes(&mut lease, INTERVALS_MAX - 1));
        lease.heard();
        assert!(!passes(&mut lease, INTERVALS_MAX - 1));
        assert!(passes(&mut lease, 1));
    }

    #[test]
    fn a_launcher_that_is_suspended_is_not_gone_until_it_has_gone_on() {
        let mut lease = Lease::default();
        lease.passed_on(Signal::TSTP);
        assert!(!passes(&mut lease, 10 * INTERVALS_MAX));
        lease.heard();
        assert!(passes(&mut lease, INTERVALS_MAX));
    }
}

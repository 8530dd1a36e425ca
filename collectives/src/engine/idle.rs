//! What a thread does while nothing moves: spin, then yield, then sleep, each for a bounded time.

use std::time::{Duration, Instant};

/// Budgets of the idle loop. Nothing spins for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdlePolicy {
    /// Time to poll without giving the core away.
    pub(crate) spin: Duration,
    /// Time, after that, to poll and yield in turn.
    pub(crate) yielding: Duration,
}

impl IdlePolicy {
    /// With a core per rank, waiting costs nobody anything for a while. Sleeping costs more than the
    /// time to wake up: the kernel may wake a rank on its peer's core, and moves it away only once
    /// it finds both of them ready to run, which ranks that sleep in turns never are. A budget
    /// longer than a scheduler tick keeps them ready. Do not yield, for the same reason: ranks that
    /// share a core would take turns on it for ever.
    const OWN_CORE: Self = Self { spin: Duration::from_millis(2), yielding: Duration::ZERO };
    /// Where ranks outnumber cores, whoever waits is in the way of whom it waits for.
    const SHARED_CORE: Self = Self { spin: Duration::ZERO, yielding: Duration::from_millis(20) };

    /// Ranks in virtual time: only who waits lets it pass.
    pub(crate) const SIMULATED: Self = Self { spin: Duration::ZERO, yielding: Duration::ZERO };

    pub(crate) fn new(oversubscribed: bool) -> Self {
        if oversubscribed { Self::SHARED_CORE } else { Self::OWN_CORE }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdleAction {
    /// Poll again at once.
    Spin,
    /// Give the core away once, then poll again.
    Yield,
    /// Sleep until something is ready.
    Park,
}

/// One stretch of waiting.
#[derive(Debug)]
pub(crate) struct Idle {
    policy: IdlePolicy,
    since: Option<Instant>,
    polls: u32,
    stage: IdleAction,
}

/// Polls between two looks at the clock while spinning.
const POLLS_PER_LOOK: u32 = 16;

impl Idle {
    pub(crate) fn new(policy: IdlePolicy) -> Self {
        Self { policy, since: None, polls: 0, stage: Self::first_stage(policy) }
    }

    fn first_stage(policy: IdlePolicy) -> IdleAction {
        match (policy.spin.is_zero(), policy.yielding.is_zero()) {
            (false, _) => IdleAction::Spin,
            (true, false) => IdleAction::Yield,
            (true, true) => IdleAction::Park,
        }
    }

    /// Something moved.
    pub(crate) fn reset(&mut self) {
        if self.polls > 0 {
            *self = Self::new(self.policy);
        }
    }

    /// Nothing moved. Returns what to do, and the time if the clock was read.
    pub(crate) fn next(
        &mut self,
        clock: impl FnOnce() -> Instant,
    ) -> (IdleAction, Option<Instant>) {
        self.polls = self.polls.wrapping_add(1);
        if self.stage != IdleAction::Park && !self.polls.is_multiple_of(POLLS_PER_LOOK) {
            return (self.stage, None);
        }
        let now = clock();
        let waited = now - *self.since.get_or_insert(now);
        self.stage = if waited < self.policy.spin {
            IdleAction::Spin
        } else if waited < self.policy.spin + self.policy.yielding {
            IdleAction::Yield
        } else {
            IdleAction::Park
        };
        (self.stage, Some(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_goes_from_spinning_over_yielding_to_parking() {
        let policy =
            IdlePolicy { spin: Duration::from_millis(1), yielding: Duration::from_millis(1) };
        let mut idle = Idle::new(policy);
        let mut stages = vec![];
        while stages.last() != Some(&IdleAction::Park) {
            let (action, _) = idle.next(Instant::now);
            if stages.last() != Some(&action) {
                stages.push(action);
            }
        }
        assert_eq!(stages.first(), Some(&IdleAction::Spin));
        idle.reset();
        assert_eq!(idle.next(Instant::now).0, IdleAction::Spin);
    }

    #[test]
    fn ranks_that_share_a_core_never_spin() {
        let mut idle = Idle::new(IdlePolicy::new(true));
        assert_eq!(idle.next(Instant::now).0, IdleAction::Yield);
    }
}

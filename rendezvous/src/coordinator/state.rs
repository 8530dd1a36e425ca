//! The coordinator without I/O and without a clock.

use std::time::{Duration, Instant};

use crate::message::{Abort, ToCoordinator, ToRank};

/// What a coordinator must know of its job.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorConfig {
    /// Number of ranks.
    pub world_size: u32,
    /// The membership that it coordinates.
    pub epoch: u32,
    /// How long after the first rank the last one must have joined; `None` waits for ever.
    pub join_timeout: Option<Duration>,
    /// How long after the loss of a connection the epoch ends, so that a supervisor who knows
    /// better, such as the signal that killed the rank, can say so first.
    pub lost_grace: Duration,
}

/// The coordinator of one epoch.
#[derive(Debug)]
pub struct Coordinator {
    config: CoordinatorConfig,
}

impl Coordinator {
    /// A coordinator that nobody has joined.
    pub fn new(config: CoordinatorConfig) -> Self {
        Self { config }
    }

    /// A rank has joined.
    pub fn joined(&mut self, _rank: u32, _now: Instant) -> Vec<(u32, ToRank)> {
        todo!()
    }

    /// A rank has said something.
    pub fn handle(
        &mut self,
        _rank: u32,
        _message: ToCoordinator,
        _now: Instant,
    ) -> Vec<(u32, ToRank)> {
        todo!()
    }

    /// The connection of a rank has ended without goodbye; the epoch ends after the grace.
    pub fn disconnected(&mut self, _rank: u32, _reason: &str, _now: Instant) -> Vec<(u32, ToRank)> {
        todo!()
    }

    /// A rank is known to be dead; the epoch ends now.
    pub fn rank_lost(&mut self, _rank: u32, _reason: &str) -> Vec<(u32, ToRank)> {
        todo!()
    }

    /// Ends the epoch for a reason of the caller's.
    pub fn abort(&mut self, _culprit: Option<u32>, _reason: &str) -> Vec<(u32, ToRank)> {
        todo!()
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, _now: Instant) -> Vec<(u32, ToRank)> {
        todo!()
    }

    /// When [`Coordinator::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        todo!()
    }

    /// Why the epoch is over, if it is.
    pub fn aborted(&self) -> Option<&Abort> {
        let _ = self.config;
        todo!()
    }
}

//! A coordinator for ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Coordinator, CoordinatorConfig};
use crate::epoch::EpochNews;
use crate::heartbeat::{OperationCounter, ProgressTable};
use crate::message::{Abort, OperationReport, ToCoordinator, ToRank};

/// Longest wait before the deadlines of the coordinator are looked at.
const TURN: Duration = Duration::from_millis(100);

/// What the ranks share: nobody else runs the coordinator, so whoever says something does.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    coordinator: Coordinator,
    ranks: Vec<Told>,
}

/// What a rank was told, and how far it is.
#[derive(Debug)]
struct Told {
    news: EpochNews,
    progress: ProgressTable,
}

/// One rank's place at the coordinator of its process. Dropping it without
/// [goodbye](LocalLink::goodbye) is a death.
#[derive(Debug)]
pub struct LocalLink {
    shared: Arc<Shared>,
    rank: u32,
}

impl LocalLink {
    /// The places of all ranks of a job, which begins with epoch 0.
    pub fn all(world_size: u32) -> Vec<Self> {
        let mut coordinator = Coordinator::new(CoordinatorConfig {
            world_size,
            epoch: 0,
            join_timeout: None,
            lost_grace: Duration::ZERO,
            stall_report: None,
        });
        let now = Instant::now();
        let told = |rank| {
            coordinator.joined(rank, now);
            Told { news: EpochNews::new(0), progress: ProgressTable::default() }
        };
        let ranks = (0..world_size).map(told).collect();
        let state = Mutex::new(State { coordinator, ranks });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        (0..world_size).map(|rank| Self { shared: Arc::clone(&shared), rank }).collect()
    }

    /// As [`ControlClient::report`](crate::ControlClient::report).
    pub fn report(&self, epoch: u32, report: &OperationReport) {
        self.say(ToCoordinator::Report { epoch, report: report.clone() });
    }

    /// As [`ControlClient::track`](crate::ControlClient::track).
    pub fn track(&self, epoch: u32, context: u32, communicator: u32) -> OperationCounter {
        let mut state = self.lock();
        match self.told(&mut state) {
            told if told.news.epoch() == epoch => told.progress.track(context, communicator),
            _ => OperationCounter::default(),
        }
    }

    /// As [`ControlClient::poll_abort_of`](crate::ControlClient::poll_abort_of).
    pub fn poll_abort_of(&self, epoch: u32, context: u32, communicator: u32) -> Option<Abort> {
        self.told(&mut self.lock()).news.abort_of(epoch, context, communicator)
    }

    /// As [`ControlClient::next_epoch`](crate::ControlClient::next_epoch).
    ///
    /// # Errors
    /// Why the ranks did not meet.
    pub fn next_epoch(&self, epoch: u32, timeout: Duration) -> Result<u32, Abort> {
        self.told(&mut self.lock()).news.ask();
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.say(ToCoordinator::NextEpoch { epoch, timeout_ms });
        let mut state = self.lock();
        loop {
            if let Some(answer) = self.told(&mut state).news.answer(epoch) {
                return answer;
            }
            let woken = self.shared.changed.wait_timeout(state, TURN);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            self.turn(&mut state, Coordinator::tick);
        }
    }

    /// Leaves in good order.
    pub fn goodbye(&self) {
        self.say(ToCoordinator::Goodbye);
    }

    fn say(&self, message: ToCoordinator) {
        let rank = self.rank;
        self.turn(&mut self.lock(), |coordinator, now| {
            let mut told = coordinator.handle(rank, message, now);
            told.extend(coordinator.tick(now));
            told
        });
    }

    /// Lets the coordinator do something, which knows how far everybody is, and passes on what it
    /// says.
    fn turn(
        &self,
        state: &mut State,
        act: impl FnOnce(&mut Coordinator, Instant) -> Vec<(u32, ToRank)>,
    ) {
        let State { coordinator, ranks } = state;
        let now = Instant::now();
        // Nobody here is ever silent: a stopped process stops the coordinator, too.
        for (rank, told) in (0..).zip(&*ranks) {
            let (epoch, progress) = (told.news.epoch(), told.progress.news());
            coordinator.handle(rank, ToCoordinator::Heartbeat { epoch, progress }, now);
        }
        for (rank, message) in act(coordinator, now) {
            let told = usize::try_from(rank).ok().and_then(|rank| ranks.get_mut(rank));
            if let Some(told) = told
                && told.news.hear(&message)
            {
                told.progress.clear();
            }
        }
        self.shared.changed.notify_all();
    }

    fn told<'a>(&self, state: &'a mut State) -> &'a mut Told {
        let rank = usize::try_from(self.rank).unwrap_or(usize::MAX);
        &mut state.ranks[rank]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The coordinator does not panic, and what waits for it is read afresh.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        let rank = self.rank;
        self.turn(&mut self.lock(), |coordinator, now| {
            let mut told = coordinator.disconnected(rank, "it ended without goodbye", now);
            told.extend(coordinator.tick(now));
            told
        });
    }
}

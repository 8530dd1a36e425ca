//! The timed loop: warm-up, agreement on how much to measure, rounds, and collection.
//!
//! The rules, which `ci/peers.d` repeats for other libraries:
//! - every rank runs the same number of operations, which rank 0's warm-up decides;
//! - operations below 10 us are timed in batches that last at least that long;
//! - the clock is read once between two batches, and there is no barrier between them;
//! - the time of batch *i* is the maximum over ranks of its duration on each, divided by the
//!   operations in it.
//!
//! Where every result is checked, filling and checking must not be timed, and afterwards the ranks
//! have to line up again. A barrier lets them go at slightly different moments, which a short
//! operation would seem to pay for. So short operations run in *trains*: all buffers of a train
//! are filled, the ranks line up, one batch runs untimed and brings the ranks into step, the others
//! are timed as above, and then every result of the train, those of the first batch included, is
//! compared with the exact answer.
//!
//! The loop knows neither the operation nor the group: [`Workload`] and [`Group`] stand for them,
//! and [`Clock`] for time, so that tests drive it without any of the three.

mod runner;

use std::error::Error;

use crate::histogram::LatencyHistogram;
use runner::Runner;

/// Fewest batches of a round, however long one takes, unless a caller has a reason.
pub const BATCHES_MIN: u64 = 5;

/// Shortest warm-up of a measurement, unless a caller has a reason.
pub const WARMUP_NANOSECONDS: u64 = 20_000_000;

/// Any error of the operation or of the group.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The measured operation failed.
    #[error("the measured operation failed")]
    Operation(#[source] BoxError),
    /// The ranks could not agree on what to measure, or collect what they had measured.
    #[error("the ranks could not {step}")]
    Group {
        /// What they were doing.
        step: &'static str,
        /// Why not.
        #[source]
        source: BoxError,
    },
}

/// The ranks that measure together. Used only outside the timed loop. Every method is collective:
/// all ranks call it, in the same order.
pub trait Group {
    /// This process.
    fn rank(&self) -> u32;

    /// Number of processes.
    fn world_size(&self) -> u32;

    /// Returns once every rank has called.
    ///
    /// # Errors
    /// When a rank cannot be reached.
    fn barrier(&mut self) -> Result<(), BoxError>;

    /// Gives rank 0's value to every rank.
    ///
    /// # Errors
    /// When a rank cannot be reached.
    fn broadcast(&mut self, value: u64) -> Result<u64, BoxError>;

    /// Gives every rank all ranks' values, by rank. All ranks pass equally many.
    ///
    /// # Errors
    /// When a rank cannot be reached.
    fn gather(&mut self, values: &[u64]) -> Result<Vec<Vec<u64>>, BoxError>;
}

/// What is measured. A *slot* is one set of buffers; where every result is checked, each operation
/// between two checks has its own.
pub trait Workload {
    /// Bytes that one slot occupies.
    fn slot_bytes(&self) -> u64;

    /// Makes slots `0..count` usable, keeping those that exist.
    ///
    /// # Errors
    /// When memory cannot be had.
    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError>;

    /// Fills the input of a slot with the data of an iteration.
    fn prepare(&mut self, slot: usize, iteration: u64);

    /// Runs the operation once.
    ///
    /// # Errors
    /// Whatever the operation reports.
    fn run(&mut self, slot: usize) -> Result<(), BoxError>;

    /// Elements of the slot's output that are not the exact answer for that iteration.
    fn count_wrong(&mut self, slot: usize, iteration: u64) -> u64;

    /// Fills a slot with data that any number of operations leaves as it is: repeated sums would
    /// overflow, and products underflow into slow denormal numbers.
    fn settle(&mut self, slot: usize);
}

/// Time, in nanoseconds.
pub trait Clock {
    /// Elapsed time since any fixed moment.
    fn wall(&self) -> u64;

    /// CPU time of this process so far, user and system, all its threads.
    fn cpu(&self) -> u64;
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> u64 {
        nanoseconds(rustix::time::ClockId::Monotonic)
    }

    fn cpu(&self) -> u64 {
        nanoseconds(rustix::time::ClockId::ProcessCPUTime)
    }
}

fn nanoseconds(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    let part = |value: i64| u64::try_from(value).expect("these clocks start at zero");
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Which results are compared with the exact answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// All of them.
    Every,
    /// That of the first operation, before the warm-up.
    First,
    /// None.
    Off,
}

impl Check {
    /// The name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Every => "every",
            Self::First => "first",
            Self::Off => "off",
        }
    }
}

/// How much to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Rounds, at least 1.
    pub rounds: u32,
    /// Operations before the first one that counts.
    pub warmup: u64,
    /// Shortest time in nanoseconds before the first one that counts, e.g.
    /// [`WARMUP_NANOSECONDS`].
    pub warmup_ns: u64,
    /// Operations per round; `None`: as many as fit in [`Self::min_time_ns`].
    pub iterations: Option<u64>,
    /// Fewest batches of a round where the operations are not counted out, e.g. [`BATCHES_MIN`].
    pub batches_min: u64,
    /// Shortest round in nanoseconds.
    pub min_time_ns: u64,
    /// Which results are checked.
    pub check: Check,
}

/// What was measured; the same on every rank.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Operations timed, over all rounds.
    pub iterations: u64,
    /// Operations between two readings of the clock.
    pub batch: u64,
    /// Each round: times of one operation, slowest rank.
    pub rounds: Vec<LatencyHistogram>,
    /// Each rank's own durations, all rounds.
    pub ranks: Vec<LatencyHistogram>,
    /// CPU time of all ranks in the timed loops, in nanoseconds.
    pub cpu_ns: u64,
    /// Wrong elements over all ranks; `None` where unchecked.
    pub wrong: Option<u64>,
}

impl Measurement {
    /// Times of one operation, slowest rank, all rounds.
    pub fn total(&self) -> LatencyHistogram {
        let mut total = LatencyHistogram::new();
        self.rounds.iter().for_each(|round| total.merge(round));
        total
    }
}

/// Measures one workload. Every rank of the group calls this with the same settings.
///
/// `before_round` gets the number of each round, from 0, before it starts, and may use the group:
/// what it does itself is not timed.
///
/// # Errors
/// When the operation fails, or a rank is lost, or `before_round` has an error.
pub fn measure(
    group: &mut dyn Group,
    workload: &mut dyn Workload,
    clock: &dyn Clock,
    settings: &Settings,
    before_round: BeforeRound<'_>,
) -> Result<Measurement, RunError> {
    Runner { group, workload, clock, settings, iteration: 0, wrong: 0 }.measure(before_round)
}

/// What a caller of [`measure`] does between the rounds.
pub type BeforeRound<'a> = &'a mut dyn FnMut(u32, &mut dyn Group) -> Result<(), RunError>;

/// Times `batches` batches of `batch` operations each, unchecked and without warming up, as one
/// round of [`measure`] would; a single batch without a lead, as it will be long. Every rank of the group calls this with the same numbers. Returns
/// times of one operation, slowest rank; the workload has been settled before.
///
/// # Errors
/// When the operation fails, or a rank is lost.
pub fn measure_again(
    group: &mut dyn Group,
    workload: &mut dyn Workload,
    clock: &dyn Clock,
    batches: u64,
    batch: u64,
) -> Result<LatencyHistogram, RunError> {
    let settings = Settings {
        rounds: 1,
        warmup: 0,
        warmup_ns: 0,
        iterations: Some(batches.saturating_mul(batch)),
        batches_min: 1,
        min_time_ns: 0,
        check: Check::Off,
    };
    let runner = Runner { group, workload, clock, settings: &settings, iteration: 0, wrong: 0 };
    runner.single_round(batches, batch)
}

#[cfg(test)]
mod tests;

//! The timed loop: warm-up, agreement on how much to measure, rounds, and collection.
//!
//! The rules, which `ci/peers.d` repeats for other libraries:
//! - every rank runs the same number of operations, which rank 0's warm-up decides;
//! - operations below 10 us are timed in batches that last at least that long;
//! - the clock is read once between two batches, and there is no barrier between them (unless
//!   every result is checked, which needs the ranks lined up again after each check);
//! - the time of batch *i* is the maximum over ranks of its duration on each, divided by the
//!   operations in it.
//!
//! The loop knows neither the operation nor the group: [`Workload`] and [`Group`] stand for them,
//! and [`Clock`] for time, so that tests drive it without any of the three.

use std::error::Error;

use crate::histogram::LatencyHistogram;
use crate::metrics::as_u64;

/// Shortest warm-up of each measurement.
const WARMUP_NANOSECONDS: u64 = 20_000_000;

/// Shortest batch: three hundred readings of the clock.
const BATCH_NANOSECONDS: u64 = 10_000;

/// Fewest batches of a round, however long one takes.
const BATCHES_MIN: u64 = 5;

/// Most batches of a round: what is kept per batch and rank is 8 bytes, so 8 MiB per rank.
const BATCHES_MAX: u64 = 1 << 20;

/// Buffers of all batched operations together, in bytes, where every result is checked.
const SLOT_BYTES_MAX: u64 = 8 << 20;

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
/// of a batch has its own.
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
    /// Operations before the first one that counts; more are run until 20 ms have passed.
    pub warmup: u64,
    /// Operations per round; `None`: as many as fit in [`Self::min_time_ns`], 5 batches at least.
    pub iterations: Option<u64>,
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
/// `on_round` is told the number of each round, from 0, before it starts.
///
/// # Errors
/// When the operation fails, or a rank is lost.
pub fn measure(
    group: &mut dyn Group,
    workload: &mut dyn Workload,
    clock: &dyn Clock,
    settings: &Settings,
    on_round: &mut dyn FnMut(u32),
) -> Result<Measurement, RunError> {
    Runner { group, workload, clock, settings, iteration: 0, wrong: 0 }.measure(on_round)
}

struct Runner<'a> {
    group: &'a mut dyn Group,
    workload: &'a mut dyn Workload,
    clock: &'a dyn Clock,
    settings: &'a Settings,
    /// Counts checked operations, so that each has data of its own.
    iteration: u64,
    wrong: u64,
}

/// How a round is divided; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    batches: u64,
    batch: u64,
}

impl Runner<'_> {
    fn measure(mut self, on_round: &mut dyn FnMut(u32)) -> Result<Measurement, RunError> {
        self.workload.reserve_slots(1).map_err(RunError::Operation)?;
        if self.settings.check != Check::Off {
            self.workload.prepare(0, self.iteration);
            self.workload.run(0).map_err(RunError::Operation)?;
            self.wrong += self.workload.count_wrong(0, self.iteration);
            self.iteration += 1;
        }
        self.workload.settle(0);
        let extent = extent_of(self.warm_up()?, self.settings, self.workload.slot_bytes());
        let slots = if self.settings.check == Check::Every { to_usize(extent.batch) } else { 1 };
        self.workload.reserve_slots(slots).map_err(RunError::Operation)?;

        let ranks = to_usize(u64::from(self.group.world_size()));
        let mut measurement = Measurement {
            iterations: extent.batches * extent.batch * u64::from(self.settings.rounds),
            batch: extent.batch,
            rounds: Vec::new(),
            ranks: vec![LatencyHistogram::new(); ranks],
            cpu_ns: 0,
            wrong: None,
        };
        let mut times = vec![0; to_usize(extent.batches)];
        for round in 0..self.settings.rounds {
            on_round(round);
            let cpu_ns = self.round(extent, &mut times)?;
            self.collect(extent, &times, cpu_ns, &mut measurement)?;
        }
        if self.settings.check != Check::Off {
            let wrong = self.gather("add up wrong elements", &[self.wrong])?;
            measurement.wrong = Some(wrong.iter().map(|of_rank| of_rank[0]).sum());
        }
        Ok(measurement)
    }

    /// Warms up and returns rank 0's time of one operation in nanoseconds, at least 1.
    fn warm_up(&mut self) -> Result<u64, RunError> {
        let mut done = 0;
        let mut operations = 1;
        loop {
            self.barrier()?;
            let before = self.clock.wall();
            for _ in 0..operations {
                self.workload.run(0).map_err(RunError::Operation)?;
            }
            let elapsed = self.clock.wall() - before;
            let elapsed = self
                .group
                .broadcast(elapsed)
                .map_err(|source| RunError::Group { step: "agree on iterations", source })?;
            done += operations;
            if elapsed >= WARMUP_NANOSECONDS && done >= self.settings.warmup {
                return Ok((elapsed / operations).max(1));
            }
            // A clock that stands still must not warm up for ever.
            operations = (operations * 2).min(1 << 24);
            if done > 1 << 28 {
                return Ok(1);
            }
        }
    }

    /// Runs one round, leaves each batch's duration in `times` and returns the CPU time spent.
    fn round(&mut self, extent: Extent, times: &mut [u64]) -> Result<u64, RunError> {
        match self.settings.check {
            Check::Every => self.checked_round(extent, times),
            Check::First | Check::Off => self.plain_round(extent, times),
        }
    }

    fn plain_round(&mut self, extent: Extent, times: &mut [u64]) -> Result<u64, RunError> {
        self.barrier()?;
        let cpu = self.clock.cpu();
        let mut before = self.clock.wall();
        for time in times {
            for _ in 0..extent.batch {
                self.workload.run(0).map_err(RunError::Operation)?;
            }
            let after = self.clock.wall();
            *time = after - before;
            before = after;
        }
        Ok(self.clock.cpu() - cpu)
    }

    fn checked_round(&mut self, extent: Extent, times: &mut [u64]) -> Result<u64, RunError> {
        let slots = 0..to_usize(extent.batch);
        let mut cpu_ns = 0;
        for time in times {
            let first = self.iteration;
            for slot in slots.clone() {
                self.workload.prepare(slot, first + as_u64(slot));
            }
            self.barrier()?;
            let cpu = self.clock.cpu();
            let before = self.clock.wall();
            for slot in slots.clone() {
                self.workload.run(slot).map_err(RunError::Operation)?;
            }
            *time = self.clock.wall() - before;
            cpu_ns += self.clock.cpu() - cpu;
            for slot in slots.clone() {
                self.wrong += self.workload.count_wrong(slot, first + as_u64(slot));
            }
            self.iteration += extent.batch;
        }
        Ok(cpu_ns)
    }

    /// Brings the ranks' durations together and adds them to `measurement`.
    fn collect(
        &mut self,
        extent: Extent,
        times: &[u64],
        cpu_ns: u64,
        measurement: &mut Measurement,
    ) -> Result<(), RunError> {
        let by_rank = self.gather("collect their times", times)?;
        let cpu = self.gather("collect their CPU time", &[cpu_ns])?;
        measurement.cpu_ns += cpu.iter().map(|of_rank| of_rank[0]).sum::<u64>();

        let per_operation = |time: u64| (time + extent.batch / 2) / extent.batch;
        let mut slowest = LatencyHistogram::new();
        for index in 0..times.len() {
            let time = by_rank.iter().map(|of_rank| of_rank[index]).max();
            slowest.record_nanoseconds(per_operation(time.expect("at least this rank")));
        }
        measurement.rounds.push(slowest);
        for (histogram, of_rank) in measurement.ranks.iter_mut().zip(&by_rank) {
            for time in of_rank {
                histogram.record_nanoseconds(per_operation(*time));
            }
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), RunError> {
        self.group
            .barrier()
            .map_err(|source| RunError::Group { step: "line up for the next round", source })
    }

    fn gather(&mut self, step: &'static str, values: &[u64]) -> Result<Vec<Vec<u64>>, RunError> {
        self.group.gather(values).map_err(|source| RunError::Group { step, source })
    }
}

/// Divides a round, given the time of one operation.
fn extent_of(operation_ns: u64, settings: &Settings, slot_bytes: u64) -> Extent {
    let mut batch = BATCH_NANOSECONDS.div_ceil(operation_ns).max(1);
    if settings.check == Check::Every {
        batch = batch.min((SLOT_BYTES_MAX / slot_bytes.max(1)).max(1));
    }
    let batches = match settings.iterations {
        Some(iterations) => {
            batch = batch.min(iterations.max(1));
            iterations.div_ceil(batch).max(1)
        }
        None => settings.min_time_ns.div_ceil(operation_ns * batch).max(BATCHES_MIN),
    };
    Extent { batches: batches.min(BATCHES_MAX), batch }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("counts of ranks and batches are bounded far below 2^32")
}

#[cfg(test)]
mod tests;

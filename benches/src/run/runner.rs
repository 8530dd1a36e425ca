//! How one measurement proceeds.

use super::{
    BeforeRound, BoxError, Check, Clock, Group, Measurement, RunError, Settings, Workload,
};
use crate::histogram::LatencyHistogram;
use crate::metrics::as_u64;

/// Shortest batch: three hundred readings of the clock.
const BATCH_NANOSECONDS: u64 = 10_000;

/// Most batches of a round: what is kept per batch and rank is 8 bytes, so 8 MiB per rank.
pub(super) const BATCHES_MAX: u64 = 1 << 20;

/// Length of a train: operations from here on are so long that lining up does not show.
const TRAIN_NANOSECONDS: u64 = 1_000_000;

/// Buffers of a train: they should stay in a second-level cache, as one operation's would that
/// runs again and again.
const TRAIN_BYTES_MAX: u64 = 256 << 10;

/// Operations of a train: what a slot costs besides its buffers is bounded too.
const TRAIN_OPERATIONS_MAX: u64 = 4096;

pub(super) struct Runner<'a> {
    pub(super) group: &'a mut dyn Group,
    pub(super) workload: &'a mut dyn Workload,
    pub(super) clock: &'a dyn Clock,
    pub(super) settings: &'a Settings,
    /// Counts checked operations, so that each has data of its own.
    pub(super) iteration: u64,
    pub(super) wrong: u64,
}

/// How a round is divided; the same on every rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Timed batches of a round.
    pub(super) batches: u64,
    /// Operations of a batch.
    pub(super) batch: u64,
    /// Timed batches between two checks, where every result is checked.
    pub(super) train: u64,
    /// Batches that run untimed at the head of a round or of a train.
    pub(super) lead: u64,
}

impl Extent {
    /// Operations between two checks.
    fn slots(self) -> u64 {
        (self.train.min(self.batches) + self.lead) * self.batch
    }
}

impl Runner<'_> {
    pub(super) fn measure(
        mut self,
        before_round: BeforeRound<'_>,
    ) -> Result<Measurement, RunError> {
        self.workload.reserve_slots(1).map_err(RunError::Operation)?;
        if self.settings.check != Check::Off {
            self.workload.prepare(0, self.iteration);
            self.workload.run(0).map_err(RunError::Operation)?;
            self.wrong += self.workload.count_wrong(0, self.iteration);
            self.iteration += 1;
        }
        self.workload.settle(0);
        let operation_ns = self.warm_up()?;
        let extent = extent_of(operation_ns, self.settings, self.largest_slot()?);
        let slots = if self.settings.check == Check::Every { extent.slots() } else { 1 };
        self.workload.reserve_slots(to_usize(slots)).map_err(RunError::Operation)?;

        let mut measurement = self.empty_measurement(extent);
        let mut times = vec![0; to_usize(extent.batches)];
        for round in 0..self.settings.rounds {
            before_round(round, self.group)?;
            let cpu_ns = self.round(extent, &mut times)?;
            self.collect(extent, &times, cpu_ns, &mut measurement)?;
        }
        if self.settings.check != Check::Off {
            let wrong = self.gather("add up wrong elements", &[self.wrong])?;
            measurement.wrong = Some(wrong.iter().map(|of_rank| of_rank[0]).sum());
        }
        Ok(measurement)
    }

    /// Bytes of a slot on the rank where it is largest: a root may have buffers that others lack,
    /// and all ranks have to divide their rounds in the same way.
    fn largest_slot(&mut self) -> Result<u64, RunError> {
        let own = self.workload.slot_bytes();
        let all = self.gather("agree on buffers", &[own])?;
        Ok(all.iter().map(|of_rank| of_rank[0]).max().unwrap_or(own))
    }

    /// One unchecked round of these numbers.
    pub(super) fn single_round(
        mut self,
        batches: u64,
        batch: u64,
    ) -> Result<LatencyHistogram, RunError> {
        self.workload.reserve_slots(1).map_err(RunError::Operation)?;
        let batches = batches.clamp(1, BATCHES_MAX);
        let extent = Extent { batches, batch, train: 1, lead: u64::from(batches > 1) };
        let mut times = vec![0; to_usize(extent.batches)];
        let cpu_ns = self.plain_round(extent, &mut times)?;
        let mut measurement = self.empty_measurement(extent);
        self.collect(extent, &times, cpu_ns, &mut measurement)?;
        Ok(measurement.total())
    }

    fn empty_measurement(&self, extent: Extent) -> Measurement {
        let ranks = to_usize(u64::from(self.group.world_size()));
        Measurement {
            iterations: extent.batches * extent.batch * u64::from(self.settings.rounds),
            batch: extent.batch,
            rounds: Vec::new(),
            ranks: vec![LatencyHistogram::new(); ranks],
            cpu_ns: 0,
            wrong: None,
        }
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
            if elapsed >= self.settings.warmup_ns && done >= self.settings.warmup {
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
        // Between the rounds the caches and the ranks' steps belonged to something else.
        for _ in 0..extent.lead * extent.batch {
            self.workload.run(0).map_err(RunError::Operation)?;
        }
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
        let mut cpu_ns = 0;
        for train in times.chunks_mut(to_usize(extent.train)) {
            let timed = as_u64(train.len());
            let operations = (timed + extent.lead) * extent.batch;
            let first = self.iteration;
            for slot in 0..operations {
                self.workload.prepare(to_usize(slot), first + slot);
            }
            self.barrier()?;
            let cpu = self.clock.cpu();
            self.run_train(extent, train)?;
            // The untimed operations cost as much as the others; asking for the CPU time between
            // them is a system call that would disturb the first timed one.
            cpu_ns += (self.clock.cpu() - cpu) * timed / (timed + extent.lead);
            for slot in 0..operations {
                self.wrong += self.workload.count_wrong(to_usize(slot), first + slot);
            }
            self.iteration += operations;
        }
        Ok(cpu_ns)
    }

    fn run_train(&mut self, extent: Extent, times: &mut [u64]) -> Result<(), RunError> {
        let mut slot = 0;
        let mut run_batch = |workload: &mut dyn Workload| {
            for _ in 0..extent.batch {
                workload.run(slot).map_err(RunError::Operation)?;
                slot += 1;
            }
            Ok::<(), RunError>(())
        };
        for _ in 0..extent.lead {
            run_batch(self.workload)?;
        }
        let mut before = self.clock.wall();
        for time in times {
            run_batch(self.workload)?;
            let after = self.clock.wall();
            *time = after - before;
            before = after;
        }
        Ok(())
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
        let source = |source: BoxError| RunError::Group { step, source };
        self.group.gather(values).map_err(source)
    }
}

/// Divides a round, given the time of one operation.
pub(super) fn extent_of(operation_ns: u64, settings: &Settings, slot_bytes: u64) -> Extent {
    let mut batch = BATCH_NANOSECONDS.div_ceil(operation_ns).max(1);
    let mut train = 1;
    let lead = u64::from(operation_ns < TRAIN_NANOSECONDS);
    if settings.check == Check::Every {
        let operations = (TRAIN_NANOSECONDS / operation_ns)
            .min(TRAIN_BYTES_MAX / slot_bytes.max(1))
            .clamp(1, TRAIN_OPERATIONS_MAX);
        batch = batch.min(operations);
        train = operations / batch;
    }
    let batches = match settings.iterations {
        Some(iterations) => {
            batch = batch.min(iterations.max(1));
            iterations.div_ceil(batch).max(1)
        }
        None => settings
            .min_time_ns
            .div_ceil(operation_ns.saturating_mul(batch))
            .max(settings.batches_min)
            .max(1),
    };
    Extent { batches: batches.min(BATCHES_MAX), batch, train, lead }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("counts of ranks and batches are bounded far below 2^32")
}

//! Another library, measured between the rounds of ours, on the same ranks.
//!
//! MPI's collectives run in this process, as workloads of the same loop (feature `mpi`); those of
//! Gloo and Horovod in a Python process beside each rank ([`Helper`]), which is stopped while ours run.

mod helper;
#[cfg(feature = "mpi")]
mod mpi;

use std::fmt;

pub use helper::{Helper, HelperError, HelperYardstick, Request};
#[cfg(feature = "mpi")]
pub use mpi::{MpiError, MpiLibrary};

use crate::run::{
    BoxError, Check, Group, Measurement, RunError, Settings, SystemClock, Workload, measure,
    measure_again,
};
use crate::schema::PeerResult;
use crate::stats::{CompareError, Ratio, median};

/// Another library's operation, as it is measured in rounds.
pub trait Yardstick {
    /// The library, e.g. `Open MPI`, and its version.
    fn library(&self) -> (&str, &str);

    /// Prepares, and returns how many elements of the first result are wrong, over all ranks.
    ///
    /// # Errors
    /// When the operation fails or does not exist, or a rank is lost.
    fn begin(&mut self, group: &mut dyn Group) -> Result<u64, RunError>;

    /// Measures a round. Returns nanoseconds of an operation: the mean of the slowest ranks' times.
    ///
    /// # Errors
    /// When the operation fails, or a rank is lost.
    fn round(&mut self, group: &mut dyn Group) -> Result<f64, RunError>;
}

/// A yardstick in use: what it has measured so far.
pub struct Beside<'a> {
    yardstick: Box<dyn Yardstick + 'a>,
    wrong: Option<u64>,
    rounds_ns: Vec<f64>,
}

impl fmt::Debug for Beside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside")
            .field("library", &self.yardstick.library())
            .field("rounds_ns", &self.rounds_ns)
            .finish_non_exhaustive()
    }
}

impl<'a> Beside<'a> {
    /// Nothing is measured yet.
    pub fn new(yardstick: impl Yardstick + 'a) -> Self {
        Self { yardstick: Box::new(yardstick), wrong: None, rounds_ns: Vec::new() }
    }

    /// Measures one round, before one of ours.
    ///
    /// # Errors
    /// As for [`Yardstick`].
    pub fn round(&mut self, group: &mut dyn Group) -> Result<(), RunError> {
        if self.wrong.is_none() {
            self.wrong = Some(self.yardstick.begin(group)?);
        }
        self.rounds_ns.push(self.yardstick.round(group)?);
        Ok(())
    }

    /// How ours compares.
    ///
    /// # Errors
    /// When a time is not a positive number.
    pub fn result(&self, ours: &Measurement) -> Result<PeerResult, CompareError> {
        let ours_ns: Vec<f64> = ours.rounds.iter().map(|round| round.mean()).collect();
        let ratio = Ratio::of_rounds(&ours_ns, &self.rounds_ns)?;
        let (name, version) = self.yardstick.library();
        Ok(PeerResult {
            name: name.to_owned(),
            version: version.to_owned(),
            rounds_us: self.rounds_ns.iter().map(|round| round / 1e3).collect(),
            time_us: median(&self.rounds_ns) / 1e3,
            ratio: ratio.point,
            low: ratio.low,
            high: ratio.high,
            wrong: self.wrong.unwrap_or(0),
        })
    }
}

/// A workload of ours that another library carries out, measured by our loop.
pub struct WorkloadYardstick<'a> {
    workload: Box<dyn Workload + 'a>,
    library: (String, String),
    settings: Settings,
    clock: SystemClock,
    /// Batches of a round, and operations of a batch.
    extent: (u64, u64),
}

impl fmt::Debug for WorkloadYardstick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadYardstick").field("library", &self.library).finish_non_exhaustive()
    }
}

impl<'a> WorkloadYardstick<'a> {
    /// `library` is its name and version; rounds are as long as `settings` says.
    pub fn new(
        workload: Box<dyn Workload + 'a>,
        library: (String, String),
        settings: &Settings,
    ) -> Self {
        let check = if settings.check == Check::Off { Check::Off } else { Check::First };
        let settings = Settings { rounds: 1, check, ..*settings };
        Self { workload, library, settings, clock: SystemClock, extent: (0, 0) }
    }
}

impl Yardstick for WorkloadYardstick<'_> {
    fn library(&self) -> (&str, &str) {
        (&self.library.0, &self.library.1)
    }

    /// Also a round that does not count, which finds out how many operations make one.
    fn begin(&mut self, group: &mut dyn Group) -> Result<u64, RunError> {
        let workload = self.workload.as_mut();
        let nothing = &mut |_: u32, _: &mut dyn Group| Ok(());
        let trial = measure(group, workload, &self.clock, &self.settings, nothing)?;
        self.extent = (trial.iterations / trial.batch.max(1), trial.batch);
        Ok(trial.wrong.unwrap_or(0))
    }

    fn round(&mut self, group: &mut dyn Group) -> Result<f64, RunError> {
        let (batches, batch) = self.extent;
        let workload = self.workload.as_mut();
        Ok(measure_again(group, workload, &self.clock, batches, batch)?.mean())
    }
}

/// The collectives of another library, on the buffers of a
/// [`CollectiveWorkload`](crate::ranks::CollectiveWorkload).
pub trait Library<T>: fmt::Debug {
    /// In one buffer, as [`Communicator`](paceline_collectives::Communicator) works in it, except
    /// that the own block of a reduce-scatter ends at the beginning.
    ///
    /// # Errors
    /// What the library says.
    fn in_place(&self, data: &mut [T]) -> Result<(), BoxError>;

    /// From one buffer into another.
    ///
    /// # Errors
    /// What the library says.
    fn apart(&self, input: &[T], output: &mut [T]) -> Result<(), BoxError>;
}

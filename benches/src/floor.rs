//! The floor: how fast the same bytes cross the same transport when nothing else is done.
//!
//! Every rank sends and receives, at the same time, as many bytes as the best algorithm must move
//! over each rank's link (the *bus* bytes of [`Collective::bus_factor`]): to the next rank and from
//! the previous one, in pieces of several sizes, or to and from all others in one call. The fastest
//! way counts. No reduction, no dependency between pieces: what a collective takes longer is its own
//! doing.
//!
//! A machine is not equally fast from one second to the next. So the ways are only compared once,
//! and the best of them are measured again before every round of the collective: both medians then
//! come from the same moments.
//!
//! A broadcast or a reduction between two ranks moves its bytes one way only, and so do gather and
//! scatter between any; they may well beat an exchange; the record then says that the floor is none.

use crate::histogram::LatencyHistogram;
use crate::metrics::{Collective, as_f64, as_u64};
use crate::run::{
    BoxError, Check, Clock, Group, Measurement, RunError, Settings, Workload, measure,
    measure_again,
};

/// Sizes of the pieces that are tried, in bytes, besides a single one.
const PIECES: [u64; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// Longest exchange that is carried out; longer ones take in proportion, and no memory.
const EXCHANGE_BYTES_MAX: u64 = 64 << 20;

/// How long each way is tried at first.
const TRIAL_NANOSECONDS: u64 = 10_000_000;

/// And how long before, so that it is not the first touch of memory that is measured.
const TRIAL_WARMUP_NANOSECONDS: u64 = 5_000_000;

/// Fewest exchanges of a trial, however long one takes.
const TRIAL_BATCHES_MIN: u64 = 2;

/// Ways that took up to so many times the best one's time may yet turn out to be the best.
const NEAR_BEST: f64 = 1.25;

/// Most ways that are measured in every round.
const CANDIDATES_MAX: usize = 2;

/// A result this much faster than the floor shows that the floor was not the best exchange.
const VALID_PCT_MAX: f64 = 105.0;

/// How the bytes are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// To the next rank and from the previous one, in pieces of at most so many bytes.
    Pieces(u64),
    /// An equal share to and from every other rank, in the way that the transport does best: where
    /// memory is shared, by reading each other's.
    Everybody,
}

/// Sending and receiving at the same time.
pub trait Exchange {
    /// Sends and receives `bytes` (with [`Manner::Everybody`] as many for each other rank as make
    /// up at least that), and returns when both directions are through.
    ///
    /// # Errors
    /// When a peer is lost, or memory cannot be had.
    fn exchange(&mut self, bytes: u64, manner: Manner) -> Result<(), BoxError>;
}

/// The fastest exchange found for some number of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Bytes in each direction.
    pub bytes: u64,
    /// Which way was fastest.
    pub manner: Manner,
    /// Median time of an exchange in nanoseconds, slowest rank.
    pub median_ns: f64,
}

impl Floor {
    /// The floor's median as a share of the result's, in per cent; `None` where the result is
    /// more than 5 % faster than the floor, which invalidates the floor.
    pub fn percent(&self, result: &Measurement) -> Option<f64> {
        let median_ns = as_f64(result.total().percentile(50.0));
        let percent = 100.0 * self.median_ns / median_ns;
        (median_ns > 0.0 && percent <= VALID_PCT_MAX).then_some(percent)
    }
}

/// Bytes that have to cross each rank's link in each direction, whatever the algorithm.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most twice a size below 2^63, never negative"
)]
pub fn exchange_bytes(collective: Collective, bytes: u64, world_size: u32) -> u64 {
    (as_f64(bytes) * collective.bus_factor(world_size)).round() as u64
}

/// Bytes of the buffers for such an exchange between so many ranks.
pub fn buffer_bytes(bytes: u64, world_size: u32) -> u64 {
    let measured = bytes.min(EXCHANGE_BYTES_MAX);
    match world_size {
        0 | 1 => 0,
        // An input, and an output that has a share for this rank itself.
        _ => 2 * measured + measured.div_ceil(u64::from(world_size) - 1),
    }
}

/// One way to exchange the bytes, and how long it took in the rounds so far.
#[derive(Clone, Debug)]
struct Candidate {
    manner: Manner,
    /// Batches of a round, and exchanges of a batch.
    extent: (u64, u64),
    times: LatencyHistogram,
}

/// The floor for so many bytes in each direction, found in the course of a measurement.
#[derive(Clone, Debug)]
pub struct FloorSearch {
    bytes: u64,
    candidates: Vec<Candidate>,
}

impl FloorSearch {
    /// Tries every way once and keeps the best. Every rank calls this together.
    ///
    /// `None` where nothing has to cross a link.
    ///
    /// # Errors
    /// When an exchange fails, or a rank is lost.
    pub fn begin(
        group: &mut dyn Group,
        exchange: &mut dyn Exchange,
        clock: &dyn Clock,
        bytes: u64,
    ) -> Result<Option<Self>, RunError> {
        if bytes == 0 || group.world_size() < 2 {
            return Ok(None);
        }
        let settings = Settings {
            rounds: 1,
            warmup: 1,
            warmup_ns: TRIAL_WARMUP_NANOSECONDS,
            iterations: None,
            batches_min: TRIAL_BATCHES_MIN,
            min_time_ns: TRIAL_NANOSECONDS,
            check: Check::Off,
        };
        let measured = bytes.min(EXCHANGE_BYTES_MAX);
        let mut trials = Vec::new();
        let pieces = PIECES.into_iter().filter(|piece| *piece < measured).chain([measured]);
        for manner in pieces.map(Manner::Pieces).chain([Manner::Everybody]) {
            let mut workload = Bare { exchange: &mut *exchange, bytes: measured, manner };
            let trial = measure(group, &mut workload, clock, &settings, &mut |_, _| Ok(()))?;
            // Half as much in each round, of which there are several.
            let batches = (trial.iterations / trial.batch / 2).max(1);
            let candidate = Candidate {
                manner,
                extent: (batches, trial.batch),
                times: LatencyHistogram::new(),
            };
            trials.push((trial.total().percentile(50.0), candidate));
        }
        trials.sort_by_key(|(median_ns, _)| *median_ns);
        let best_ns = trials.first().map_or(0.0, |(median_ns, _)| as_f64(*median_ns));
        let candidates = trials
            .into_iter()
            .filter(|(median_ns, _)| as_f64(*median_ns) <= NEAR_BEST * best_ns)
            .map(|(_, candidate)| candidate)
            .take(CANDIDATES_MAX)
            .collect();
        Ok(Some(Self { bytes, candidates }))
    }

    /// Forgets the times, for another measurement of the same bytes.
    #[must_use]
    pub fn anew(mut self) -> Self {
        self.candidates.iter_mut().for_each(|candidate| candidate.times = LatencyHistogram::new());
        self
    }

    /// Bytes in each direction.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Measures the best ways again. Every rank calls this together, once before each round.
    ///
    /// # Errors
    /// When an exchange fails, or a rank is lost.
    pub fn round(
        &mut self,
        group: &mut dyn Group,
        exchange: &mut dyn Exchange,
        clock: &dyn Clock,
    ) -> Result<(), RunError> {
        let bytes = self.bytes.min(EXCHANGE_BYTES_MAX);
        for candidate in &mut self.candidates {
            let (batches, batch) = candidate.extent;
            let mut workload = Bare { exchange: &mut *exchange, bytes, manner: candidate.manner };
            let times = measure_again(group, &mut workload, clock, batches, batch)?;
            candidate.times.merge(&times);
        }
        Ok(())
    }

    /// The best way by the median of all rounds; `None` before the first.
    pub fn floor(&self) -> Option<Floor> {
        let measured = self.bytes.min(EXCHANGE_BYTES_MAX);
        let median = |candidate: &Candidate| candidate.times.percentile(50.0);
        let measured_ways = self.candidates.iter().filter(|way| way.times.count() > 0);
        let best = measured_ways.min_by_key(|candidate| median(candidate))?;
        let median_ns = as_f64(median(best)) * as_f64(self.bytes) / as_f64(measured);
        Some(Floor { bytes: self.bytes, manner: best.manner, median_ns })
    }
}

/// An exchange as the runner wants it: without data worth checking.
struct Bare<'a> {
    exchange: &'a mut dyn Exchange,
    bytes: u64,
    manner: Manner,
}

impl Workload for Bare<'_> {
    fn slot_bytes(&self) -> u64 {
        self.bytes
    }

    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
        debug_assert_eq!(as_u64(count), 1, "unchecked operations share one slot");
        Ok(())
    }

    fn prepare(&mut self, _slot: usize, _iteration: u64) {}

    fn run(&mut self, _slot: usize) -> Result<(), BoxError> {
        self.exchange.exchange(self.bytes, self.manner)
    }

    fn count_wrong(&mut self, _slot: usize, _iteration: u64) -> u64 {
        0
    }

    fn settle(&mut self, _slot: usize) {}
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    struct Alone;

    impl Group for Alone {
        fn rank(&self) -> u32 {
            0
        }

        /// Says two: a floor of one rank is nothing.
        fn world_size(&self) -> u32 {
            2
        }

        fn barrier(&mut self) -> Result<(), BoxError> {
            Ok(())
        }

        fn broadcast(&mut self, value: u64) -> Result<u64, BoxError> {
            Ok(value)
        }

        fn gather(&mut self, values: &[u64]) -> Result<Vec<Vec<u64>>, BoxError> {
            Ok(vec![values.to_vec(); 2])
        }
    }

    #[derive(Clone, Default)]
    struct Time(Rc<Cell<u64>>);

    impl Clock for Time {
        fn wall(&self) -> u64 {
            self.0.get()
        }

        fn cpu(&self) -> u64 {
            self.0.get()
        }
    }

    /// One nanosecond per byte, 20 us per piece, and pieces above 1 MiB are slower still.
    /// Everybody at once takes two nanoseconds per byte and a time that changes.
    struct Link {
        time: Time,
        everybody_ns: u64,
    }

    impl Exchange for Link {
        fn exchange(&mut self, bytes: u64, manner: Manner) -> Result<(), BoxError> {
            let cost = match manner {
                Manner::Pieces(piece) if piece > 1 << 20 => 2 * bytes + 20_000,
                Manner::Pieces(piece) => bytes + bytes.div_ceil(piece) * 20_000,
                Manner::Everybody => 2 * bytes + self.everybody_ns,
            };
            self.time.0.set(self.time.0.get() + cost);
            Ok(())
        }
    }

    fn floor_of(bytes: u64) -> Option<Floor> {
        let time = Time::default();
        let mut link = Link { time: time.clone(), everybody_ns: 2000 };
        let mut search = FloorSearch::begin(&mut Alone, &mut link, &time, bytes).unwrap()?;
        assert_eq!(search.floor(), None, "trials do not count");
        search.round(&mut Alone, &mut link, &time).unwrap();
        search.floor()
    }

    #[test]
    fn the_fastest_way_counts() {
        assert_eq!(floor_of(16 << 20).unwrap().manner, Manner::Pieces(1 << 20));
        let small = floor_of(4).unwrap();
        assert_eq!((small.manner, small.median_ns), (Manner::Everybody, 2008.0));
        assert_eq!(floor_of(0), None);
    }

    #[test]
    fn what_counts_is_what_the_best_ways_took_in_most_rounds() {
        let time = Time::default();
        // About as fast as one piece of 4 bytes, which takes 20 004 ns.
        let mut link = Link { time: time.clone(), everybody_ns: 19_000 };
        let mut search = FloorSearch::begin(&mut Alone, &mut link, &time, 4).unwrap().unwrap();
        let round_with = |search: &mut FloorSearch, everybody_ns| {
            let mut link = Link { time: time.clone(), everybody_ns };
            search.round(&mut Alone, &mut link, &time).unwrap();
            // Histograms keep three digits.
            search.floor().map(|floor| (floor.manner, (floor.median_ns / 100.0).round()))
        };
        let everybody = |median_ns| Some((Manner::Everybody, median_ns));
        assert_eq!(round_with(&mut search, 16_992), everybody(170.0));
        // One slow round of three does not change the median, and one fast one neither.
        round_with(&mut search, 99_992);
        assert_eq!(round_with(&mut search, 16_992), everybody(170.0));
        assert_eq!(round_with(&mut search, 1_992), everybody(170.0));
        let mut search = search.anew();
        assert_eq!(search.floor(), None);
        assert_eq!(round_with(&mut search, 99_992), Some((Manner::Pieces(4), 200.0)));
    }

    #[test]
    fn long_exchanges_take_in_proportion() {
        let (short, long) = (floor_of(64 << 20).unwrap(), floor_of(128 << 20).unwrap());
        assert_eq!((long.bytes, long.manner), (128 << 20, short.manner));
        assert_eq!(long.median_ns, 2.0 * short.median_ns);
    }

    #[test]
    fn a_result_well_below_the_floor_invalidates_it() {
        let floor = Floor { bytes: 4, manner: Manner::Everybody, median_ns: 10_000.0 };
        let result = |nanoseconds| {
            let mut times = LatencyHistogram::new();
            times.record_nanoseconds(nanoseconds);
            Measurement {
                iterations: 1,
                batch: 1,
                rounds: vec![times],
                ranks: Vec::new(),
                cpu_ns: 0,
                wrong: None,
            }
        };
        assert!((floor.percent(&result(20_000)).unwrap() - 50.0).abs() < 0.1);
        assert!((floor.percent(&result(9_600)).unwrap() - 104.2).abs() < 0.2);
        assert_eq!(floor.percent(&result(9_400)), None);
    }

    #[test]
    fn the_bytes_are_those_that_must_cross_a_link() {
        assert_eq!(exchange_bytes(Collective::AllReduce, 1 << 20, 2), 1 << 20);
        assert_eq!(exchange_bytes(Collective::AllReduce, 1 << 20, 4), 3 << 19);
        assert_eq!(exchange_bytes(Collective::AllGather, 1 << 20, 4), 3 << 18);
        assert_eq!(exchange_bytes(Collective::Barrier, 0, 4), 0);
    }
}

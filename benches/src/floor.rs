//! The floor: how fast the same bytes cross the same transport when nothing else is done.
//!
//! Every rank sends and receives, at the same time, as many bytes as the best algorithm must move
//! over each rank's link (the *bus* bytes of [`Collective::bus_factor`]): to the next rank and from
//! the previous one, in pieces of several sizes, or to and from all others in one call. The fastest
//! way counts. No reduction, no dependency between pieces: what a collective takes longer is its own
//! doing.
//!
//! A broadcast or a reduction between two ranks moves its bytes one way only, so it may well beat
//! an exchange; the record then says that the floor is none.

use crate::metrics::{Collective, as_f64, as_u64};
use crate::run::{
    BoxError, Check, Clock, Group, Measurement, RunError, Settings, Workload, measure,
};

/// Sizes of the pieces that are tried, in bytes, besides a single one.
const PIECES: [u64; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];

/// Longest exchange that is carried out; longer ones take in proportion, and no memory.
const EXCHANGE_BYTES_MAX: u64 = 64 << 20;

/// A floor is taken from fewer operations than a result: its median settles quickly.
const FLOOR_TIME_NANOSECONDS: u64 = 20_000_000;

/// The same for exchanges that take longer than that.
const FLOOR_BATCHES_MIN: u64 = 3;

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

/// Measures the floor for `bytes` in each direction. Every rank calls this together.
///
/// `None` where nothing has to cross a link.
///
/// # Errors
/// When the exchange fails, or a rank is lost.
pub fn measure_floor(
    group: &mut dyn Group,
    exchange: &mut dyn Exchange,
    clock: &dyn Clock,
    bytes: u64,
) -> Result<Option<Floor>, RunError> {
    if bytes == 0 || group.world_size() < 2 {
        return Ok(None);
    }
    let settings = Settings {
        rounds: 1,
        warmup: 1,
        iterations: None,
        batches_min: FLOOR_BATCHES_MIN,
        min_time_ns: FLOOR_TIME_NANOSECONDS,
        check: Check::Off,
    };
    let measured = bytes.min(EXCHANGE_BYTES_MAX);
    let mut best: Option<Floor> = None;
    let pieces = PIECES.into_iter().filter(|piece| *piece < measured).chain([measured]);
    for manner in pieces.map(Manner::Pieces).chain([Manner::Everybody]) {
        let mut workload = Bare { exchange: &mut *exchange, bytes: measured, manner };
        let measurement = measure(group, &mut workload, clock, &settings, &mut |_| {})?;
        let median_ns = as_f64(measurement.total().percentile(50.0));
        let median_ns = median_ns * as_f64(bytes) / as_f64(measured);
        if best.is_none_or(|best| median_ns < best.median_ns) {
            best = Some(Floor { bytes, manner, median_ns });
        }
    }
    Ok(best)
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
    use crate::histogram::LatencyHistogram;

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
    /// Everybody at once takes 2 us and two nanoseconds per byte.
    struct Link(Time);

    impl Exchange for Link {
        fn exchange(&mut self, bytes: u64, manner: Manner) -> Result<(), BoxError> {
            let cost = match manner {
                Manner::Pieces(piece) if piece > 1 << 20 => 2 * bytes + 20_000,
                Manner::Pieces(piece) => bytes + bytes.div_ceil(piece) * 20_000,
                Manner::Everybody => 2 * bytes + 2000,
            };
            self.0.0.set(self.0.0.get() + cost);
            Ok(())
        }
    }

    fn floor_of(bytes: u64) -> Option<Floor> {
        let time = Time::default();
        measure_floor(&mut Alone, &mut Link(time.clone()), &time, bytes).unwrap()
    }

    #[test]
    fn the_fastest_way_counts() {
        assert_eq!(floor_of(16 << 20).unwrap().manner, Manner::Pieces(1 << 20));
        let small = floor_of(4).unwrap();
        assert_eq!((small.manner, small.median_ns), (Manner::Everybody, 2008.0));
        assert_eq!(floor_of(0), None);
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

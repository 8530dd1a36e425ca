//! Where the numbers of a plan come from: built in, measured at the start, or a file.
//!
//! The ranks measure together and take the slowest of what they have measured, or take what rank 0 has
//! read. So all have the same numbers, and the plan that follows from them is compared like any other.

mod fault;
mod file;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use paceline_devices::{DType, ReduceOp};

use crate::communicator::Communicator;
use crate::context::Sockets;
use crate::error::{CollectiveError, SetupError};
use crate::kernels::Kernel;
use crate::plan::{NUMBERS, Speed, Tuning};
pub use fault::PlanFault;
use file::Met;

/// Whether the speed of the links is measured at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tune {
    /// Where ranks are on several nodes: what is built in was measured on one.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Tune {
    /// The name used on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl std::str::FromStr for Tune {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::On, Self::Off]
            .into_iter()
            .find(|tune| tune.name() == name)
            .ok_or_else(|| "expected auto, on or off".to_owned())
    }
}

/// Where the numbers of a plan came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They are built in.
    BuiltIn,
    /// They follow from what the ranks measured at the start.
    Measured(Speed),
    /// Rank 0 has read them from a file.
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in numbers"),
            Self::Measured(speed) => write!(f, "measured: {speed}"),
            Self::File(path) => write!(f, "from {}", path.display()),
        }
    }
}

/// What rank 0 tells the others about the file, where it has met no fault.
const NO_FILE: u64 = 0;
const READ: u64 = 1;

/// What it tells about a fault is its number and this.
const FIRST_FAULT: u64 = 2;

/// Longest explanation of a fault.
const EXPLANATION_BYTES_MAX: usize = 1024;

/// Finds the numbers for a world, together with the other ranks: `communicator` is of all of them. `sockets`
/// are those that they are connected by.
pub(crate) fn tune(
    communicator: &Communicator,
    measures: bool,
    file: Option<&Path>,
    sockets: Sockets,
) -> Result<(Tuning, Origin), SetupError> {
    let Some(path) = file else {
        if !measures {
            return Ok((Tuning::BUILT_IN, Origin::BuiltIn));
        }
        let (speed, tuning) = measure(communicator, sockets).map_err(together)?;
        return Ok((tuning, Origin::Measured(speed)));
    };
    // One rank reads, so that it does not matter whether the others' hosts have the file.
    let is_first = communicator.rank() == 0;
    let read = if is_first { file::read(path, communicator) } else { Ok(None) };
    let mut told = [0; NUMBERS + 1];
    told[0] = match &read {
        Ok(None) => NO_FILE,
        Ok(Some(_)) => READ,
        Err((fault, _)) => number(*fault),
    };
    let tuning = read.as_ref().ok().copied().flatten().unwrap_or(Tuning::BUILT_IN);
    told[1..].copy_from_slice(&tuning.to_numbers());
    communicator.broadcast(&mut told, 0).map_err(together)?;
    let [status, numbers @ ..] = told;
    explained(communicator, status, read.err())?;
    if status == READ {
        return Ok((Tuning::from_numbers(numbers), Origin::File(path.to_owned())));
    }
    let (speed, tuning) = measure(communicator, sockets).map_err(together)?;
    let written = if is_first { file::write(path, communicator, speed, tuning) } else { Ok(()) };
    let mut status = [written.as_ref().map_or_else(|(fault, _)| number(*fault), |()| NO_FILE)];
    communicator.broadcast(&mut status, 0).map_err(together)?;
    explained(communicator, status[0], written.err())?;
    Ok((tuning, Origin::Measured(speed)))
}

fn together(error: CollectiveError) -> SetupError {
    SetupError::Agreement(Box::new(error))
}

/// How rank 0 calls a fault.
fn number(fault: PlanFault) -> u64 {
    let place = PlanFault::ALL.iter().position(|known| *known == fault);
    FIRST_FAULT + place.map_or(0, |place| place as u64)
}

/// If rank 0 has met a fault: its explanation, the same on all ranks, so that none of them has to speak of
/// what comes of it.
fn explained(communicator: &Communicator, status: u64, met: Option<Met>) -> Result<(), SetupError> {
    let place = status.checked_sub(FIRST_FAULT).and_then(|place| usize::try_from(place).ok());
    let Some(place) = place else { return Ok(()) };
    let mut bytes = [0; EXPLANATION_BYTES_MAX];
    if let Some((_, text)) = met {
        let end = text.floor_char_boundary(bytes.len());
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
    }
    communicator.broadcast(&mut bytes, 0).map_err(together)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let what = String::from_utf8_lossy(&bytes[..end]).into_owned();
    // A number that is none says at least that there is a fault.
    let fault = PlanFault::ALL.get(place).copied().unwrap_or(PlanFault::Meaning);
    Err(SetupError::Plan { fault, what })
}

/// Bytes that are exchanged to learn how fast the links are, if a sixteenth of it is not slow already.
const PROBE_BYTES: usize = 1 << 20;

/// A probe that takes longer is the last: on a slow link it says enough.
const PROBE_TIME: Duration = Duration::from_millis(10);

/// What more sockets must save for them to be used: less is noise, and each costs memory and calls.
const SOCKETS_SAVE: f64 = 0.15;

/// Every rank sends to the next and receives from the one before, all at once. The best of some times
/// counts, and of the ranks the slowest.
fn measure(
    communicator: &Communicator,
    sockets: Sockets,
) -> Result<(Speed, Tuning), CollectiveError> {
    let opened = usize::from(sockets.opened);
    let mut used = if sockets.are_choice { 1 } else { opened };
    communicator.use_channels(used);
    let latency = best_shift(communicator, 1, 30)?;
    let mut bytes = PROBE_BYTES / 16;
    let mut transfer = slowest(communicator, best_shift(communicator, bytes, 3)?)?;
    if transfer < PROBE_TIME {
        bytes = PROBE_BYTES;
        transfer = slowest(communicator, best_shift(communicator, bytes, 3)?)?;
        if sockets.are_choice {
            (used, transfer) = choose_sockets(communicator, opened, transfer)?;
        }
    }
    let beyond_latency = transfer.saturating_sub(latency).max(Duration::from_nanos(1));
    let times = u32::try_from((1 << 20) / bytes).expect("a small number");
    let ours = Speed {
        latency_ns: rounded(latency),
        wire_ns_per_mib: rounded(beyond_latency * times),
        reduce_ns_per_mib: rounded(reduction_time()),
    };
    let own = [ours.latency_ns, ours.wire_ns_per_mib, ours.reduce_ns_per_mib];
    let mut all = vec![0; own.len() * communicator.world_size() as usize];
    communicator.all_gather(&own, &mut all)?;
    let speeds = all.chunks_exact(own.len()).map(|of| Speed {
        latency_ns: of[0],
        wire_ns_per_mib: of[1],
        reduce_ns_per_mib: of[2],
    });
    let speed = speeds.fold(ours, Speed::slower);
    let tuning = Tuning::derive(speed, communicator.world_size());
    Ok((speed, Tuning { sockets: used, ..tuning }))
}

/// The fewest sockets of those that are `opened` with which the links are as fast as with more, and how long the
/// probe takes with them. With one it takes `alone`.
fn choose_sockets(
    communicator: &Communicator,
    opened: usize,
    alone: Duration,
) -> Result<(usize, Duration), CollectiveError> {
    let mut best = (1, alone);
    for count in [2, 4].into_iter().filter(|count| *count <= opened) {
        communicator.use_channels(count);
        let transfer = slowest(communicator, best_shift(communicator, PROBE_BYTES, 3)?)?;
        if transfer < best.1.mul_f64(1.0 - SOCKETS_SAVE) {
            best = (count, transfer);
        }
    }
    Ok(best)
}

fn best_shift(
    communicator: &Communicator,
    bytes: usize,
    times: usize,
) -> Result<Duration, CollectiveError> {
    let (input, mut output) = (vec![1u8; bytes], vec![0u8; bytes]);
    let mut best = Duration::MAX;
    // The first one is not like the others.
    for _ in 0..=times {
        communicator.barrier()?;
        let begin = Instant::now();
        communicator.shift(&input, &mut output, None)?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

fn slowest(communicator: &Communicator, time: Duration) -> Result<Duration, CollectiveError> {
    let mut nanoseconds = [rounded(time)];
    communicator.all_reduce(&mut nanoseconds, ReduceOp::Max)?;
    Ok(Duration::from_nanos(nanoseconds[0]))
}

fn reduction_time() -> Duration {
    let kernel = Kernel::new(DType::F32, ReduceOp::Sum).expect("floats can be added");
    let (mut sum, other) = (vec![1.0f32; 1 << 18], vec![1.0f32; 1 << 18]);
    let time = |_| {
        let begin = Instant::now();
        kernel.reduce_assign(&mut sum, &other);
        begin.elapsed()
    };
    (0..4).map(time).min().unwrap_or_default()
}

/// Nanoseconds with two significant digits in binary and one more, so that plans do not differ for
/// what is noise.
fn rounded(time: Duration) -> u64 {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    let shift = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(3);
    (nanoseconds >> shift) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down_to_three_binary_digits() {
        let of = |nanoseconds| rounded(Duration::from_nanos(nanoseconds));
        assert_eq!([0, 1, 7, 8, 9, 1023].map(of), [1, 1, 7, 8, 8, 896]);
        assert_eq!(of(1_000_000), of(1_010_000));
    }

    #[test]
    fn names_say_when_to_measure() {
        for tune in [Tune::Auto, Tune::On, Tune::Off] {
            assert_eq!(tune.name().parse(), Ok(tune));
        }
        assert!("maybe".parse::<Tune>().unwrap_err().contains("auto, on or off"));
    }
}

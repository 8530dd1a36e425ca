//! Waiting for file descriptors, with deadlines.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Waits until `descriptor` is ready for `interest` or has failed. Returns false when `deadline`
/// passed first.
pub(crate) fn wait_ready(
    descriptor: impl AsFd,
    interest: PollFlags,
    deadline: Instant,
) -> io::Result<bool> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let mut descriptors = [PollFd::new(&descriptor, interest)];
        match poll(&mut descriptors, Some(&timespec(remaining))) {
            Ok(0) if remaining.is_zero() => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `duration` in the form of the system calls; durations beyond a day wait a day.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    let capped = duration.min(Duration::from_secs(86_400));
    Timespec {
        tv_sec: i64::try_from(capped.as_secs()).expect("a day fits"),
        tv_nsec: i64::from(capped.subsec_nanos()),
    }
}

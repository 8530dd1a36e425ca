//! Waiting for file descriptors, with deadlines.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

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

/// Makes a control connection prompt, and its silent death noticeable: a host that vanished
/// without a word is given up after 10 s + 3 x 5 s.
pub(crate) fn configure_control(stream: &std::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// Whether an error of a non-blocking socket only means "not now".
pub(crate) fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

//! Knocking, and what the way is like.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use paceline_rendezvous::hello::{Purpose, initiate};
use rustix::net::sockopt;

use super::{BLOCK_BYTES, BURST_BYTES, Effort, Party, ProbeError, TRANSFER_BYTES, Way};

/// How long a host may take to answer: two lost packets, each sent again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// The same where a job waits for it: one lost packet.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);

const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the round trips may take together; what there is by then counts.
const ROUND_TRIPS_TIMEOUT: Duration = Duration::from_secs(4);

const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);

/// No block is begun after that.
const BURST_TIME: Duration = Duration::from_secs(2);

/// What is not acknowledged by then does not count.
const BURST_TIMEOUT: Duration = Duration::from_secs(8);

/// What a guest says: so many bytes follow, to be acknowledged by the same eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) bytes: u32,
}

impl Command {
    pub(super) const LEN: usize = 8;

    fn encode(self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.bytes.to_le_bytes();
        [b'p', b'r', b'o', b'b', a, b, c, d]
    }

    pub(super) fn decode(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [b'p', b'r', b'o', b'b', a, b, c, d] = bytes else { return None };
        let bytes = u32::from_le_bytes([a, b, c, d]);
        (bytes <= BLOCK_BYTES).then_some(Self { bytes })
    }
}

/// Whether an address leads to the host of this number, before a job starts.
///
/// # Errors
/// [`ProbeError`]: it does not.
pub(crate) fn reach(party: &Party, host: u32, address: SocketAddr) -> Result<(), ProbeError> {
    greet(party, host, address, REACH_TIMEOUT).map(drop)
}

fn greet(
    party: &Party,
    host: u32,
    address: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ProbeError> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .map_err(|error| ProbeError::connecting(&error))?;
    stream.set_nodelay(true).map_err(|error| ProbeError::later(&error))?;
    let deadline = Instant::now() + GREETING_TIMEOUT;
    initiate(&mut stream, party.identity(), Purpose::Probe, host, &party.secret, deadline)
        .map_err(|error| ProbeError::greeting(&error))?;
    Ok(stream)
}

/// Whether an address leads to the host of this number, and how well.
///
/// # Errors
/// [`ProbeError`]: it does not, or not well enough to be measured.
pub(crate) fn probe(
    party: &Party,
    host: u32,
    address: SocketAddr,
    effort: Effort,
) -> Result<Way, ProbeError> {
    let mut stream = greet(party, host, address, CONNECT_TIMEOUT)?;
    let local = stream.local_addr().map_err(|error| ProbeError::later(&error))?;
    let mut times =
        round_trips(&mut stream, effort.round_trips).map_err(|error| ProbeError::later(&error))?;
    times.sort_unstable();
    transfer(&mut stream)?;
    let mtu = match local.ip() {
        IpAddr::V4(_) => sockopt::ip_mtu(&stream),
        IpAddr::V6(_) => sockopt::ipv6_mtu(&stream),
    };
    let (burst_bytes, burst_ns) =
        burst(&mut stream, effort.burst_bytes).map_err(|error| ProbeError::later(&error))?;
    Ok(Way {
        local_address: local.ip().to_canonical(),
        p50_ns: percentile(&times, 50),
        p99_ns: percentile(&times, 99),
        round_trips: u32::try_from(times.len()).unwrap_or(u32::MAX),
        mtu: mtu.ok(),
        burst_bytes,
        burst_ns,
    })
}

/// The smallest of the sorted times that so many in a hundred do not exceed; 0 if there are none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let count = (sorted.len() * percent).div_ceil(100);
    sorted.get(count.saturating_sub(1)).copied().unwrap_or(0)
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn round_trips(stream: &mut TcpStream, count: u32) -> io::Result<Vec<u64>> {
    let deadline = Instant::now() + ROUND_TRIPS_TIMEOUT;
    // One limit for all: to set it each time would be measured, too.
    stream.set_read_timeout(Some(ROUND_TRIPS_TIMEOUT))?;
    let command = Command { bytes: 0 }.encode();
    let mut answer = command;
    let mut times = Vec::new();
    // The first one wakes both sides up.
    for number in 0..=count {
        let begin = Instant::now();
        stream.write_all(&command)?;
        stream.read_exact(&mut answer).map_err(said_in_time)?;
        if number > 0 {
            times.push(nanoseconds(begin));
        }
        if Instant::now() >= deadline && !times.is_empty() {
            break;
        }
    }
    Ok(times)
}

/// Sends enough for several of the largest packets.
fn transfer(stream: &mut TcpStream) -> Result<(), ProbeError> {
    let deadline = Instant::now() + TRANSFER_TIMEOUT;
    let mut exchange = || {
        send_block(stream, &vec![0; TRANSFER_BYTES as usize], deadline)?;
        read_until(stream, &mut [0; Command::LEN], deadline)
    };
    exchange().map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => ProbeError::BlackHole { seconds: TRANSFER_TIMEOUT.as_secs() },
        _ => ProbeError::later(&error),
    })
}

fn burst(stream: &mut TcpStream, bytes: u64) -> io::Result<(u64, u64)> {
    let block = vec![0; BLOCK_BYTES as usize];
    let begin = Instant::now();
    let deadline = begin + BURST_TIMEOUT;
    let mut sent = 0;
    while sent * u64::from(BLOCK_BYTES) < bytes.min(BURST_BYTES) && begin.elapsed() < BURST_TIME {
        match send_block(stream, &block, deadline) {
            Ok(()) => sent += 1,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
            Err(error) => return Err(error),
        }
    }
    let (mut acknowledged, mut last) = (0, 0);
    while acknowledged < sent {
        match read_until(stream, &mut [0; Command::LEN], deadline) {
            Ok(()) => (acknowledged, last) = (acknowledged + 1, nanoseconds(begin)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => break,
            Err(error) => return Err(error),
        }
    }
    Ok((acknowledged * u64::from(BLOCK_BYTES), last))
}

fn send_block(stream: &mut TcpStream, block: &[u8], deadline: Instant) -> io::Result<()> {
    let bytes = u32::try_from(block.len()).unwrap_or(BLOCK_BYTES);
    write_until(stream, &Command { bytes }.encode(), deadline)?;
    write_until(stream, block, deadline)
}

/// What is left until then, and an error if nothing is.
fn left(deadline: Instant) -> io::Result<Option<Duration>> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
}

/// A socket's time limit is an error of two names.
fn said_in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        _ => error,
    }
}

/// Writes everything.
pub(super) fn write_until(
    stream: &mut TcpStream,
    mut bytes: &[u8],
    deadline: Instant,
) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(left(deadline)?)?;
        match stream.write(bytes).map_err(said_in_time) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills the buffer.
pub(super) fn read_until(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.set_read_timeout(left(deadline)?)?;
        match stream.read(&mut buffer[filled..]).map_err(said_in_time) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_the_wire_and_nothing_large_is_believed() {
        for bytes in [0, 1, TRANSFER_BYTES, BLOCK_BYTES] {
            let command = Command { bytes };
            assert_eq!(Command::decode(command.encode()), Some(command));
        }
        assert_eq!(Command::decode(Command { bytes: BLOCK_BYTES + 1 }.encode()), None);
        assert_eq!(Command::decode(*b"GET / HT"), None);
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<u64> = (1..=200).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (100, 198));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99), percentile(&[], 50)), (7, 7, 0));
    }
}

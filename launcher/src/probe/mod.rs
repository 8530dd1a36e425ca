//! The way from one host to another: whether an address leads anywhere, whether it is the host that is
//! meant that answers, and how good the way is.
//!
//! A host opens `Doors`, one for each of its addresses; the others knock there (`probe`). The
//! handshake is that of all connections of a run, with the numbers of hosts for ranks, so an address
//! that several hosts have, as bridges of containers do, is found out: somebody else answers, or
//! nobody. Everything blocks and has deadlines; whoever must not wait calls it from a thread.

mod doors;
mod pairs;
mod way;

use std::io;
use std::net::IpAddr;

use paceline_rendezvous::hello::{HelloError, Identity};
use paceline_rendezvous::{RunId, Secret};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub(crate) use doors::{Door, Doors};
pub(crate) use pairs::rounds;
pub(crate) use way::{probe, reach};

/// Bytes of the transfer after which the connection knows how large packets may be on the way.
pub(crate) const TRANSFER_BYTES: u32 = 64 << 10;

/// Most bytes of a burst.
pub const BURST_BYTES: u64 = 16 << 20;

/// How much is sent to find out what a way is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effort {
    /// Messages to and fro.
    pub(crate) round_trips: u32,
    /// Bytes of the burst, at most [`BURST_BYTES`].
    pub(crate) burst_bytes: u64,
}

impl Effort {
    /// What a diagnosis takes.
    pub(crate) const FULL: Self = Self { round_trips: 200, burst_bytes: BURST_BYTES };
}

/// A piece of a burst, each acknowledged.
const BLOCK_BYTES: u32 = 1 << 20;

/// A host among those that probe each other.
#[derive(Debug, Clone)]
pub(crate) struct Party {
    pub(crate) run_id: RunId,
    pub(crate) secret: Secret,
    /// Its number.
    pub(crate) number: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl Party {
    fn identity(&self) -> Identity {
        Identity { run_id: self.run_id, epoch: 0, rank: self.number, features: 0 }
    }
}

/// What a way is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The address from which the connection went.
    pub local_address: IpAddr,
    /// Half of the round trips of small messages took no longer, in nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// How many there were.
    pub round_trips: u32,
    /// Largest packet on the way, as the kernel has found it; `None` where it does not say.
    pub mtu: Option<u32>,
    /// Bytes of the burst that were acknowledged.
    pub burst_bytes: u64,
    /// From its first byte to the last acknowledgement.
    pub burst_ns: u64,
}

impl Way {
    /// Bandwidth of the burst in bytes per nanosecond, which are GB/s.
    pub fn gigabytes_per_second(&self) -> f64 {
        // Both are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "sixteen MiB, some seconds")]
        let (bytes, time) = (self.burst_bytes as f64, self.burst_ns.max(1) as f64);
        bytes / time
    }
}

/// Why a way leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProbeError {
    /// Nobody answers.
    #[error("no connection: {reason}")]
    Unreachable {
        /// The system's words.
        reason: String,
    },
    /// The firewall, or the host, says no.
    #[error("the connection was refused")]
    Refused,
    /// It is not the host that was meant.
    #[error("somebody else answers: {reason}")]
    Stranger {
        /// What the handshake said.
        reason: String,
    },
    /// Small messages pass, large ones do not.
    #[error("small messages pass, but 64 KiB did not arrive within {seconds} s")]
    BlackHole {
        /// How long was waited.
        seconds: u64,
    },
    /// It worked, and then did not.
    #[error("the connection broke: {reason}")]
    Broken {
        /// The system's words.
        reason: String,
    },
}

impl ProbeError {
    fn connecting(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                Self::Unreachable { reason: "no answer in time".to_owned() }
            }
            _ => Self::Unreachable { reason: error.to_string() },
        }
    }

    fn greeting(error: &HelloError) -> Self {
        match error {
            HelloError::TimedOut { .. } | HelloError::Closed { .. } | HelloError::Io { .. } => {
                Self::Broken { reason: error.to_string() }
            }
            other => Self::Stranger { reason: other.to_string() },
        }
    }

    fn later(error: &io::Error) -> Self {
        Self::Broken { reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use paceline_rendezvous::env::PortRange;

    use super::*;

    fn party(number: u32, secret: u8) -> Party {
        Party {
            run_id: RunId::from_bytes([3; RunId::LEN]),
            secret: Secret::from_bytes([secret; Secret::LEN]),
            number,
            count: 3,
        }
    }

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn opened(number: u32, secret: u8) -> (Doors, SocketAddr) {
        let doors = Doors::open(&party(number, secret), &[HERE], PortRange::ANY);
        let port = doors.list()[0].port.clone().expect("a port is free");
        (doors, SocketAddr::new(HERE, port))
    }

    #[test]
    fn a_way_is_measured() {
        let (_doors, address) = opened(1, 7);
        reach(&party(0, 7), 1, address).expect("it leads there");
        let way = probe(&party(0, 7), 1, address, Effort::FULL).expect("it leads there");
        assert_eq!(way.local_address, HERE);
        assert_eq!(way.round_trips, 200);
        assert!(way.p50_ns > 0 && way.p50_ns <= way.p99_ns, "{way:?}");
        assert!(way.mtu.is_some_and(|mtu| mtu >= 576), "{way:?}");
        assert!(way.burst_bytes > 0 && way.burst_bytes <= BURST_BYTES, "{way:?}");
        assert!(way.gigabytes_per_second() > 0.0);
    }

    #[test]
    fn who_answers_for_somebody_else_is_found_out() {
        let (_doors, address) = opened(2, 7);
        let error = reach(&party(0, 7), 1, address).expect_err("it is host 2");
        assert!(matches!(error, ProbeError::Stranger { .. }), "{error}");
        let (_doors, address) = opened(1, 8);
        let error = reach(&party(0, 7), 1, address).expect_err("it does not know the secret");
        assert!(matches!(error, ProbeError::Stranger { .. }), "{error}");
    }

    #[test]
    fn doors_are_within_the_range_of_ports_that_is_given() {
        let taken = std::net::TcpListener::bind((HERE, 0)).expect("a port is free");
        let port = taken.local_addr().expect("bound").port();
        let only = PortRange::new(port, port).expect("a port");
        let doors = Doors::open(&party(1, 7), &[HERE], only);
        assert!(doors.list()[0].port.is_err());
        drop((taken, doors));
        let doors = Doors::open(&party(1, 7), &[HERE], only);
        assert_eq!(doors.list()[0].port, Ok(port));
    }

    #[test]
    fn doors_that_are_closed_answer_no_more() {
        let (doors, address) = opened(1, 7);
        drop(doors);
        let error = reach(&party(0, 7), 1, address).expect_err("nobody is there");
        assert_eq!(error, ProbeError::Refused);
    }

    #[test]
    fn an_address_that_the_host_lacks_has_no_door() {
        // For documentation only: nobody has it.
        let doors =
            Doors::open(&party(1, 7), &["192.0.2.1".parse().expect("an address")], PortRange::ANY);
        assert!(doors.list()[0].port.is_err());
    }
}

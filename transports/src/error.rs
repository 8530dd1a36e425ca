use std::error::Error;
use std::io;

use paceline_rendezvous::HelloError;
use rustix::io::Errno;

use crate::{MessageId, Signature};

/// One posted operation failed; the connection is fine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// The two ends disagree about what the operation is.
    #[error("the peer's operation differs from ours ({id})")]
    SignatureMismatch {
        /// The message at which it was noticed.
        id: MessageId,
        /// What was posted here.
        ours: Signature,
        /// What the frame said.
        theirs: Signature,
    },
    /// The two ends disagree about how long the message is.
    #[error("{id}: {posted} bytes are expected here, the peer sends {announced}")]
    LengthMismatch {
        /// The message.
        id: MessageId,
        /// Bytes of the posted slice.
        posted: usize,
        /// Bytes that the peer announced.
        announced: usize,
    },
}

/// A connection is dead.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The peer closed the connection, as the kernel does when its process ends.
    #[error("rank {peer} at {address} {}", if *.orderly { "has left the group" } else { "closed the connection" })]
    Closed {
        /// The peer's rank.
        peer: u32,
        /// Where it was.
        address: String,
        /// Whether it said goodbye first, as a process does that drops its context.
        orderly: bool,
    },
    /// The operating system reported an error on the connection.
    #[error("connection to rank {peer} at {address} failed: {message}")]
    Io {
        /// The peer's rank.
        peer: u32,
        /// Where it is.
        address: String,
        /// What kind of error.
        kind: io::ErrorKind,
        /// The operating system's words.
        message: String,
    },
    /// The peer sent what the protocol forbids.
    #[error("rank {peer} at {address} broke the protocol: {what}")]
    Protocol {
        /// The peer's rank.
        peer: u32,
        /// Where it is.
        address: String,
        /// What was wrong.
        what: String,
    },
    /// Bytes changed on the way from the peer; with [`Checksum`](crate::Checksum) alone is that noticed.
    #[error(
        "bytes from rank {peer} at {address} were corrupted on the way: the CRC-32C of a {part} is \
         {computed:#010x}, {expected:#010x} was sent"
    )]
    Corrupted {
        /// The peer's rank.
        peer: u32,
        /// Where it is.
        address: String,
        /// Of what the checksum is: the header or the payload of a frame.
        part: &'static str,
        /// The checksum of what arrived.
        computed: u32,
        /// The checksum that arrived with it.
        expected: u32,
    },
    /// This side gave up an operation with a frame half-sent.
    #[error("connection to rank {peer} at {address} was given up with a message half-sent")]
    Abandoned {
        /// The peer's rank.
        peer: u32,
        /// Where it is.
        address: String,
    },
}

impl EndpointError {
    /// The rank at the other end.
    pub fn peer(&self) -> u32 {
        match self {
            Self::Closed { peer, .. }
            | Self::Io { peer, .. }
            | Self::Protocol { peer, .. }
            | Self::Corrupted { peer, .. }
            | Self::Abandoned { peer, .. } => *peer,
        }
    }

    /// Whether the peer is gone, as opposed to alive and wrong.
    pub fn is_peer_lost(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Io { .. })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Corrupted { peer, .. } => Some(format!(
                "something between this host and that of rank {peer} changes bytes: compare the error \
                 counters of network cards and switches (ethtool -S), try without the offloads of the \
                 cards (ethtool -K INTERFACE rx off tx off tso off gro off), and see whether the \
                 kernels report memory errors (dmesg)"
            )),
            _ => None,
        }
    }
}

/// The connections of a group could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EstablishError {
    /// No listening socket could be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was tried: address and port or port range.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No network interface is as asked for.
    #[error("no interface matches {wanted:?}; this host has {available}")]
    Interface {
        /// The name or CIDR that was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A published address cannot be understood.
    #[error("rank {peer} published an address that cannot be used: {what}")]
    Address {
        /// Whose.
        peer: u32,
        /// What is wrong with it.
        what: String,
    },
    /// A connection attempt failed.
    #[error("cannot connect to rank {peer} at {address}")]
    Connect {
        /// Whom.
        peer: u32,
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error("handshake with rank {peer} at {address} failed")]
    Handshake {
        /// Whom.
        peer: u32,
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Not all peers came in time.
    #[error("rank(s) {} did not connect within {waited_ms} ms", list(.missing))]
    Missing {
        /// Which ranks.
        missing: Vec<u32>,
        /// How long we waited.
        waited_ms: u128,
    },
    /// Another rank failed first.
    #[error("another rank has failed, so that waiting for it is in vain")]
    InVain,
    /// One rank failed, so that none is connected; the same on all ranks.
    #[error("rank {rank}: {reason}")]
    OnRank {
        /// Which rank.
        rank: u32,
        /// How much this explains.
        weight: Weight,
        /// What it met, with its causes.
        reason: String,
        /// What the user can do about it.
        hint: Option<String>,
    },
    /// The transport cannot be used between these ranks.
    #[error("{transport} cannot be used here: {reason}")]
    Unusable {
        /// Which transport.
        transport: &'static str,
        /// Why not.
        reason: String,
    },
    /// Memory for the connections cannot be had.
    #[error("no memory for the connections")]
    Memory(#[source] crate::RegionError),
    /// An operating-system call failed.
    #[error("cannot {what}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How much an error explains where several ranks fail together. That of the greatest weight is the
/// cause; others are what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Another rank has failed first: it hung up, or said so.
    Consequence,
    /// Another rank took too long.
    Waited,
    /// Another rank cannot be reached, or is not who it should be.
    Peer,
    /// This rank lacks something.
    Own,
}

/// Whether this process or system has too few of something.
pub(crate) fn is_lack(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| lacks.contains(&errno))
}

/// An error with all its causes, to be told to other processes.
pub(crate) fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn list(ranks: &[u32]) -> String {
    ranks.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl EstablishError {
    /// How much this error explains where several ranks fail together.
    pub fn weight(&self) -> Weight {
        match self {
            Self::OnRank { weight, .. } => *weight,
            Self::InVain => Weight::Consequence,
            Self::Missing { .. } => Weight::Waited,
            Self::Connect { source, .. } if is_lack(source) => Weight::Own,
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe => Weight::Consequence,
                // The deadline of a socket; a network that swallows everything says otherwise.
                io::ErrorKind::WouldBlock => Weight::Waited,
                _ => Weight::Peer,
            },
            Self::Handshake { source, .. } => match source.downcast_ref() {
                Some(HelloError::Closed { .. } | HelloError::Io { .. }) => Weight::Consequence,
                Some(HelloError::TimedOut { .. }) => Weight::Waited,
                _ => Weight::Peer,
            },
            _ => Weight::Own,
        }
    }

    /// The error with all its causes in one line, to be told to other ranks.
    pub fn explain(&self) -> String {
        explain(self)
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { .. } => Some(
                "--port-range (PACELINE_PORT_RANGE) needs a free port for each rank of a host, from 1024 \
                 on, such as 40000-40100, and 0 lets the kernel choose; or name another --interface"
                    .to_owned(),
            ),
            Self::Interface { .. } => Some(
                "give --interface (PACELINE_INTERFACE) the name of an interface or a CIDR such as \
                 10.0.0.0/24"
                    .to_owned(),
            ),
            Self::Connect { address, .. } => {
                Some(format!("check that {address} is reachable and no firewall is in between"))
            }
            Self::OnRank { hint, .. } => hint.clone(),
            Self::Missing { .. } => Some(
                "see whether these ranks started; --start-timeout gives them longer".to_owned(),
            ),
            _ => None,
        }
    }
}

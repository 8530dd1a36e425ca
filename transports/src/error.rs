use std::io;

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
            | Self::Abandoned { peer, .. } => *peer,
        }
    }

    /// Whether the peer is gone, as opposed to alive and wrong.
    pub fn is_peer_lost(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Io { .. })
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
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Not all peers came in time.
    #[error("rank(s) {} did not connect within {waited_ms} ms", list(.missing))]
    Missing {
        /// Which ranks.
        missing: Vec<u32>,
        /// How long we waited.
        waited_ms: u128,
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

fn list(ranks: &[u32]) -> String {
    ranks.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl EstablishError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { .. } => {
                Some("choose another range with --port-range, or another --interface".to_owned())
            }
            Self::Interface { .. } => Some(
                "give --interface (PACELINE_INTERFACE) the name of an interface or a CIDR such as \
                 10.0.0.0/24"
                    .to_owned(),
            ),
            Self::Connect { address, .. } => {
                Some(format!("check that {address} is reachable and no firewall is in between"))
            }
            Self::Missing { .. } => Some(
                "see whether these ranks started; --start-timeout gives them longer".to_owned(),
            ),
            _ => None,
        }
    }
}

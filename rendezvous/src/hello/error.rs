//! What can be wrong with a handshake.

use std::fmt;
use std::io;

use super::COORDINATOR_RANK;
use super::wire::PROTOCOL_VERSION;
use crate::run::{RunId, SecretError};

/// The message that a side was waiting for or sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first message.
    Hello,
    /// The second.
    Reply,
    /// The third.
    Finish,
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hello => "hello",
            Self::Reply => "reply",
            Self::Finish => "finish",
        })
    }
}

/// Why the other side refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Its protocol version is another.
    Version,
    /// It belongs to another run.
    Run,
    /// It is in another epoch.
    Epoch,
    /// It does not expect this rank.
    Rank,
    /// It does not serve this purpose.
    Purpose,
    /// Another process has connected as this rank already.
    Duplicate,
    /// The rank has been there before, and has left or was lost.
    Gone,
    /// A reason that this version does not know.
    Unknown(u8),
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => formatter.write_str("it speaks another version of the protocol"),
            Self::Run => formatter.write_str("it belongs to another run"),
            Self::Epoch => formatter.write_str("it is in another epoch"),
            Self::Rank => formatter.write_str("it does not expect this rank"),
            Self::Purpose => formatter.write_str("it does not serve connections of this kind"),
            Self::Duplicate => {
                formatter.write_str("another process has connected as this rank already")
            }
            Self::Gone => {
                formatter.write_str("this rank has been in the job before and is gone from it")
            }
            Self::Unknown(code) => write!(formatter, "reason {code}"),
        }
    }
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// Something else than a Paceline process is at the other end.
    #[error("the peer is not a Paceline process: it sent {}", printable(received))]
    NotPaceline {
        /// The first bytes that it sent.
        received: Vec<u8>,
    },
    /// The two sides speak different versions of the protocol.
    #[error("the peer speaks protocol version {theirs}, this process version {PROTOCOL_VERSION}")]
    VersionMismatch {
        /// The version of the peer.
        theirs: u16,
    },
    /// The peer does not know the secret of this run.
    #[error("the peer could not prove that it knows the secret of the run")]
    WrongSecret,
    /// The peer belongs to another run.
    #[error("the peer belongs to run {theirs}, this process to run {ours}")]
    WrongRun {
        /// The run of this process.
        ours: RunId,
        /// The run of the peer.
        theirs: RunId,
    },
    /// The peer belongs to another membership of the job.
    #[error("the peer is in epoch {theirs}, this process in epoch {ours}")]
    EpochMismatch {
        /// The epoch of this process.
        ours: u32,
        /// The epoch of the peer.
        theirs: u32,
    },
    /// The peer is not the one that was expected.
    #[error("the peer is {}, expected {}", party(*actual), party(*expected))]
    WrongRank {
        /// The rank that was expected.
        expected: u32,
        /// The rank of the peer.
        actual: u32,
    },
    /// The peer claims a rank that the job does not have.
    #[error("the peer claims to be {}, but the job has {world_size} ranks", party(*rank))]
    RankOutOfRange {
        /// The rank.
        rank: u32,
        /// Ranks of the job.
        world_size: u32,
    },
    /// The peer wants a connection for something that this version does not know.
    #[error("the peer asks for a connection of unknown kind {code}")]
    UnknownPurpose {
        /// Its code.
        code: u8,
    },
    /// The peer wants a connection for something that is not served here.
    #[error("the peer asks for a connection of another kind than this process serves")]
    UnservedPurpose,
    /// Another process has connected as this rank already.
    #[error("a second process connected as rank {rank}")]
    Duplicate {
        /// The rank.
        rank: u32,
    },
    /// A rank comes back that has left or was lost.
    #[error("rank {rank} has been in the job before and is gone from it")]
    Gone {
        /// The rank.
        rank: u32,
    },
    /// Bits are set that this version gives no meaning.
    #[error("reserved bits are set in the {stage} of the peer")]
    ReservedBits {
        /// The message.
        stage: Stage,
    },
    /// The other side refused this one.
    #[error("the peer refused the connection: {reason}")]
    Refused {
        /// Why.
        reason: Refusal,
    },
    /// The handshake took too long.
    #[error("the {stage} of the handshake timed out")]
    TimedOut {
        /// The message that did not pass in time.
        stage: Stage,
    },
    /// The peer closed the connection in the middle of the handshake.
    #[error("the peer closed the connection before the {stage} of the handshake")]
    Closed {
        /// The message that did not come.
        stage: Stage,
    },
    /// The connection failed.
    #[error("failed to transfer the {stage} of the handshake")]
    Io {
        /// The message.
        stage: Stage,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no nonce.
    #[error(transparent)]
    Nonce(#[from] SecretError),
}

impl HelloError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotPaceline { .. } => {
                "another service listens on that port or connects to it; check the address"
            }
            Self::VersionMismatch { .. } | Self::Refused { reason: Refusal::Version } => {
                "install the same release on all hosts"
            }
            Self::WrongSecret => "all ranks must read the same PACELINE_SECRET_FILE",
            Self::WrongRun { .. } | Self::Refused { reason: Refusal::Run } => {
                "two jobs use the same address, or PACELINE_RUN_ID differs between ranks"
            }
            Self::EpochMismatch { .. } | Self::Refused { reason: Refusal::Epoch } => {
                "the job was restarted; the older process must end"
            }
            Self::Duplicate { .. } | Self::Refused { reason: Refusal::Duplicate } => {
                "two processes have the same rank; check the variables that the launcher sets"
            }
            Self::Gone { .. } | Self::Refused { reason: Refusal::Gone } => {
                "a job does not take back a rank that was lost or has left; start the job again"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether time ran out, as opposed to a peer that did something wrong.
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

fn party(rank: u32) -> String {
    if rank == COORDINATOR_RANK { "the coordinator".to_owned() } else { format!("rank {rank}") }
}

/// The bytes of a stranger, safe to print.
fn printable(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

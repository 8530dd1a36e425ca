//! The mutual handshake that opens every connection between processes of a job.
//!
//! Three messages of fixed size. Each side proves that it knows the run's secret by an
//! HMAC-SHA256 over the whole transcript, with fresh nonces of both sides in it, and over its
//! role, so that nothing recorded or reflected is accepted. From the same transcript come the
//! keys of the control frames, one for each direction. Nothing is encrypted.
//!
//! ```text
//! initiator                                        responder
//!     hello (80 bytes): who I am, nonce        ->
//!                                              <-  reply (112 bytes): status, who I am, nonce, MAC
//!     finish (40 bytes): MAC                   ->
//! ```
//!
//! [`Initiator`], [`Responder`] and [`PendingFinish`] do no I/O; [`initiate`] and [`accept`] run
//! them over a stream.

mod blocking;
mod error;
mod state;
mod wire;

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

pub use blocking::{accept, initiate};
pub use error::{HelloError, Refusal, Stage};
pub use state::{Initiator, PendingFinish, Responder, Turned};
pub use wire::{FINISH_LEN, HELLO_LEN, MAGIC, PROTOCOL_VERSION, REPLY_LEN, check_hello_prefix};

use crate::run::RunId;

/// The rank number of a party that is no rank: the coordinator.
pub const COORDINATOR_RANK: u32 = u32::MAX;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Control connection of a rank to its coordinator.
    Control,
    /// Key/value store alone.
    Store,
    /// Data of a transport, on one of its channels.
    Data {
        /// The channel.
        channel: u16,
    },
    /// Exchange of the descriptors of shared memory.
    Arena,
    /// A look at a job from outside, see [`crate::status`]. The peer is no rank.
    Observe,
    /// A look at the network between two hosts. Ranks are then the numbers of the hosts.
    Probe,
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => formatter.write_str("control"),
            Self::Store => formatter.write_str("store"),
            Self::Data { channel } => write!(formatter, "data channel {channel}"),
            Self::Arena => formatter.write_str("arena"),
            Self::Observe => formatter.write_str("observe"),
            Self::Probe => formatter.write_str("probe"),
        }
    }
}

/// What a party says of itself in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The run.
    pub run_id: RunId,
    /// The membership of the job.
    pub epoch: u32,
    /// Its rank, or [`COORDINATOR_RANK`].
    pub rank: u32,
    /// Optional abilities, one bit each; a session has those that both sides have.
    pub features: u64,
}

/// Whom a responder lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Ranks must be below this.
    pub world_size: u32,
    /// The only rank that may connect, where just one is expected.
    pub rank: Option<u32>,
}

/// The result of a handshake: who is at the other end, for what, and the keys.
#[derive(Debug)]
pub struct Session {
    /// Rank of the peer, or [`COORDINATOR_RANK`].
    pub peer_rank: u32,
    /// What the initiator wants the connection for.
    pub purpose: Purpose,
    /// Abilities that both sides have.
    pub features: u64,
    /// Authenticates what this side sends.
    pub send_key: MacKey,
    /// Verifies what this side receives.
    pub receive_key: MacKey,
}

/// Key of the MACs of one direction of one connection; wiped from memory when it is dropped.
#[derive(Clone)]
pub struct MacKey(Zeroizing<[u8; 32]>);

impl MacKey {
    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Constant time.
    pub(crate) fn verify(&self, parts: &[&[u8]], tag: &[u8; 32]) -> bool {
        self.mac(parts).verify(tag.into()).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.0).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MacKey(..)")
    }
}

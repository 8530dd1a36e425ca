//! The bytes of the three messages.
//!
//! Little endian. The first 16 bytes keep their layout in all versions of the protocol, so that
//! two versions can always tell each other apart.
//!
//! ```text
//! hello   0  8  magic            reply   0..80  the same fields of the responder,
//!         8  2  version                         byte 14 being the status
//!        10  1  purpose                 80  32  MAC
//!        11  1  reserved, 0
//!        12  2  channel          finish  0   8  magic
//!        14  1  status                   8  32  MAC
//!        15  1  reserved, 0
//!        16  8  features
//!        24 16  run id
//!        40  4  epoch
//!        44  4  rank
//!        48 32  nonce
//! ```

use super::error::{HelloError, Refusal, Stage};
use super::{Identity, Purpose};
use crate::run::RunId;

/// First bytes of every message.
pub const MAGIC: [u8; 8] = *b"PACELINE";
/// Version of the handshake and of everything that follows it.
pub const PROTOCOL_VERSION: u16 = 3;
/// Bytes of the first message.
pub const HELLO_LEN: usize = 80;
/// Bytes of the second message.
pub const REPLY_LEN: usize = HELLO_LEN + 32;
/// Bytes of the third message.
pub const FINISH_LEN: usize = 40;
/// Bytes of a nonce.
pub(super) const NONCE_LEN: usize = 32;

/// The fields of a hello, and of the first part of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) version: u16,
    pub(super) purpose: u8,
    pub(super) channel: u16,
    pub(super) status: u8,
    pub(super) identity: Identity,
    pub(super) nonce: [u8; NONCE_LEN],
    /// Whether bits are set that this version leaves 0.
    pub(super) reserved_bits: bool,
}

impl Fields {
    pub(super) fn new(
        identity: Identity,
        purpose: (u8, u16),
        status: u8,
        nonce: [u8; NONCE_LEN],
    ) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            purpose: purpose.0,
            channel: purpose.1,
            status,
            identity,
            nonce,
            reserved_bits: false,
        }
    }

    pub(super) fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = self.purpose;
        bytes[12..14].copy_from_slice(&self.channel.to_le_bytes());
        bytes[14] = self.status;
        bytes[16..24].copy_from_slice(&self.identity.features.to_le_bytes());
        bytes[24..40].copy_from_slice(self.identity.run_id.as_bytes());
        bytes[40..44].copy_from_slice(&self.identity.epoch.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.identity.rank.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.nonce);
        bytes
    }

    /// The fields of a message of this version that starts with the magic bytes.
    pub(super) fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Self, HelloError> {
        check_hello_prefix(bytes)?;
        Ok(Self {
            version: u16::from_le_bytes(array(bytes, 8)),
            purpose: bytes[10],
            channel: u16::from_le_bytes(array(bytes, 12)),
            status: bytes[14],
            identity: Identity {
                features: u64::from_le_bytes(array(bytes, 16)),
                run_id: RunId::from_bytes(array(bytes, 24)),
                epoch: u32::from_le_bytes(array(bytes, 40)),
                rank: u32::from_le_bytes(array(bytes, 44)),
            },
            nonce: array(bytes, 48),
            reserved_bits: bytes[11] != 0 || bytes[15] != 0,
        })
    }
}

/// Looks at the first bytes of a hello or reply, however few have arrived, so that a stranger is
/// recognised by its first byte and another version even if its messages are shorter.
///
/// # Errors
/// [`HelloError::NotPaceline`], [`HelloError::VersionMismatch`].
pub fn check_hello_prefix(received: &[u8]) -> Result<(), HelloError> {
    let common = received.len().min(MAGIC.len());
    if received[..common] != MAGIC[..common] {
        let shown = received.len().min(16);
        return Err(HelloError::NotPaceline { received: received[..shown].to_vec() });
    }
    match received.get(8..10) {
        Some(&[low, high]) if u16::from_le_bytes([low, high]) != PROTOCOL_VERSION => {
            Err(HelloError::VersionMismatch { theirs: u16::from_le_bytes([low, high]) })
        }
        _ => Ok(()),
    }
}

/// Code and channel of a purpose.
pub(super) const fn encode_purpose(purpose: Purpose) -> (u8, u16) {
    match purpose {
        Purpose::Control => (1, 0),
        Purpose::Store => (2, 0),
        Purpose::Data { channel } => (3, channel),
        Purpose::Arena => (4, 0),
        Purpose::Observe => (5, 0),
        Purpose::Probe => (6, 0),
    }
}

pub(super) const fn decode_purpose(code: u8, channel: u16) -> Result<Purpose, HelloError> {
    match (code, channel) {
        (1, 0) => Ok(Purpose::Control),
        (2, 0) => Ok(Purpose::Store),
        (3, channel) => Ok(Purpose::Data { channel }),
        (4, 0) => Ok(Purpose::Arena),
        (5, 0) => Ok(Purpose::Observe),
        (6, 0) => Ok(Purpose::Probe),
        (1 | 2 | 4 | 5 | 6, _) => Err(HelloError::ReservedBits { stage: Stage::Hello }),
        _ => Err(HelloError::UnknownPurpose { code }),
    }
}

/// The status of a reply; 0 stands for "accepted".
pub(super) const fn encode_refusal(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Version => 1,
        Refusal::Run => 2,
        Refusal::Epoch => 3,
        Refusal::Rank => 4,
        Refusal::Purpose => 5,
        Refusal::Duplicate => 6,
        Refusal::Gone => 7,
        Refusal::Unknown(code) => code,
    }
}

pub(super) const fn decode_refusal(status: u8) -> Option<Refusal> {
    Some(match status {
        0 => return None,
        1 => Refusal::Version,
        2 => Refusal::Run,
        3 => Refusal::Epoch,
        4 => Refusal::Rank,
        5 => Refusal::Purpose,
        6 => Refusal::Duplicate,
        7 => Refusal::Gone,
        code => Refusal::Unknown(code),
    })
}

/// `N` bytes of `bytes` from `at` on; the callers' offsets are constants within the array.
fn array<const N: usize>(bytes: &[u8; HELLO_LEN], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

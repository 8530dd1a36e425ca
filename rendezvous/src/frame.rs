//! Frames of the control plane: typed, length-capped, numbered and authenticated.
//!
//! On the wire, little endian:
//!
//! ```text
//! offset  bytes  field
//!      0      4  length of the payload, at most 1 MiB
//!      4      2  kind
//!      6      2  reserved, 0
//!      8      8  sequence number, counted from 0 in each direction
//!     16      …  payload
//!      …     32  HMAC-SHA256 over all of the above with the key of the direction
//! ```
//!
//! [`Encoder`] and [`Decoder`] do no I/O: bytes go in and out as slices.

use crate::hello::MacKey;

/// Longest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Bytes in front of the payload.
pub const HEADER_LEN: usize = 16;
/// Bytes behind the payload.
pub const MAC_LEN: usize = 32;

/// What the payload of a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKind(pub u16);

impl FrameKind {
    /// A message between a rank and the coordinator, see [`crate::message`].
    pub const CONTROL: Self = Self(1);
    /// A part of what an observer is told, see [`crate::status`].
    pub const STATUS: Self = Self(2);
}

/// One received frame whose MAC and number were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Makes the frames of one direction of one connection.
#[derive(Debug)]
pub struct Encoder {
    key: MacKey,
    next_sequence: u64,
}

impl Encoder {
    /// The encoder of a new connection.
    pub fn new(key: MacKey) -> Self {
        Self { key, next_sequence: 0 }
    }

    /// Appends the next frame to `wire`.
    ///
    /// # Errors
    /// [`FrameError::Oversize`]; `wire` and the sequence number are unchanged then.
    pub fn encode(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= PAYLOAD_BYTES_MAX)
            .ok_or(FrameError::Oversize { bytes: payload.len() as u64 })?;
        let mut header = [0; HEADER_LEN];
        header[0..4].copy_from_slice(&length.to_le_bytes());
        header[4..6].copy_from_slice(&kind.0.to_le_bytes());
        header[8..16].copy_from_slice(&self.next_sequence.to_le_bytes());
        let mac = self.key.authenticate(&[&header, payload]);
        wire.reserve(HEADER_LEN + payload.len() + MAC_LEN);
        wire.extend_from_slice(&header);
        wire.extend_from_slice(payload);
        wire.extend_from_slice(&mac);
        self.next_sequence += 1;
        Ok(())
    }
}

/// Finds the frames of one direction of one connection in its byte stream.
///
/// After the first error the stream is out of step and every further call fails alike: the
/// connection must be closed.
#[derive(Debug)]
pub struct Decoder {
    key: MacKey,
    next_sequence: u64,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were decoded already.
    consumed: usize,
    failed: Option<FrameError>,
}

impl Decoder {
    /// The decoder of a new connection.
    pub fn new(key: MacKey) -> Self {
        Self { key, next_sequence: 0, buffer: Vec::new(), consumed: 0, failed: None }
    }

    /// Takes bytes as they come from the connection.
    ///
    /// The decoder holds what was pushed and not yet pulled; who pulls all frames between two
    /// pushes bounds that by one frame plus one push.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that were pushed and are not part of a pulled frame.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.consumed
    }

    /// The next complete frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]: an oversize frame as soon as its header is there, a forged, repeated,
    /// reordered or corrupted one when it is complete.
    pub fn pull(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.try_pull();
        if let Err(error) = result {
            self.failed = Some(error);
            self.buffer = Vec::new();
            self.consumed = 0;
        }
        result
    }

    fn try_pull(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.consumed..];
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let payload_len = usize::try_from(length)
            .ok()
            .filter(|length| *length <= PAYLOAD_BYTES_MAX)
            .ok_or_else(|| FrameError::Oversize { bytes: u64::from(length) })?;
        let Some((payload, rest)) = rest.split_at_checked(payload_len) else { return Ok(None) };
        let Some((mac, _)) = rest.split_first_chunk::<MAC_LEN>() else { return Ok(None) };
        if !self.key.verify(&[header, payload], mac) {
            return Err(FrameError::Forged { sequence: self.next_sequence });
        }
        let [.., a, b, c, d, e, f, g, h] = *header;
        let sequence = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if sequence != self.next_sequence {
            return Err(FrameError::OutOfOrder { expected: self.next_sequence, actual: sequence });
        }
        if field(6) != 0 {
            return Err(FrameError::ReservedBits { bits: field(6) });
        }
        let frame = Frame { kind: FrameKind(field(4)), payload: payload.to_vec() };
        self.next_sequence += 1;
        self.consumed += HEADER_LEN + payload_len + MAC_LEN;
        Ok(Some(frame))
    }
}

/// Why a frame cannot be sent or was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload exceeds the limit.
    #[error("a frame of {bytes} bytes exceeds the limit of {PAYLOAD_BYTES_MAX} bytes")]
    Oversize {
        /// Length of the payload.
        bytes: u64,
    },
    /// The MAC is wrong.
    #[error("frame {sequence} has a wrong MAC: it was forged or corrupted")]
    Forged {
        /// The number that the frame should have had.
        sequence: u64,
    },
    /// The frame is authentic, but not the next one.
    #[error("frame {actual} arrived where frame {expected} was due")]
    OutOfOrder {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        actual: u64,
    },
    /// Bits are set that this version gives no meaning.
    #[error("reserved bits {bits:#06x} are set in a frame")]
    ReservedBits {
        /// The bits.
        bits: u16,
    },
}

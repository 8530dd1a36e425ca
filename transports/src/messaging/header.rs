use crate::{MessageId, Signature};

/// Bytes of a frame header: one cache line.
pub(crate) const HEADER_BYTES: usize = 64;

/// First two bytes of every frame, `PC`: a stream that lost its place is noticed at once.
const MAGIC: u16 = u16::from_le_bytes(*b"PC");

/// Bits of [`FrameHeader::flags`].
pub(crate) mod flags {
    /// The payload was sent without a grant and costs credit.
    pub(crate) const EAGER: u8 = 1;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Part of a message; `length` bytes of payload follow.
    Data = 1,
    /// The receive of a message is posted; no payload.
    Grant = 2,
    /// Nothing but returned credit.
    Credit = 3,
    /// The sender closes the connection in good order.
    Goodbye = 4,
}

/// What precedes every payload. A data frame describes itself completely, so that it may travel
/// on any socket and land by offset.
///
/// Layout, little-endian: magic u16, kind u8, flags u8, communicator u32, epoch u32, tag u32,
/// op_seq u64, signature 16 bytes, offset u64, message_bytes u64, length u32, credit u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) flags: u8,
    pub(crate) epoch: u32,
    pub(crate) id: MessageId,
    pub(crate) signature: Signature,
    /// Where in the message the payload belongs.
    pub(crate) offset: u64,
    /// Bytes of the whole message.
    pub(crate) message_bytes: u64,
    /// Bytes of payload in this frame.
    pub(crate) length: u32,
    /// Credit given back for the communicator, in bytes.
    pub(crate) credit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("a frame starts with {0:#06x} instead of the magic number")]
    Magic(u16),
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("a frame of epoch {theirs} on a connection of epoch {ours}")]
    Epoch { ours: u32, theirs: u32 },
    #[error("a frame of {length} bytes at offset {offset} of a message of {message_bytes}")]
    Extent { offset: u64, length: u32, message_bytes: u64 },
}

impl FrameHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[2] = self.kind as u8;
        bytes[3] = self.flags;
        bytes[4..8].copy_from_slice(&self.id.communicator.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.id.tag.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.op_seq.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.signature.0);
        bytes[40..48].copy_from_slice(&self.offset.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.message_bytes.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.length.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.credit.to_le_bytes());
        bytes
    }

    /// Reads a header from a connection of epoch `epoch`.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], epoch: u32) -> Result<Self, HeaderError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if u16_at(0) != MAGIC {
            return Err(HeaderError::Magic(u16_at(0)));
        }
        let kind = match bytes[2] {
            1 => FrameKind::Data,
            2 => FrameKind::Grant,
            3 => FrameKind::Credit,
            4 => FrameKind::Goodbye,
            other => return Err(HeaderError::Kind(other)),
        };
        let mut signature = Signature::default();
        signature.0.copy_from_slice(&bytes[24..40]);
        let header = Self {
            kind,
            flags: bytes[3],
            epoch: u32_at(8),
            id: MessageId { communicator: u32_at(4), tag: u32_at(12), op_seq: u64_at(16) },
            signature,
            offset: u64_at(40),
            message_bytes: u64_at(48),
            length: u32_at(56),
            credit: u32_at(60),
        };
        if header.epoch != epoch {
            return Err(HeaderError::Epoch { ours: epoch, theirs: header.epoch });
        }
        let end = header.offset.checked_add(u64::from(header.length));
        let outside = end.is_none_or(|end| end > header.message_bytes);
        if outside || (kind != FrameKind::Data && header.length != 0) {
            let Self { offset, length, message_bytes, .. } = header;
            return Err(HeaderError::Extent { offset, length, message_bytes });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = FrameHeader> {
        let kinds = [FrameKind::Data, FrameKind::Grant, FrameKind::Credit, FrameKind::Goodbye];
        let ids = (any::<u32>(), any::<u32>(), any::<u64>());
        (0..4usize, any::<u8>(), ids, any::<[u8; 16]>(), 0..1u64 << 40, any::<u32>(), any::<u32>())
            .prop_map(
                move |(
                    kind,
                    flags,
                    (communicator, tag, op_seq),
                    signature,
                    offset,
                    length,
                    credit,
                )| {
                    let length = if kinds[kind] == FrameKind::Data { length } else { 0 };
                    FrameHeader {
                        kind: kinds[kind],
                        flags,
                        epoch: 7,
                        id: MessageId { communicator, tag, op_seq },
                        signature: Signature(signature),
                        offset,
                        message_bytes: offset + u64::from(length) + u64::from(credit),
                        length,
                        credit,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn round_trip(header in headers()) {
            prop_assert_eq!(FrameHeader::decode(&header.encode(), 7), Ok(header));
        }

        #[test]
        fn any_bytes_are_judged_without_panic(mut bytes in any::<[u8; 64]>(), magic in any::<bool>()) {
            if magic {
                bytes[..2].copy_from_slice(b"PC");
                bytes[2] %= 6;
            }
            if let Ok(header) = FrameHeader::decode(&bytes, 0) {
                prop_assert!(header.offset + u64::from(header.length) <= header.message_bytes);
            }
        }
    }

    #[test]
    fn a_frame_of_another_epoch_is_refused() {
        let mut header = FrameHeader {
            kind: FrameKind::Credit,
            flags: 0,
            epoch: 3,
            id: MessageId { communicator: 0, tag: 0, op_seq: 0 },
            signature: Signature::default(),
            offset: 0,
            message_bytes: 0,
            length: 0,
            credit: 5,
        };
        let refused = FrameHeader::decode(&header.encode(), 4);
        assert_eq!(refused, Err(HeaderError::Epoch { ours: 4, theirs: 3 }));
        header.length = 1;
        assert!(matches!(
            FrameHeader::decode(&header.encode(), 3),
            Err(HeaderError::Extent { .. })
        ));
    }
}

use crate::{Checksum, MessageId, Signature};

/// Bytes of a frame header: one cache line.
pub(crate) const HEADER_BYTES: usize = 64;

/// Largest payload of a frame: its length has 24 bits.
pub(crate) const LENGTH_MAX: usize = (1 << 24) - 1;

/// First byte of every frame. With the kind and the epoch, it shows at once that a stream lost its place.
const MAGIC: u8 = b'P';

/// Where the checksum of the header is; it is that of all bytes before.
const HEADER_CHECKSUM_AT: usize = HEADER_BYTES - 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    /// Part of a message that was granted; `length` bytes of payload follow.
    Data = 1,
    /// Part of a message that was sent without a grant, so that it costs credit; likewise.
    Eager = 2,
    /// The receive of a message is posted; no payload.
    Grant = 3,
    /// Nothing but returned credit.
    Credit = 4,
    /// The sender closes the connection in good order.
    Goodbye = 5,
}

impl FrameKind {
    const ALL: [Self; 5] = [Self::Data, Self::Eager, Self::Grant, Self::Credit, Self::Goodbye];

    /// Whether frames of this kind have a payload, be it of no bytes.
    pub(crate) fn is_data(self) -> bool {
        matches!(self, Self::Data | Self::Eager)
    }
}

/// What precedes every payload. A data frame describes itself completely, so that it may travel
/// on any socket and land by offset.
///
/// Layout, little-endian: magic u8, kind u8, length u24, credit u24, communicator u32, epoch u32,
/// tag u32, op_seq u64, signature 16 bytes, offset u48, message_bytes u48, checksum of the payload
/// u32, checksum of the header u32. The header has a checksum of its own, so that a receiver can
/// believe what it says before the payload has come; both are 0 where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    pub(crate) epoch: u32,
    pub(crate) id: MessageId,
    pub(crate) signature: Signature,
    /// Where in the message the payload belongs; below 2^48.
    pub(crate) offset: u64,
    /// Bytes of the whole message; below 2^48, which no memory has.
    pub(crate) message_bytes: u64,
    /// Bytes of payload in this frame, at most [`LENGTH_MAX`].
    pub(crate) length: u32,
    /// Credit given back for the communicator, in bytes; below 2^24.
    pub(crate) credit: u32,
    /// Checksum of the payload.
    pub(crate) payload_checksum: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("a frame starts with {0:#04x} instead of the magic number")]
    Magic(u8),
    #[error("unknown frame kind {0}")]
    Kind(u8),
    #[error("a frame of epoch {theirs} on a connection of epoch {ours}")]
    Epoch { ours: u32, theirs: u32 },
    #[error("a frame of {length} bytes at offset {offset} of a message of {message_bytes}")]
    Extent { offset: u64, length: u32, message_bytes: u64 },
    #[error("the checksum of a header is {computed:#010x} instead of {expected:#010x}")]
    Corrupted { computed: u32, expected: u32 },
}

impl FrameHeader {
    /// Puts the header into bytes, with its checksum.
    pub(crate) fn encode(&self, checksum: Checksum) -> [u8; HEADER_BYTES] {
        debug_assert!(self.length as usize <= LENGTH_MAX && self.credit >> 24 == 0);
        debug_assert!(self.offset >> 48 == 0 && self.message_bytes >> 48 == 0);
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = MAGIC;
        bytes[1] = self.kind as u8;
        bytes[2..5].copy_from_slice(&self.length.to_le_bytes()[..3]);
        bytes[5..8].copy_from_slice(&self.credit.to_le_bytes()[..3]);
        bytes[8..12].copy_from_slice(&self.id.communicator.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.id.tag.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.id.op_seq.to_le_bytes());
        bytes[28..44].copy_from_slice(&self.signature.0);
        bytes[44..50].copy_from_slice(&self.offset.to_le_bytes()[..6]);
        bytes[50..56].copy_from_slice(&self.message_bytes.to_le_bytes()[..6]);
        bytes[56..60].copy_from_slice(&self.payload_checksum.to_le_bytes());
        let of_header = checksum.append(0, &bytes[..HEADER_CHECKSUM_AT]);
        bytes[HEADER_CHECKSUM_AT..].copy_from_slice(&of_header.to_le_bytes());
        bytes
    }

    /// Reads a header from a connection of epoch `epoch`. Its checksum comes first: what is wrong with
    /// a header that changed on the way is not its sender's fault.
    pub(crate) fn decode(
        bytes: &[u8; HEADER_BYTES],
        epoch: u32,
        checksum: Checksum,
    ) -> Result<Self, HeaderError> {
        let number = |at: usize, width: usize| {
            let mut wide = [0; 8];
            wide[..width].copy_from_slice(&bytes[at..at + width]);
            u64::from_le_bytes(wide)
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u24_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]);
        if checksum != Checksum::None {
            let computed = checksum.append(0, &bytes[..HEADER_CHECKSUM_AT]);
            let expected = u32_at(HEADER_CHECKSUM_AT);
            if computed != expected {
                return Err(HeaderError::Corrupted { computed, expected });
            }
        }
        if bytes[0] != MAGIC {
            return Err(HeaderError::Magic(bytes[0]));
        }
        let kind = FrameKind::ALL.into_iter().find(|kind| *kind as u8 == bytes[1]);
        let kind = kind.ok_or(HeaderError::Kind(bytes[1]))?;
        let mut signature = Signature::default();
        signature.0.copy_from_slice(&bytes[28..44]);
        let header = Self {
            kind,
            epoch: u32_at(12),
            id: MessageId { communicator: u32_at(8), tag: u32_at(16), op_seq: number(20, 8) },
            signature,
            offset: number(44, 6),
            message_bytes: number(50, 6),
            length: u24_at(2),
            credit: u24_at(5),
            payload_checksum: u32_at(56),
        };
        if header.epoch != epoch {
            return Err(HeaderError::Epoch { ours: epoch, theirs: header.epoch });
        }
        let outside = header.offset + u64::from(header.length) > header.message_bytes;
        if outside || (!kind.is_data() && header.length != 0) {
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
        let ids = (any::<u32>(), any::<u32>(), any::<u64>());
        let extents = (0..1u64 << 47, 0..1u32 << 24, 0..1u64 << 46);
        let fields = (0..1u32 << 24, any::<u32>());
        (prop::sample::select(&FrameKind::ALL), ids, any::<[u8; 16]>(), extents, fields).prop_map(
            |(kind, (communicator, tag, op_seq), signature, extent, fields)| {
                let ((offset, length, rest), (credit, payload_checksum)) = (extent, fields);
                let length = if kind.is_data() { length } else { 0 };
                FrameHeader {
                    kind,
                    epoch: 7,
                    id: MessageId { communicator, tag, op_seq },
                    signature: Signature(signature),
                    offset,
                    message_bytes: offset + u64::from(length) + rest,
                    length,
                    credit,
                    payload_checksum,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn round_trip(header in headers()) {
            for checksum in Checksum::ALL {
                let bytes = header.encode(checksum);
                prop_assert_eq!(FrameHeader::decode(&bytes, 7, checksum), Ok(header));
            }
        }

        #[test]
        fn any_bytes_are_judged_without_panic(mut bytes in any::<[u8; 64]>(), magic in any::<bool>()) {
            if magic {
                bytes[0] = MAGIC;
                bytes[1] %= 7;
            }
            if let Ok(header) = FrameHeader::decode(&bytes, 0, Checksum::None) {
                prop_assert!(header.offset + u64::from(header.length) <= header.message_bytes);
            }
            let of_header = Checksum::Crc32c.append(0, &bytes[..60]);
            prop_assume!(bytes[60..] != of_header.to_le_bytes());
            let refused = FrameHeader::decode(&bytes, 0, Checksum::Crc32c);
            let is_corrupted = matches!(refused, Err(HeaderError::Corrupted { .. }));
            prop_assert!(is_corrupted, "{:?}", refused);
        }

        #[test]
        fn every_bit_counts(header in headers(), bit in 0..512usize) {
            let mut bytes = header.encode(Checksum::Crc32c);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let refused = FrameHeader::decode(&bytes, 7, Checksum::Crc32c);
            let is_corrupted = matches!(refused, Err(HeaderError::Corrupted { .. }));
            prop_assert!(is_corrupted, "{:?}", refused);
        }
    }

    #[test]
    fn a_frame_of_another_epoch_is_refused() {
        let mut header = FrameHeader {
            kind: FrameKind::Credit,
            epoch: 3,
            id: MessageId { communicator: 0, tag: 0, op_seq: 0 },
            signature: Signature::default(),
            offset: 0,
            message_bytes: 0,
            length: 0,
            credit: 5,
            payload_checksum: 0,
        };
        for checksum in Checksum::ALL {
            let decode = |header: FrameHeader, epoch| {
                FrameHeader::decode(&header.encode(checksum), epoch, checksum)
            };
            header.length = 0;
            assert_eq!(decode(header, 4), Err(HeaderError::Epoch { ours: 4, theirs: 3 }));
            header.length = 1;
            assert!(matches!(decode(header, 3), Err(HeaderError::Extent { .. })));
        }
    }
}

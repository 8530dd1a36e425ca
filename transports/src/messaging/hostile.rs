//! What an authenticated but broken peer can send, fed to an endpoint: for tests and fuzzing.

use std::io;
use std::os::fd::BorrowedFd;

use super::{ByteStream, FrameHeader, FrameKind, StreamEndpoint, Terms};
use crate::{
    Checksum, EAGER_BYTES_OUTSTANDING_MAX, Endpoint, Event, MessageId, RecvPost, Region, SendPost,
    Signature, TransportKind,
};

/// Bytes that a peer has sent, in pieces; whatever is written to it disappears.
#[derive(Debug)]
pub(super) struct Script<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) piece: usize,
}

impl ByteStream for Script<'_> {
    const KIND: TransportKind = TransportKind::Sim;

    fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize> {
        Ok(parts.iter().map(|part| part.len()).sum())
    }

    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.min(self.bytes.len()).min(first.len() + second.len());
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (now, later) = self.bytes.split_at(count);
        self.bytes = later;
        let into_first = count.min(first.len());
        first[..into_first].copy_from_slice(&now[..into_first]);
        second[..count - into_first].copy_from_slice(&now[into_first..]);
        Ok(count)
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Lets an endpoint of epoch 0, with `checksum`, take `streams` as what its peer sends on each of its streams, in
/// pieces of `piece` bytes, with a few sends and receives posted. Returns whether the connection
/// survived.
///
/// # Panics
/// When the endpoint holds more memory than it may, or goes on for ever: never, whatever the bytes.
pub fn feed(streams: &[&[u8]], piece: usize, checksum: Checksum) -> bool {
    let region = Region::allocate(4 * LENGTHS[2]).expect("memory for the test");
    let scripts: Vec<Script<'_>> =
        streams.iter().map(|bytes| Script { bytes, piece: piece.max(1) }).collect();
    let mut endpoint =
        StreamEndpoint::new(1, "a broken peer".to_owned(), Terms { epoch: 0, checksum }, scripts);
    post_some(&mut endpoint, &region, 0);
    let at_rest = endpoint.memory_bytes();
    let total: usize = streams.iter().map(|bytes| bytes.len()).sum();
    let mut events: Vec<Event> = Vec::new();
    let mut survived = true;
    for round in 0..total + 8 {
        match endpoint.poll(&mut events) {
            Ok(false) => break,
            Ok(true) => {}
            Err(_) => {
                survived = false;
                break;
            }
        }
        if round == 3 {
            // More receives while frames are half-way.
            post_some(&mut endpoint, &region, 2);
        }
        // Each communicator that the bytes name may hold this much; growing a buffer may double it.
        let named = total / 64 + 1;
        let held = endpoint.memory_bytes().saturating_sub(at_rest);
        assert!(held <= 2 * named * EAGER_BYTES_OUTSTANDING_MAX, "{held} bytes are held");
        events.clear();
    }
    for communicator in 0..4 {
        endpoint.abandon(communicator);
    }
    drop(endpoint);
    assert_eq!(std::sync::Arc::strong_count(&region), 1, "a slice is still held");
    survived
}

/// Lengths of the messages that are posted, by tag.
const LENGTHS: [usize; 4] = [0, 100, 70_000, 64];

fn post_some(endpoint: &mut dyn Endpoint, region: &std::sync::Arc<Region>, op_seq: u64) {
    for (tag, length) in (0..).zip(LENGTHS) {
        for communicator in 0..2 {
            let id = MessageId { communicator, tag, op_seq };
            let signature = Signature::default();
            // SAFETY: nobody looks at the bytes.
            let slice = unsafe { region.slice_mut(0..length) };
            let _ = endpoint.post_recv(RecvPost { token: 0, id, signature, slice });
            // SAFETY: what is sent matters to nobody.
            let slice = unsafe { region.slice(LENGTHS[2]..LENGTHS[2] + length) };
            let _ = endpoint.post_send(SendPost { token: 0, id, signature, slice });
        }
    }
}

/// Frames of every kind, of messages that [`feed`] posts, to begin with.
pub fn frames_to_change(checksum: Checksum) -> Vec<Vec<u8>> {
    let frame = |kind, tag: u32, length: u32| {
        let header = FrameHeader {
            kind,
            epoch: 0,
            id: MessageId { communicator: 0, tag, op_seq: 0 },
            signature: Signature::default(),
            offset: 0,
            message_bytes: LENGTHS[tag as usize] as u64,
            length,
            credit: 0,
            payload_checksum: 0,
        };
        framed(header, 7, checksum)
    };
    let kinds = [
        frame(FrameKind::Eager, 1, 100),
        frame(FrameKind::Eager, 3, 64),
        frame(FrameKind::Data, 2, 1000),
        frame(FrameKind::Eager, 0, 0),
        frame(FrameKind::Grant, 2, 0),
        frame(FrameKind::Credit, 0, 0),
        frame(FrameKind::Goodbye, 0, 0),
    ];
    let all = kinds.concat();
    kinds.into_iter().chain([all]).collect()
}

/// A frame whose payload is all `fill`, with the checksums that belong to it.
pub(super) fn framed(header: FrameHeader, fill: u8, checksum: Checksum) -> Vec<u8> {
    let payload = vec![fill; header.length as usize];
    let payload_checksum = checksum.append(0, &payload);
    let header = FrameHeader { payload_checksum, ..header };
    [&header.encode(checksum)[..], &payload].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frames that are nearly right: the numbers that matter come from small sets, so that they
    /// often match something.
    fn frames(checksum: Checksum) -> impl Strategy<Value = Vec<u8>> {
        let lengths = prop::sample::select(vec![0u32, 1, 64, 100, 4096, 5000, 65_536, 70_000]);
        let credits = prop::sample::select(
            vec![0u32; 40].into_iter().chain([64, 100_000, (1 << 24) - 1]).collect::<Vec<_>>(),
        );
        let offsets = prop::sample::select(vec![0u64, 0, 1, 64, 100, 4096, (1 << 48) - 4]);
        let ids = (0..3u32, 0..4u32, 0..3u64);
        (0..11usize, any::<u8>(), ids, offsets, lengths, credits, prop::bool::weighted(0.9))
            .prop_map(
                move |(
                    kind,
                    fill,
                    (communicator, tag, op_seq),
                    offset,
                    length,
                    credit,
                    matching,
                )| {
                    let kinds = [
                        FrameKind::Grant,
                        FrameKind::Credit,
                        FrameKind::Goodbye,
                        FrameKind::Data,
                        FrameKind::Data,
                        FrameKind::Data,
                        FrameKind::Data,
                    ];
                    let kind = kinds.get(kind).copied().unwrap_or(FrameKind::Eager);
                    let posted = LENGTHS[tag as usize] as u64;
                    let offset = if matching { offset.min(posted) } else { offset };
                    let most = if matching { posted - offset } else { u64::MAX };
                    let most = u32::try_from(most).unwrap_or(u32::MAX);
                    let length = if kind.is_data() { length.min(most) } else { 0 };
                    // What does not fit into 48 bits is something else on the wire.
                    let end = (offset + u64::from(length)) & ((1 << 48) - 1);
                    let header = FrameHeader {
                        kind,
                        epoch: 0,
                        id: MessageId { communicator, tag, op_seq },
                        signature: Signature([u8::from(fill > 250); 16]),
                        offset,
                        message_bytes: if matching { posted } else { end },
                        length,
                        credit,
                        payload_checksum: 0,
                    };
                    framed(header, fill, checksum)
                },
            )
    }

    fn streams(checksum: Checksum) -> impl Strategy<Value = Vec<Vec<u8>>> {
        let stream =
            prop::collection::vec(frames(checksum), 0..12).prop_map(|frames| frames.concat());
        prop::collection::vec(stream, 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn nearly_right_frames_do_no_harm(
            plain in streams(Checksum::None),
            checked in streams(Checksum::Crc32c),
            piece in 1..5000usize,
        ) {
            for (streams, checksum) in [(plain, Checksum::None), (checked, Checksum::Crc32c)] {
                let streams: Vec<&[u8]> = streams.iter().map(Vec::as_slice).collect();
                feed(&streams, piece, checksum);
            }
        }

        #[test]
        fn garbage_ends_the_connection(bytes in prop::collection::vec(any::<u8>(), 64..300)) {
            prop_assume!(!bytes.starts_with(b"P"));
            for checksum in Checksum::ALL {
                prop_assert!(!feed(&[&bytes], 50, checksum));
            }
        }
    }

    /// Feeds frames without checksums.
    fn feed_plain(streams: &[&[u8]], piece: usize) -> bool {
        feed(streams, piece, Checksum::None)
    }

    /// A frame of a message that nobody posts a receive for.
    fn eager(offset: u64, length: u32, message_bytes: u64) -> Vec<u8> {
        eager_of(MessageId { communicator: 3, tag: 9, op_seq: 9 }, offset, length, message_bytes)
    }

    fn eager_of(id: MessageId, offset: u64, length: u32, message_bytes: u64) -> Vec<u8> {
        let header = FrameHeader {
            kind: FrameKind::Eager,
            epoch: 0,
            id,
            signature: Signature::default(),
            offset,
            message_bytes,
            length,
            credit: 0,
            payload_checksum: 0,
        };
        framed(header, 7, Checksum::None)
    }

    #[test]
    fn the_same_early_bytes_twice_are_refused() {
        assert!(feed_plain(&[&eager(0, 10, 1000)], 100));
        // The second frame is longer than what the first has room for.
        assert!(!feed_plain(&[&[eager(0, 10, 1000), eager(0, 900, 1000)].concat()], 100));
    }

    #[test]
    fn early_bytes_that_overlap_are_refused() {
        assert!(feed_plain(&[&[eager(0, 10, 1000), eager(10, 10, 1000)].concat()], 100));
        assert!(!feed_plain(&[&[eager(0, 10, 1000), eager(5, 10, 1000)].concat()], 100));
        assert!(!feed_plain(&[&[eager(5, 10, 1000), eager(0, 6, 1000)].concat()], 100));
    }

    /// The message of 100 bytes whose receive is posted at once, or once early frames have begun.
    fn hundred(op_seq: u64, offset: u64, length: u32) -> Vec<u8> {
        eager_of(MessageId { communicator: 0, tag: 1, op_seq }, offset, length, 100)
    }

    #[test]
    fn bytes_that_land_twice_are_no_substitute_for_others() {
        assert!(feed_plain(&[&[hundred(0, 50, 50), hundred(0, 0, 50)].concat()], 1000));
        assert!(!feed_plain(&[&[hundred(0, 0, 50), hundred(0, 0, 50)].concat()], 1000));
        assert!(!feed_plain(&[&[hundred(0, 60, 40), hundred(0, 40, 60)].concat()], 1000));
        // In pieces of 20 bytes the first frame begins before its receive is posted and ends after
        // it, and the second, on another stream, begins in between.
        let late = |frame: Vec<u8>| [hundred(0, 0, 0), frame].concat();
        assert!(feed_plain(&[&hundred(2, 0, 60), &late(hundred(2, 60, 40))], 20));
        assert!(!feed_plain(&[&hundred(2, 0, 60), &late(hundred(2, 0, 40))], 20));
        assert!(!feed_plain(&[&hundred(2, 0, 60), &late(hundred(2, 50, 40))], 20));
    }

    #[test]
    fn a_message_in_too_many_pieces_is_refused() {
        let odd = |count: u64| (0..count).map(|at| hundred(0, 2 * at + 1, 1));
        let some: Vec<u8> = odd(20).collect::<Vec<_>>().concat();
        assert!(feed_plain(&[&some], 1000));
        let id = MessageId { communicator: 0, tag: 2, op_seq: 0 };
        let many: Vec<u8> =
            (0..100).map(|at| eager_of(id, 2 * at + 1, 1, 70_000)).collect::<Vec<_>>().concat();
        assert!(!feed_plain(&[&many], 1000));
    }

    #[test]
    fn messages_that_nobody_waits_for_in_too_many_communicators_are_refused() {
        let frames = |communicators: u32| -> Vec<u8> {
            let of =
                |communicator| eager_of(MessageId { communicator, tag: 9, op_seq: 9 }, 0, 1, 1);
            (10..10 + communicators).map(of).collect::<Vec<_>>().concat()
        };
        assert!(feed_plain(&[&frames(1000)], 1 << 20));
        assert!(!feed_plain(&[&frames(1030)], 1 << 20));
    }

    #[test]
    fn more_than_the_eager_limit_is_refused() {
        let frames = |count: u64| -> Vec<u8> {
            let frame = |index| eager(index * 60_000, 60_000, 1 << 21);
            (0..count).map(frame).collect::<Vec<_>>().concat()
        };
        let allowed = EAGER_BYTES_OUTSTANDING_MAX as u64 / 60_000;
        assert!(feed_plain(&[&frames(allowed)], 1 << 20));
        assert!(!feed_plain(&[&frames(allowed + 1)], 1 << 20));
        // An announced length alone allocates nothing.
        assert!(!feed_plain(&[&eager(0, 0, 10)[..64], &oversize()], 1 << 20));
    }

    fn oversize() -> Vec<u8> {
        let mut bytes = eager(0, 0, u64::from(u32::MAX));
        bytes[2..5].fill(0xff);
        bytes
    }
}

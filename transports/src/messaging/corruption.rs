//! Bits that change on the way: with checksums each of them ends the connection, before anything is
//! made of the frame that it belongs to.

use std::sync::Arc;

use proptest::prelude::*;

use super::hostile::{Script, framed};
use super::{FrameHeader, FrameKind, HEADER_BYTES, StreamEndpoint, Terms};
use crate::{
    Checksum, EAGER_BYTES_MAX, Endpoint, EndpointError, Event, MessageId, RecvPost, Region,
    SendPost, Signature,
};

/// Tag and length of the messages that receives are posted for.
const POSTED: [(u32, usize); 4] = [(0, 0), (1, 13), (2, 21), (3, 70_001)];

/// Those of one that comes early.
const EARLY: (u32, usize) = (4, 9_001);

/// Those of one that is sent the other way, and waits for its grant.
const SENT: (u32, usize) = (5, 3 * EAGER_BYTES_MAX);

fn id(tag: u32) -> MessageId {
    MessageId { communicator: 0, tag, op_seq: 0 }
}

fn frame(
    kind: FrameKind,
    (tag, message): (u32, usize),
    offset: u64,
    length: u32,
    credit: u32,
) -> Vec<u8> {
    let header = FrameHeader {
        kind,
        epoch: 0,
        id: id(tag),
        signature: Signature::default(),
        offset,
        message_bytes: message as u64,
        length,
        credit,
        payload_checksum: 0,
    };
    framed(header, 7, Checksum::Crc32c)
}

/// Short frames of every kind; credit is given back for part of [`SENT`].
fn short_frames() -> Vec<Vec<u8>> {
    vec![
        frame(FrameKind::Eager, POSTED[0], 0, 0, 0),
        frame(FrameKind::Eager, POSTED[1], 0, 13, 700),
        frame(FrameKind::Data, POSTED[2], 10, 11, 0),
        frame(FrameKind::Data, POSTED[2], 0, 10, 0),
        frame(FrameKind::Eager, EARLY, 0, 5, 0),
        frame(FrameKind::Grant, SENT, 0, 0, 0),
        frame(FrameKind::Credit, (0, 0), 0, 0, 900),
        frame(FrameKind::Goodbye, (0, 0), 0, 0, 0),
    ]
}

fn long_frames() -> Vec<Vec<u8>> {
    vec![
        frame(FrameKind::Eager, POSTED[3], 0, 60_000, 0),
        frame(FrameKind::Eager, EARLY, 5000, 4001, 64),
        frame(FrameKind::Data, POSTED[3], 60_000, 10_001, 0),
        frame(FrameKind::Eager, EARLY, 0, 5000, 0),
        frame(FrameKind::Eager, POSTED[1], 0, 13, 0),
    ]
}

/// What an endpoint made of what came.
#[derive(Debug)]
struct Outcome {
    /// What was reported of receives and early messages.
    events: Vec<String>,
    /// Whether [`SENT`] went out, for which it takes its grant.
    sent: bool,
    /// Whether the early message was there when its receive was posted at last.
    has_early: bool,
    error: Option<EndpointError>,
}

/// What everything is sent from and received in; nobody looks at it.
fn memory() -> Arc<Region> {
    Region::allocate(SENT.1).unwrap()
}

/// Lets an endpoint read `bytes` in pieces, with everything posted but the receive of [`EARLY`].
fn run(region: &Arc<Region>, bytes: &[u8], piece: usize) -> Outcome {
    let terms = Terms { epoch: 0, checksum: Checksum::Crc32c };
    let streams = vec![Script { bytes, piece }];
    let mut endpoint = StreamEndpoint::new(1, "the peer".to_owned(), terms, streams);
    let signature = Signature::default();
    let receive = |endpoint: &mut dyn Endpoint, (tag, length): (u32, usize)| {
        // SAFETY: nobody looks at the bytes, and one thread writes to them.
        let slice = unsafe { region.slice_mut(0..length) };
        let post = RecvPost { token: tag.into(), id: id(tag), signature, slice };
        endpoint.post_recv(post).is_ok()
    };
    for message in POSTED {
        assert!(receive(&mut endpoint, message));
    }
    // SAFETY: what is sent matters to nobody.
    let slice = unsafe { region.slice(0..SENT.1) };
    let post = SendPost { token: SENT.0.into(), id: id(SENT.0), signature, slice };
    endpoint.post_send(post).unwrap();
    let (mut events, mut error) = (Vec::new(), None);
    loop {
        match endpoint.poll(&mut events) {
            Ok(true) => {}
            Ok(false) => break,
            Err(death) => {
                error = Some(death);
                break;
            }
        }
    }
    let mut at_last = Vec::new();
    if receive(&mut endpoint, EARLY) {
        let _ = endpoint.poll(&mut at_last);
    }
    let is_early =
        |event: &Event| matches!(event, Event::Received { token } if *token == u64::from(EARLY.0));
    let has_early = at_last.iter().any(is_early);
    drop(endpoint);
    let is_sent = |event: &Event| matches!(event, Event::Sent { .. });
    let sent = events.iter().any(is_sent);
    let events = events.iter().filter(|event| !is_sent(event));
    let events = events.map(|event| format!("{event:?}")).collect();
    Outcome { events, sent, has_early, error }
}

/// Turns one bit of the frames round.
fn check(region: &Arc<Region>, frames: &[Vec<u8>], bit: usize, piece: usize) {
    let mut bytes = frames.concat();
    let starts = frames.iter().scan(0, |end, frame| {
        let start = *end;
        *end += frame.len();
        Some(start)
    });
    let start = starts.take_while(|start| *start <= bit / 8).last().unwrap();
    let in_header = bit / 8 < start + HEADER_BYTES;
    // The header of a frame whose payload is wrong is right.
    let good = if in_header { start } else { start + HEADER_BYTES };
    let before = run(region, &bytes[..good], piece);
    assert!(before.error.is_none(), "{before:?}");
    bytes[bit / 8] ^= 1 << (bit % 8);
    let after = run(region, &bytes, piece);
    let told = || format!("bit {bit}, pieces of {piece}: {after:?} instead of {before:?}");
    let expected = if in_header { "header" } else { "payload" };
    let named = |error: &EndpointError| matches!(error, EndpointError::Corrupted { peer: 1, part, .. } if *part == expected);
    assert!(after.error.as_ref().is_some_and(named), "{}", told());
    assert_eq!(after.events, before.events, "{}", told());
    assert_eq!(after.has_early, before.has_early, "{}", told());
    assert!(before.sent || !after.sent, "{}", told());
}

#[test]
fn what_did_not_change_is_taken() {
    let region = memory();
    for piece in [1, 63, 65, 5000, usize::MAX] {
        let short = run(&region, &short_frames().concat(), piece);
        assert!(short.error.is_none() && short.sent && !short.has_early, "{short:?}");
        let received = |tag: u32| format!("{:?}", Event::Received { token: tag.into() });
        for tag in [0, 1, 2] {
            assert!(short.events.contains(&received(tag)), "{tag}: {short:?}");
        }
        let long = run(&region, &long_frames().concat(), piece);
        assert!(long.error.is_none() && !long.sent && long.has_early, "{long:?}");
        assert!(long.events.contains(&received(3)), "{long:?}");
    }
}

#[test]
fn every_bit_of_short_frames_counts() {
    let frames = short_frames();
    let region = memory();
    for bit in 0..8 * frames.concat().len() {
        check(&region, &frames, bit, [1, 13, 63, 64, 65, 200, 1000][bit % 7]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_bit_of_long_frames_counts(bit in any::<prop::sample::Index>(), piece in 100..70_000usize) {
        let (region, frames) = (memory(), long_frames());
        check(&region, &frames, bit.index(8 * frames.concat().len()), piece);
    }

    #[test]
    fn every_bit_of_their_headers_counts(
        frame in any::<prop::sample::Index>(),
        bit in 0..8 * HEADER_BYTES,
        piece in 100..70_000usize,
    ) {
        let (region, frames) = (memory(), long_frames());
        let frame = frame.index(frames.len());
        let start: usize = frames[..frame].iter().map(Vec::len).sum();
        check(&region, &frames, 8 * start + bit, piece);
    }
}

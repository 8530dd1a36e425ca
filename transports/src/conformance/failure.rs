//! Operations that fail, peers that leave, and what is given back.

use super::rig::{Buffer, End, Outcome, Rig, message};
use super::{Doomed, Harness, up_to_the_largest};
use crate::{
    Endpoint, EndpointError, MessageId, OpError, RecvPost, Region, Rejected, SendPost, Signature,
};

/// Bytes of each of the two messages between the survivor and a doomed peer.
pub const DOOMED_BYTES: usize = 24 << 20;

/// What a doomed peer posts before anybody kills it: one message each way, too long to be done
/// when it dies.
///
/// # Panics
/// When the memory or the endpoint refuses.
pub fn doomed_posts(endpoint: &mut dyn Endpoint) {
    let region = Region::allocate(2 * DOOMED_BYTES).expect("memory for the test");
    // SAFETY: nobody writes to this half of the region.
    let from = unsafe { region.slice(0..DOOMED_BYTES) };
    // SAFETY: nobody looks at this half of the region.
    let to = unsafe { region.slice_mut(DOOMED_BYTES..2 * DOOMED_BYTES) };
    let signature = super::rig::PLAIN;
    let recv = RecvPost { token: 1, id: message(1), signature, slice: to };
    endpoint.post_recv(recv).expect("an empty queue has room");
    let send = SendPost { token: 2, id: message(2), signature, slice: from };
    endpoint.post_send(send).expect("an empty queue has room");
}

/// A receive that disagrees about what the operation is fails with both signatures; other
/// communicators go on.
pub fn signature_mismatch_fails_the_operation_only(harness: &dyn Harness) {
    let other = Signature(*b"conformance/two.");
    for size in up_to_the_largest(harness, [0, 500, 64 << 10, 300_000]) {
        for early in [false, true] {
            let mut rig = Rig::new(harness);
            let expected = OpError::SignatureMismatch {
                id: message(1),
                ours: other,
                theirs: super::rig::PLAIN,
            };
            fails_alone(&mut rig, size, size, other, early, &expected);
        }
    }
}

/// A receive of another length than the message fails with both lengths; other communicators go on.
pub fn length_mismatch_fails_the_operation_only(harness: &dyn Harness) {
    let largest = harness.message_bytes_max();
    for (announced, posted) in
        [(0, 1), (1, 0), (500, 499), (64 << 10, 65 << 10), (300_000, 100), (100, 300_000)]
            .into_iter()
            .filter(|(announced, posted)| *announced.max(posted) <= largest)
    {
        for early in [false, true] {
            let mut rig = Rig::new(harness);
            let expected = OpError::LengthMismatch { id: message(1), posted, announced };
            fails_alone(&mut rig, announced, posted, super::rig::PLAIN, early, &expected);
        }
    }
}

#[track_caller]
fn fails_alone(
    rig: &mut Rig<'_>,
    announced: usize,
    posted: usize,
    signature: Signature,
    early: bool,
    expected: &OpError,
) {
    let largest = rig.harness().message_bytes_max();
    let source = Buffer::filled(1, announced);
    let mut target = Buffer::blank(posted);
    let received = if early {
        rig.send(0, message(1), &source);
        rig.until("the announcement", |rig| !rig.ends[1].early.is_empty());
        rig.receive_as(1, message(1), signature, &target)
    } else {
        let received = rig.receive_as(1, message(1), signature, &target);
        rig.send(0, message(1), &source);
        received
    };
    rig.until("the failure", |rig| rig.ends[1].outcome(received).is_some());
    assert_eq!(rig.ends[1].outcome(received), Some(&Outcome::Failed(expected.clone())));
    target.take_back();
    // Neither end is disturbed: another communicator works, both ways.
    for tag in 0..4 {
        let id = MessageId { communicator: 2, tag, op_seq: 0 };
        let size = 100_000 * tag as usize;
        rig.exchange(tag as usize % 2, id, size.min(largest));
    }
    // So does the next operation of the same one, although the sender of the failed one may have
    // spent credit on it.
    rig.exchange(0, MessageId { communicator: 1, tag: 0, op_seq: 1 }, largest.min(64 << 10));
    rig.ends[0].endpoint().abandon(1);
    rig.ends[1].endpoint().abandon(1);
    assert!(!source.is_lent(), "abandoned, but still held");
}

/// However far messages have come, abandoning their communicator gives every slice back at once.
pub fn abandon_releases_every_slice(harness: &dyn Harness) {
    let size = harness.message_bytes_max().min(4 << 20);
    for rounds in [0, 1, 2, 9, 40] {
        for first in [0, 1] {
            let mut rig = Rig::new(harness);
            let mut buffers = Vec::new();
            for side in [0, 1] {
                for (tag, bytes) in (0..).zip([10, size, 30_000, size]) {
                    let (source, target) = (Buffer::filled(tag, bytes), Buffer::blank(bytes));
                    rig.send(side, message(tag), &source);
                    // The third message stays without a receive.
                    if tag != 2 {
                        rig.receive(1 - side, message(tag), &target);
                    }
                    buffers.extend([source, target]);
                }
            }
            for _ in 0..rounds {
                rig.round();
            }
            rig.ends[first].endpoint().abandon(1);
            for _ in 0..3 {
                rig.round();
            }
            rig.ends[1 - first].endpoint().abandon(1);
            for buffer in &mut buffers {
                buffer.take_back();
            }
            works_or_is_dead(&mut rig);
        }
    }
}

/// After an operation was given up the connection is either whole or known to be dead, at both
/// ends.
#[track_caller]
fn works_or_is_dead(rig: &mut Rig<'_>) {
    let source = Buffer::filled(7, 100_000);
    let mut target = Buffer::blank(100_000);
    let id = MessageId { communicator: 2, tag: 7, op_seq: 0 };
    // SAFETY: nobody writes to a filled buffer.
    let slice = unsafe { source.region.slice(0..100_000) };
    let signature = super::rig::PLAIN;
    let send = SendPost { token: 1_000_000, id, signature, slice };
    let _ = rig.ends[0].endpoint().post_send(send);
    // SAFETY: the buffer is looked at only when the slice is back.
    let slice = unsafe { target.region.slice_mut(0..100_000) };
    let receive = RecvPost { token: 1_000_001, id, signature, slice };
    let _ = rig.ends[1].endpoint().post_recv(receive);
    rig.until("an exchange or an error at both ends", |rig| {
        let dead = rig.ends.iter().all(|end| end.error.is_some());
        dead || rig.ends[1].outcome(1_000_001).is_some()
    });
    if rig.ends[0].error.is_some() {
        for end in &mut rig.ends {
            end.endpoint().abandon(2);
        }
        target.take_back();
    } else {
        target.check(7);
    }
}

/// What a peer sent before it dropped its endpoint arrives, and then the news that it left.
pub fn departing_peer_is_heard_to_the_end(harness: &dyn Harness) {
    for size in up_to_the_largest(harness, [10, 4097, 64 << 10, 1 << 20]) {
        let mut rig = Rig::new(harness);
        let source = Buffer::filled(3, size);
        let mut target = Buffer::blank(size);
        let received = rig.receive(1, message(3), &target);
        let sent = rig.send(0, message(3), &source);
        // An exchange the other way, so that both directions have something under way.
        let nothing = Buffer::blank(100);
        rig.receive(1, message(99), &nothing);
        rig.finish(0, &[sent]);
        rig.ends[0].drop_endpoint();
        rig.finish(1, &[received]);
        target.check(3);
        rig.until("the news", |rig| rig.ends[1].error.is_some());
        assert_left(&rig.ends[1], true);
        rig.ends[1].endpoint().abandon(1);
    }
}

/// A peer that drops its endpoint with nothing to do is reported as one that left.
pub fn departed_peer_is_reported_as_orderly(harness: &dyn Harness) {
    for leaver in [0, 1] {
        let mut rig = Rig::new(harness);
        rig.exchange(0, message(1), 100);
        rig.exchange(1, message(2), 100_000);
        rig.ends[leaver].drop_endpoint();
        let stays = 1 - leaver;
        rig.until("the news", |rig| rig.ends[stays].error.is_some());
        assert_left(&rig.ends[stays], true);
        is_dead_for_good(&mut rig, stays);
    }
}

/// An end that is dropped in the middle of everything lets go of its slices; so does the other
/// when it is told to.
pub fn drop_with_operations_in_flight(harness: &dyn Harness) {
    let size = harness.message_bytes_max().min(3 << 20);
    for rounds in [0, 1, 3, 30] {
        let mut rig = Rig::new(harness);
        let mut buffers: Vec<Buffer> =
            (0..2).flat_map(|tag| [Buffer::filled(tag, size), Buffer::blank(size)]).collect();
        for side in [0, 1] {
            let tag = u32::try_from(side).expect("0 or 1");
            rig.send(side, message(tag), &buffers[2 * side]);
            rig.receive(1 - side, message(tag), &buffers[2 * side + 1]);
        }
        for _ in 0..rounds {
            rig.round();
        }
        rig.ends[0].drop_endpoint();
        rig.until("the news", |rig| rig.ends[1].error.is_some());
        let lost = rig.ends[1].error.as_ref().is_some_and(EndpointError::is_peer_lost);
        assert!(lost, "{:?}", rig.ends[1].error);
        rig.ends[1].endpoint().abandon(1);
        for buffer in &mut buffers {
            buffer.take_back();
        }
    }
}

/// A peer that is killed is reported as one that did not say goodbye; its survivor gets every
/// slice back.
pub fn killed_peer_is_reported_and_slices_come_back(harness: &dyn Harness) {
    let Some(doomed) = harness.doomed() else { return };
    let Doomed { endpoint, mut drive, kill } = doomed;
    let mut end = End::new(endpoint);
    let mut source = Buffer::filled(1, DOOMED_BYTES);
    let mut target = Buffer::blank(DOOMED_BYTES);
    post_to_doomed(&mut end, &source, &target);
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut step = |end: &mut End| {
        if !end.poll() {
            harness.idle();
        }
        drive();
        assert!(std::time::Instant::now() < give_up, "{}: nothing happens", harness.describe());
    };
    loop {
        let (sent, received) = end.endpoint().wire_bytes();
        let done = end.outcome(11).is_some() || end.outcome(12).is_some();
        if done || (sent > 200_000 && received > 200_000) {
            break;
        }
        assert!(end.error.is_none(), "{:?}", end.error);
        step(&mut end);
    }
    kill();
    while end.error.is_none() {
        step(&mut end);
    }
    assert_left(&end, false);
    end.endpoint().abandon(1);
    source.take_back();
    target.take_back();
}

fn post_to_doomed(end: &mut End, source: &Buffer, target: &Buffer) {
    let signature = super::rig::PLAIN;
    // SAFETY: nobody writes to a filled buffer.
    let slice = unsafe { source.region.slice(0..DOOMED_BYTES) };
    let send = SendPost { token: 11, id: message(1), signature, slice };
    end.endpoint().post_send(send).expect("an empty queue has room");
    // SAFETY: the buffer is looked at only when the slice is back.
    let slice = unsafe { target.region.slice_mut(0..DOOMED_BYTES) };
    let receive = RecvPost { token: 12, id: message(2), signature, slice };
    end.endpoint().post_recv(receive).expect("an empty queue has room");
}

#[track_caller]
fn assert_left(end: &End, in_order: bool) {
    let error = end.error.as_ref();
    let right =
        matches!(error, Some(EndpointError::Closed { orderly, .. }) if *orderly == in_order);
    assert!(right, "expected Closed with orderly = {in_order}, got {error:?}");
}

/// Polling again gives the same error, posting gives the post back.
#[track_caller]
fn is_dead_for_good(rig: &mut Rig<'_>, side: usize) {
    let first = rig.ends[side].error.take().map(|error| error.to_string());
    rig.ends[side].poll();
    assert_eq!(first, rig.ends[side].error.as_ref().map(ToString::to_string));
    let buffer = Buffer::filled(0, 8);
    assert!(matches!(rig.try_send(side, message(50), &buffer), Err(Rejected::Dead(_))));
    assert!(matches!(rig.try_receive(side, message(51), &buffer), Err(Rejected::Dead(_))));
    assert!(!buffer.is_lent());
}

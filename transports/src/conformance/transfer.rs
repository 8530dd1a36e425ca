//! What is sent arrives, exactly.

use std::sync::Arc;

use super::rig::{Buffer, Rig, message};
use super::{Harness, up_to_the_largest};
use crate::sim::Random;
use crate::{EAGER_BYTES_MAX, MessageId, SendPost, Signature, TwoWay};

/// Around every boundary that a transport may have: nothing, a cache line, a page, the eager
/// limit, what may be outstanding, and large and odd.
const SIZES: [usize; 17] = [
    0,
    1,
    63,
    64,
    65,
    4095,
    4096,
    4097,
    (64 << 10) - 1,
    64 << 10,
    (64 << 10) + 1,
    (128 << 10) - 1,
    128 << 10,
    (128 << 10) + 1,
    1 << 20,
    (3 << 20) + 17,
    (16 << 20) - 3,
];

/// Every size, both ways, with the receive posted before and after the message comes.
pub fn exact_bytes_of_every_size(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    let mut tag = 0;
    for size in up_to_the_largest(harness, SIZES) {
        for side in [0, 1] {
            tag += 1;
            rig.exchange(side, message(tag), size);

            tag += 1;
            let source = Buffer::filled(tag, size);
            let mut target = Buffer::blank(size);
            let sent = rig.send(side, message(tag), &source);
            rig.until("the first frame", |rig| {
                rig.ends[1 - side].early.iter().any(|(id, _)| *id == message(tag))
            });
            let received = rig.receive(1 - side, message(tag), &target);
            rig.finish(1 - side, &[received]);
            rig.finish(side, &[sent]);
            target.check(tag);
            assert!(!source.is_lent(), "a send that ended holds its slice");
        }
    }
}

/// Fewer channels than there are, first on one side; then none but those.
pub fn channels_are_given_up(harness: &dyn Harness) {
    let size = (1 << 20).min(harness.message_bytes_max());
    let mut rig = Rig::new(harness);
    let mut tag = 0;
    let mut exchange = |rig: &mut Rig<'_>| {
        for side in [0, 1] {
            tag += 1;
            rig.exchange(side, message(tag), size);
        }
    };
    for used in [3, 2, 1] {
        for side in [0, 1] {
            rig.ends[side].endpoint().use_channels(used);
            exchange(&mut rig);
        }
    }
    for side in [0, 1] {
        rig.ends[side].endpoint().close_unused_channels();
        exchange(&mut rig);
    }
}

/// Sends and receives posted in unrelated orders, with some driving in between.
pub fn any_order_of_posts(harness: &dyn Harness) {
    const MESSAGES: u32 = 60;
    for seed in 0..3 {
        let mut rig = Rig::new(harness);
        let mut random = Random::new(seed, 0);
        let around: Vec<usize> = up_to_the_largest(harness, SIZES).take(14).collect();
        let size = |random: &mut Random| around[random.below(around.len())] + random.below(3);
        let sizes: Vec<usize> = (0..MESSAGES).map(|_| size(&mut random)).collect();
        let sources: Vec<Buffer> =
            (0..).zip(&sizes).map(|(tag, size)| Buffer::filled(tag, *size)).collect();
        let mut targets: Vec<Buffer> = sizes.iter().map(|size| Buffer::blank(*size)).collect();
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        let mut posts: Vec<(bool, u32)> =
            (0..MESSAGES).flat_map(|tag| [(true, tag), (false, tag)]).collect();
        while !posts.is_empty() {
            let (is_send, tag) = posts.swap_remove(random.below(posts.len()));
            if is_send {
                sent.push(rig.send(0, message(tag), &sources[tag as usize]));
            } else {
                received.push(rig.receive(1, message(tag), &targets[tag as usize]));
            }
            for _ in 0..random.below(4) {
                rig.round();
            }
        }
        rig.finish(1, &received);
        rig.finish(0, &sent);
        for (tag, target) in (0..).zip(&mut targets) {
            target.check(tag);
        }
    }
}

/// As many messages both ways as the queues take.
pub fn many_messages_in_flight(harness: &dyn Harness) {
    let bytes = 3000.min(harness.message_bytes_max() / 50);
    let mut rig = Rig::new(harness);
    let capabilities = harness.capabilities();
    let depth = capabilities.send_depth_max.min(capabilities.recv_depth_max);
    let depth = u32::try_from(depth.min(256)).expect("a depth of at most 256");
    let sources: Vec<Buffer> = (0..depth).map(|tag| Buffer::filled(tag, bytes)).collect();
    let mut targets: Vec<Vec<Buffer>> =
        (0..2).map(|_| (0..depth).map(|_| Buffer::blank(bytes)).collect()).collect();
    let mut tokens = [Vec::new(), Vec::new()];
    for side in [0, 1] {
        for tag in 0..depth {
            let target = &targets[side][tag as usize];
            tokens[side].push(rig.receive(side, message(tag), target));
            tokens[side].push(rig.send(side, message(tag), &sources[tag as usize]));
        }
    }
    rig.finish(0, &tokens[0]);
    rig.finish(1, &tokens[1]);
    for target in &mut targets {
        for (tag, target) in (0..).zip(target) {
            target.check(tag);
        }
    }
}

/// Operations back to back in one direction: nothing flows back that could carry credit.
pub fn one_way_stream(harness: &dyn Harness) {
    stream(harness, &[0]);
}

/// Operations back to back in both directions at once.
pub fn two_way_stream(harness: &dyn Harness) {
    stream(harness, &[0, 1]);
}

fn stream(harness: &dyn Harness, senders: &[usize]) {
    const WINDOW: usize = 4;
    let mut rig = Rig::new(harness);
    let sizes = [0, 8, 1000, 4096, 4097, 30_000, EAGER_BYTES_MAX, EAGER_BYTES_MAX + 1, 200_000];
    let sizes: Vec<usize> = up_to_the_largest(harness, sizes).collect();
    let mut under_way = Vec::new();
    for op in 0..200 {
        let size = sizes[op % sizes.len()];
        for side in senders.iter().copied() {
            let id = MessageId { communicator: 1, tag: 0, op_seq: op as u64 };
            let number = u32::try_from(op).expect("a small number");
            let source = Buffer::filled(number, size);
            let target = Buffer::blank(size);
            let received = rig.receive(1 - side, id, &target);
            let sent = rig.send(side, id, &source);
            under_way.push((side, number, source, sent, target, received));
        }
        if under_way.len() >= WINDOW * senders.len() {
            let (side, number, _source, sent, mut target, received) = under_way.remove(0);
            rig.finish(side, &[sent]);
            rig.finish(1 - side, &[received]);
            target.check(number);
        }
    }
    for (side, number, _source, sent, mut target, received) in under_way {
        rig.finish(side, &[sent]);
        rig.finish(1 - side, &[received]);
        target.check(number);
    }
}

/// A message without a receive is announced with its id and signature, and only then.
pub fn early_message_is_announced_once(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    let source = Buffer::filled(5, 1000);
    let mut target = Buffer::blank(1000);
    let signature = Signature(*b"what I am doing.");
    let token = rig.token();
    // SAFETY: nobody writes to a filled buffer.
    let slice = unsafe { source.region.slice(0..1000) };
    let post = SendPost { token, id: message(5), signature, slice };
    rig.ends[0].endpoint().post_send(post).expect("an empty queue has room");
    rig.until("the announcement", |rig| !rig.ends[1].early.is_empty());
    let received = rig.receive_as(1, message(5), signature, &target);
    rig.finish(1, &[received]);
    target.check(5);
    assert_eq!(rig.ends[1].early, [(message(5), signature)]);

    rig.exchange(0, message(6), 1000);
    assert_eq!(rig.ends[1].early.len(), 1, "a message with a receive is not early");
}

/// An endpoint with nothing to do says so, before and after it had something to do.
pub fn idle_endpoints_are_inactive(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    let inactive = |rig: &mut Rig<'_>| rig.ends.iter_mut().all(|end| !end.endpoint().is_active());
    rig.until("rest after connecting", inactive);
    let target = Buffer::blank(10);
    rig.receive(1, message(1), &target);
    assert!(rig.ends[1].endpoint().is_active(), "a posted receive needs polling");
    let source = Buffer::filled(1, 10);
    rig.send(0, message(1), &source);
    assert!(rig.ends[0].endpoint().is_active(), "a posted send needs polling");
    rig.until("rest after an exchange", inactive);
    assert!(!target.is_lent());
    assert_eq!(rig.ends[0].endpoint().peer(), 1);
    assert_eq!(rig.ends[1].endpoint().peer(), 0);
    assert!(!rig.ends[0].endpoint().peer_description().is_empty());
}

/// What one end counts as sent the other counts as received, and it is what the protocol says.
pub fn wire_bytes_are_counted(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    rig.settle();
    let before = [rig.ends[0].endpoint().wire_bytes(), rig.ends[1].endpoint().wire_bytes()];
    assert_eq!((before[0].0, before[1].0), (before[1].1, before[0].1));
    let sizes = [0, 1, 64, 4096, 4097, EAGER_BYTES_MAX];
    for (tag, size) in (0..).zip(sizes) {
        rig.exchange(0, message(tag), size);
        rig.exchange(1, message(tag), size);
    }
    rig.settle();
    let after = [rig.ends[0].endpoint().wire_bytes(), rig.ends[1].endpoint().wire_bytes()];
    assert_eq!((after[0].0, after[1].0), (after[1].1, after[0].1), "sent and received differ");
    if let Some(header) = harness.header_bytes() {
        let payload: usize = sizes.iter().sum();
        let expected = payload as u64 + header * sizes.len() as u64;
        // Credit goes back inside the frames of the other direction.
        assert_eq!(after[0].0 - before[0].0, expected);
        assert_eq!(after[1].0 - before[1].0, expected);
    }
}

/// Messages and their bytes are counted apart from headers, exactly, by both ends alike, whatever
/// pieces they are sent in; and the counts outlive the connection.
pub fn payload_is_counted_exactly(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    let sizes = [0, 1, 4097, EAGER_BYTES_MAX, EAGER_BYTES_MAX + 1, 5 << 20];
    let sizes: Vec<usize> = up_to_the_largest(harness, sizes).collect();
    for (tag, size) in (0..).zip(&sizes) {
        rig.exchange(0, message(tag), *size);
    }
    rig.exchange(1, message(100), 3);
    rig.settle();
    let counters = [0, 1].map(|side| Arc::clone(rig.ends[side].endpoint().counters()));
    let [ours, theirs] = [0, 1].map(|side| counters[side].total());
    let payload: usize = sizes.iter().sum();
    assert_eq!(ours.sent.payload_bytes, payload as u64);
    assert_eq!(ours.sent.messages, sizes.len() as u64);
    assert_eq!((ours.received.payload_bytes, ours.received.messages), (3, 1));
    assert_eq!((theirs.sent, theirs.received), (ours.received, ours.sent));
    assert!(ours.sent.wire_bytes > ours.sent.payload_bytes, "headers count too");
    assert_eq!([0, 1].map(|side| counters[side].peer()), [1, 0]);
    // The channels are what the total is made of.
    let mut sum = TwoWay::default();
    counters[0].channels().for_each(|channel| sum += channel);
    assert_eq!(sum, ours);
    drop(rig);
    assert_eq!(counters[0].total().received.payload_bytes, 3);
}

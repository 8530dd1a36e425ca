//! Queues, credit, and who waits for whom.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::rig::{Buffer, End, Rig, message};
use super::{Harness, up_to_the_largest};
use crate::{
    EAGER_BYTES_MAX, EAGER_BYTES_OUTSTANDING_MAX, Endpoint, MessageId, RecvPost, Rejected,
};

/// A post that does not fit comes back whole, and fits later.
pub fn full_queue_gives_post_back(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    let depth = harness.capabilities().send_depth_max;
    let source = Buffer::filled(0, 100);
    let target = Buffer::blank(100);
    let mut sent = Vec::new();
    let rejected = loop {
        let tag = u32::try_from(sent.len()).expect("a queue's depth");
        match rig.try_send(0, message(tag), &source) {
            Ok(token) => sent.push(token),
            Err(rejected) => break rejected,
        }
        assert!(sent.len() <= depth, "more sends than the capabilities say");
    };
    assert!(matches!(rejected, Rejected::QueueFull(_)), "{rejected:?}");
    let post = rejected.into_inner();
    assert_eq!((post.slice.len(), post.id.tag as usize), (100, sent.len()));
    let count = u32::try_from(sent.len()).expect("a queue's depth");

    let mut received = Vec::new();
    for tag in 0..=count {
        loop {
            // One target for all: only counts matter here.
            match rig.try_receive(1, message(tag), &target) {
                Ok(token) => break received.push(token),
                Err(Rejected::QueueFull(_)) => assert!(rig.round() || !received.is_empty()),
                Err(dead) => panic!("{dead:?}"),
            }
        }
    }
    rig.finish(0, &sent);
    rig.ends[0].endpoint().post_send(post).expect("the queue has room again");
    rig.finish(1, &received);
    assert!(!source.is_lent() && !target.is_lent());
}

/// Sends that have ended make room in the queue, also behind one that waits for its receive.
pub fn ended_sends_leave_the_queue(harness: &dyn Harness) {
    let mut rig = Rig::new(harness);
    let depth = u32::try_from(harness.capabilities().send_depth_max).expect("a queue's depth");
    let long = Buffer::filled(7, 3 * EAGER_BYTES_MAX);
    let id = |communicator, tag| MessageId { communicator, tag, op_seq: 0 };
    let waiting = rig.send(0, id(2, 7), &long);
    for tag in 0..2 * depth {
        let (source, mut target) = (Buffer::filled(tag, 100), Buffer::blank(100));
        let received = rig.receive(1, id(1, tag), &target);
        let sent = match rig.try_send(0, id(1, tag), &source) {
            Ok(sent) => sent,
            Err(rejected) => panic!("{rejected:?}, though {tag} of {} sends have ended", tag + 1),
        };
        rig.finish(0, &[sent]);
        rig.finish(1, &[received]);
        target.check(tag);
    }
    assert!(rig.ends[0].outcome(waiting).is_none(), "nobody receives it");
    let mut target = Buffer::blank(long.region.len());
    let received = rig.receive(1, id(2, 7), &target);
    rig.finish(1, &[received]);
    rig.finish(0, &[waiting]);
    target.check(7);
}

/// A receiver that posts nothing holds no more than the documented bytes; the sender waits without
/// an error; everything flows once the receives are posted.
pub fn eager_limit_holds_and_sender_waits(harness: &dyn Harness) {
    const COMMUNICATORS: u32 = 2;
    const MESSAGES: u32 = 40;
    let mut rig = Rig::new(harness);
    let before = rig.ends[1].endpoint().memory_bytes();
    let size_of = |tag: u32| [EAGER_BYTES_MAX, 10, 40_000, 3 * EAGER_BYTES_MAX][tag as usize % 4];
    let id = |communicator, tag| MessageId { communicator, tag, op_seq: 3 };
    let mut messages = Vec::new();
    for communicator in 0..COMMUNICATORS {
        for tag in 0..MESSAGES {
            let source = Buffer::filled(tag, size_of(tag));
            let sent = rig.send(0, id(communicator, tag), &source);
            messages.push((id(communicator, tag), source, sent));
        }
    }
    rig.until("early messages", |rig| rig.ends[1].early.len() >= 2);
    rig.settle();
    let held = rig.ends[1].endpoint().memory_bytes() - before;
    // Room for what early messages may need is made twice as large as what they do.
    let allowed = 2 * EAGER_BYTES_OUTSTANDING_MAX * COMMUNICATORS as usize;
    assert!(held <= allowed, "{held} bytes are held for a peer, {allowed} are allowed");
    assert!(rig.ends.iter().all(|end| end.error.is_none()), "a sender that waits is no error");
    assert!(rig.ends[0].endpoint().is_active());
    let waiting =
        messages.iter().filter(|(_, _, sent)| rig.ends[0].outcome(*sent).is_none()).count();
    let all = MESSAGES * COMMUNICATORS;
    assert!(waiting >= 20, "only {waiting} of {all} sends wait");

    let mut received = Vec::new();
    for (id, source, _) in &messages {
        let target = Buffer::blank(source.region.len());
        received.push((id.tag, rig.receive(1, *id, &target), target));
    }
    for (tag, token, mut target) in received {
        rig.finish(1, &[token]);
        target.check(tag);
    }
    let sent: Vec<u64> = messages.iter().map(|(_, _, sent)| *sent).collect();
    rig.finish(0, &sent);
}

/// Messages of no bytes cost credit too: a receiver that posts nothing is not flooded.
pub fn empty_messages_are_bounded_too(harness: &dyn Harness) {
    const MESSAGES: u32 = 6000;
    let mut rig = Rig::new(harness);
    let nothing = Buffer::filled(0, 0);
    let mut sent = Vec::new();
    let mut tag = 0;
    let mut quiet = 0;
    while quiet < 300 && tag < MESSAGES {
        match rig.try_send(0, message(tag), &nothing) {
            Ok(token) => {
                sent.push(token);
                tag += 1;
            }
            Err(_) => quiet = if rig.round() { 0 } else { quiet + 1 },
        }
    }
    assert!(tag < MESSAGES, "{MESSAGES} messages left without a receive");
    for tag in 0..tag {
        let received = rig.receive(1, message(tag), &nothing);
        rig.finish(1, &[received]);
    }
    rig.finish(0, &sent);
}

/// A receiver that wants a later message first gets it, although earlier ones hold the credit.
pub fn later_message_first_does_not_deadlock(harness: &dyn Harness) {
    let sizes = [200, 40_000, EAGER_BYTES_MAX, EAGER_BYTES_MAX + 1];
    for size in up_to_the_largest(harness, sizes) {
        let count = if size == 200 { 250 } else { 12 };
        // What was received before leaves credit that is not given back yet.
        for before in [0, 1, 50_000] {
            let mut rig = Rig::new(harness);
            rig.exchange(0, message(1000), before);
            let sources: Vec<Buffer> = (0..count).map(|tag| Buffer::filled(tag, size)).collect();
            let sent: Vec<u64> =
                (0..count).map(|tag| rig.send(0, message(tag), &sources[tag as usize])).collect();
            for tag in (0..count).rev() {
                let mut target = Buffer::blank(size);
                let received = rig.receive(1, message(tag), &target);
                rig.finish(1, &[received]);
                target.check(tag);
            }
            rig.finish(0, &sent);
        }
    }
}

/// Two communicators over one connection, one end finishing them in the one order, the other in
/// the other.
pub fn opposite_orders_of_two_communicators(harness: &dyn Harness) {
    for size in up_to_the_largest(harness, [100, EAGER_BYTES_MAX, 5 * EAGER_BYTES_MAX]) {
        let mut rig = Rig::new(harness);
        let id = |communicator, tag| MessageId { communicator, tag, op_seq: 9 };
        let source = Buffer::filled(0, size);
        let mut sent = [Vec::new(), Vec::new()];
        for side in [0, 1] {
            let order = if side == 0 { [1, 2] } else { [2, 1] };
            for communicator in order {
                for tag in 0..20 {
                    sent[side].push(rig.send(side, id(communicator, tag), &source));
                }
            }
        }
        // Side 0 sent communicator 1 first; side 1 wants communicator 2 to end first, and the
        // other way round.
        for (second, first) in [(1, 2), (2, 1)] {
            let side = if first == 2 { 1 } else { 0 };
            for communicator in [first, second] {
                for tag in 0..20 {
                    let mut target = Buffer::blank(size);
                    let received = rig.receive(side, id(communicator, tag), &target);
                    rig.finish(side, &[received]);
                    target.check(0);
                }
            }
        }
        rig.finish(0, &sent[0]);
        rig.finish(1, &sent[1]);
    }
}

/// A thread that sleeps on the wakeups of its endpoint wakes when a message comes.
pub fn parked_thread_is_woken(harness: &dyn Harness) {
    if !harness.capabilities().wakeup {
        return;
    }
    for size in [1, 4096, EAGER_BYTES_MAX, 30 * EAGER_BYTES_MAX] {
        let mut rig = Rig::new(harness);
        rig.settle();
        let mut sleeper = rig.ends[1].take_endpoint();
        let receiver = std::thread::Builder::new().name("sleeper".to_owned());
        let target = Buffer::blank(size);
        // SAFETY: the buffer is looked at only when the slice is back.
        let slice = unsafe { target.region.slice_mut(0..size) };
        let post = RecvPost { token: 1, id: message(1), signature: super::rig::PLAIN, slice };
        sleeper.post_recv(post).expect("an empty queue has room");
        let receiver = receiver.spawn(move || sleep_until_received(sleeper)).expect("a thread");
        // Long enough for the other to sleep in most runs; nothing depends on it.
        std::thread::sleep(Duration::from_millis(20));
        let source = Buffer::filled(1, size);
        let sent = rig.send(0, message(1), &source);
        rig.until("the sleeper's end", |_| receiver.is_finished());
        let sleeper = receiver.join().expect("the sleeper received its message");
        rig.finish(0, &[sent]);
        drop(sleeper);
        let mut target = target;
        target.check(1);
    }
}

/// Polls only when the wakeups say so.
fn sleep_until_received(endpoint: Box<dyn Endpoint>) -> Box<dyn Endpoint> {
    let mut end = End::new(endpoint);
    let give_up = Instant::now() + Duration::from_secs(60);
    while end.outcome(1).is_none() {
        assert!(end.error.is_none(), "{:?}", end.error);
        if end.poll() {
            continue;
        }
        let mut wakeups = Vec::new();
        end.endpoint().wakeups(&mut wakeups);
        assert!(!wakeups.is_empty(), "an endpoint that can wake has something to wait for");
        let interest = |writable| if writable { PollFlags::OUT } else { PollFlags::empty() };
        let mut fds: Vec<PollFd<'_>> = wakeups
            .iter()
            .map(|wakeup| {
                PollFd::from_borrowed_fd(wakeup.fd, PollFlags::IN | interest(wakeup.writable))
            })
            .collect();
        let timeout = Timespec { tv_sec: 30, tv_nsec: 0 };
        let woken = poll(&mut fds, Some(&timeout)).expect("poll takes these descriptors");
        assert!(woken > 0, "nothing woke the thread");
        assert!(Instant::now() < give_up, "woken again and again for nothing");
    }
    end.take_endpoint()
}

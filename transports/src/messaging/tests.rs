//! The message layer against a model, over streams that cut and reorder as a seed says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use paceline_rendezvous::{RunId, Secret};
use proptest::prelude::*;

use super::{DEPTH_MAX, HEADER_BYTES};
use crate::sim::{LinkProfile, SimConfig, SimNetwork};
use crate::{
    Checksum, EAGER_BYTES_MAX, EAGER_BYTES_OUTSTANDING_MAX, Endpoint, Event, Group, MessageId,
    Patience, RecvPost, Region, Rejected, SendPost, Signature, Transport,
};

/// Communicators that the actions use.
const COMMUNICATORS: u32 = 3;

/// Rounds after the last action within which everything must have ended: thousands of times what
/// the slowest profile needs.
const ROUNDS_MAX: usize = 2_000_000;

#[derive(Clone, Debug)]
enum Action {
    /// Side, communicator, size.
    Send(usize, u32, usize),
    /// The receiving side posts the receive of one of the messages that have none, early or not.
    Receive(usize, prop::sample::Index),
    /// The receiving side posts the receive of a message that is not sent yet.
    ReceiveAhead(usize, u32, usize),
    Poll(usize),
    Tick,
    Abandon(u32),
    /// Whether a side's short messages may wait for more of them.
    HoldBack(usize, bool),
}

#[derive(Debug)]
struct Message {
    from: usize,
    id: MessageId,
    source: Arc<Region>,
    target: Arc<Region>,
    send_posted: bool,
    receive_posted: bool,
    sent: bool,
    received: bool,
}

impl Message {
    fn is_abandoned(&self, abandoned: &[u32]) -> bool {
        abandoned.contains(&self.id.communicator)
    }
}

/// What must be true of two endpoints whatever the network does.
struct Model {
    network: SimNetwork,
    ends: [Box<dyn Endpoint>; 2],
    at_rest: [usize; 2],
    /// By the number that is tag and token.
    messages: BTreeMap<u32, Message>,
    next: u32,
    abandoned: Vec<u32>,
    dead: bool,
}

impl Model {
    fn new(seed: u64, streams_per_peer: u16, checksum: Checksum, profile: LinkProfile) -> Self {
        let network = SimNetwork::new(SimConfig { seed, world_size: 2, streams_per_peer, profile });
        let secret = Secret::from_bytes([1; 32]);
        let addresses = [0, 1].map(|rank| network.transport(rank).address());
        let run_id = RunId::from_bytes([2; 16]);
        let ends = [0, 1].map(|rank| {
            let group =
                Group { rank, run_id, epoch: 0, checksum, secret: &secret, addresses: &addresses };
            let ends = Box::new(network.transport(rank))
                .connect(&group, &Patience::until(Instant::now()))
                .unwrap();
            ends.into_iter().flatten().next().unwrap()
        });
        let at_rest = [ends[0].memory_bytes(), ends[1].memory_bytes()];
        let messages = BTreeMap::new();
        Self { network, ends, at_rest, messages, next: 0, abandoned: Vec::new(), dead: false }
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Send(side, communicator, size) => {
                if let Some(number) = self.announce(*side, *communicator, *size) {
                    self.post_send(number);
                }
            }
            Action::ReceiveAhead(side, communicator, size) => {
                if let Some(number) = self.announce(1 - *side, *communicator, *size) {
                    self.post_receive(number);
                }
            }
            Action::Receive(side, which) => {
                let open: Vec<u32> = self
                    .messages
                    .iter()
                    .filter(|(_, message)| message.from != *side && !message.receive_posted)
                    .filter(|(_, message)| !message.is_abandoned(&self.abandoned))
                    .map(|(number, _)| *number)
                    .collect();
                if !open.is_empty() {
                    self.post_receive(open[which.index(open.len())]);
                }
            }
            Action::Poll(side) => {
                self.poll(*side);
            }
            Action::Tick => self.network.tick(),
            Action::Abandon(communicator) => self.abandon(*communicator),
            Action::HoldBack(side, wanted) => {
                self.ends[*side].hold_back(*wanted);
            }
        }
    }

    /// A message that neither side has posted yet.
    fn announce(&mut self, from: usize, communicator: u32, size: usize) -> Option<u32> {
        if self.abandoned.contains(&communicator) || self.dead {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let source = Region::allocate(size).unwrap();
        // SAFETY: nobody else has the region yet.
        let mut slice = unsafe { source.slice_mut(0..size) };
        for (at, byte) in slice.bytes_mut(0..size).iter_mut().enumerate() {
            *byte = content(number, at);
        }
        drop(slice);
        let target = Region::allocate(size).unwrap();
        let id = MessageId { communicator, tag: number, op_seq: u64::from(number / 5) };
        self.messages.insert(
            number,
            Message {
                from,
                id,
                source,
                target,
                send_posted: false,
                receive_posted: false,
                sent: false,
                received: false,
            },
        );
        Some(number)
    }

    /// Sends of a side that have not ended.
    fn outstanding(&self, side: usize) -> usize {
        let sends = self.messages.values().filter(|message| message.from == side);
        sends
            .filter(|message| message.send_posted && !message.sent)
            .filter(|message| !message.is_abandoned(&self.abandoned))
            .count()
    }

    fn post_send(&mut self, number: u32) {
        let outstanding = self.outstanding(self.messages[&number].from);
        let message = self.messages.get_mut(&number).unwrap();
        // SAFETY: nobody writes to the source.
        let slice = unsafe { message.source.slice(0..message.source.len()) };
        let signature = Signature::default();
        let post = SendPost { token: number.into(), id: message.id, signature, slice };
        match self.ends[message.from].post_send(post) {
            Ok(()) => message.send_posted = true,
            Err(Rejected::QueueFull(_)) => assert!(outstanding >= DEPTH_MAX, "{outstanding} only"),
            Err(Rejected::Dead(_)) => assert!(!self.abandoned.is_empty()),
        }
    }

    fn post_receive(&mut self, number: u32) {
        let message = self.messages.get_mut(&number).unwrap();
        // SAFETY: nobody looks at the target before its slice is back.
        let slice = unsafe { message.target.slice_mut(0..message.target.len()) };
        let signature = Signature::default();
        let post = RecvPost { token: number.into(), id: message.id, signature, slice };
        match self.ends[1 - message.from].post_recv(post) {
            Ok(()) => message.receive_posted = true,
            Err(Rejected::QueueFull(_)) => {}
            Err(Rejected::Dead(_)) => assert!(!self.abandoned.is_empty()),
        }
    }

    fn poll(&mut self, side: usize) -> bool {
        let mut events = Vec::new();
        let moved = match self.ends[side].poll(&mut events) {
            Ok(moved) => moved,
            Err(error) => {
                // Only giving up a message half-way may kill a connection of honest peers.
                assert!(!self.abandoned.is_empty(), "{error}");
                self.dead = true;
                false
            }
        };
        for event in events {
            match event {
                Event::Sent { token } => {
                    let message = self.message(token, side, true);
                    assert!(!message.sent, "sent twice");
                    message.sent = true;
                    assert_eq!(Arc::strong_count(&message.source), 1, "a slice is still held");
                }
                Event::Received { token } => {
                    let message = self.message(token, side, false);
                    assert!(!message.received, "received twice");
                    message.received = true;
                    assert_eq!(Arc::strong_count(&message.target), 1, "a slice is still held");
                    check(u32::try_from(token).unwrap(), &message.target);
                }
                Event::Early { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let held = self.ends[side].memory_bytes().saturating_sub(self.at_rest[side]);
        // Spare buffers stay behind, and growing a vector may double it.
        let allowed =
            2 * EAGER_BYTES_OUTSTANDING_MAX * COMMUNICATORS as usize + 8 * EAGER_BYTES_MAX;
        assert!(held <= allowed, "{held} bytes held");
        moved
    }

    fn message(&mut self, token: u64, side: usize, sent: bool) -> &mut Message {
        let number = u32::try_from(token).unwrap();
        let message = self.messages.get_mut(&number).unwrap();
        assert_eq!(message.from == side, sent, "an event at the wrong end");
        assert!(!message.is_abandoned(&self.abandoned), "an event of what was given up");
        message
    }

    fn abandon(&mut self, communicator: u32) {
        self.abandoned.push(communicator);
        for end in &mut self.ends {
            end.abandon(communicator);
        }
        for message in self.messages.values() {
            if message.id.communicator == communicator {
                assert_eq!(Arc::strong_count(&message.source), 1, "abandoned, but held");
                assert_eq!(Arc::strong_count(&message.target), 1, "abandoned, but held");
            }
        }
    }

    /// Posts what is missing and drives to the end. Receives are posted from the newest message
    /// to the oldest, `window` at a time: the order that needs credit most.
    fn finish(&mut self, window: usize) {
        // As whoever waits for something must.
        self.ends.iter_mut().for_each(|end| {
            end.hold_back(false);
        });
        let numbers: Vec<u32> = self.messages.keys().copied().collect();
        for number in &numbers {
            self.until(|model| {
                if !model.messages[number].send_posted && !model.is_given_up(*number) {
                    model.post_send(*number);
                }
                model.messages[number].send_posted || model.is_given_up(*number)
            });
        }
        let reversed: Vec<u32> = numbers.iter().rev().copied().collect();
        for window in reversed.chunks(window) {
            self.until(|model| {
                for number in window {
                    if !model.messages[number].receive_posted && !model.is_given_up(*number) {
                        model.post_receive(*number);
                    }
                }
                let received = |number: &u32| model.messages[number].received;
                window.iter().all(|number| received(number) || model.is_given_up(*number))
            });
        }
        self.until(|model| {
            numbers.iter().all(|number| model.messages[number].sent || model.is_given_up(*number))
        });
    }

    fn is_given_up(&self, number: u32) -> bool {
        self.dead || self.messages[&number].is_abandoned(&self.abandoned)
    }

    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..ROUNDS_MAX {
            if done(self) {
                return;
            }
            if !(self.poll(0) | self.poll(1)) {
                self.network.tick();
            }
        }
        let open: Vec<_> =
            self.messages.values().filter(|message| !message.sent || !message.received).collect();
        panic!("hangs at tick {} with {open:?}", self.network.now());
    }
}

fn content(number: u32, at: usize) -> u8 {
    number.wrapping_mul(31).wrapping_add(u32::try_from(at % 251).unwrap()).to_le_bytes()[0]
}

fn check(number: u32, target: &Arc<Region>) {
    // SAFETY: the endpoint has given the slice back.
    let slice = unsafe { target.slice(0..target.len()) };
    let wrong = (0..).zip(slice.bytes(0)).find(|(at, byte)| **byte != content(number, *at));
    assert_eq!(wrong, None, "message {number} of {} bytes", target.len());
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0),
        1..200usize,
        4000..4200usize,
        20_000..EAGER_BYTES_MAX,
        Just(EAGER_BYTES_MAX),
        EAGER_BYTES_MAX + 1..3 * EAGER_BYTES_MAX,
    ]
}

fn actions(abandon: u32) -> impl Strategy<Value = Action> {
    let communicator = || 0..COMMUNICATORS;
    prop_oneof![
        6 => (0..2usize, communicator(), sizes()).prop_map(|(s, c, n)| Action::Send(s, c, n)),
        4 => (0..2usize, any::<prop::sample::Index>()).prop_map(|(s, i)| Action::Receive(s, i)),
        3 => (0..2usize, communicator(), sizes())
            .prop_map(|(s, c, n)| Action::ReceiveAhead(s, c, n)),
        8 => (0..2usize).prop_map(Action::Poll),
        2 => Just(Action::Tick),
        abandon => communicator().prop_map(Action::Abandon),
        2 => (0..2usize, any::<bool>()).prop_map(|(s, wanted)| Action::HoldBack(s, wanted)),
    ]
}

fn profiles() -> impl Strategy<Value = LinkProfile> {
    (0..20u64, 1..20_000u64, 1..20_000u64, 200..100_000usize, 0..300u16).prop_map(
        |(delay, write, read, capacity_bytes, busy_per_mille)| LinkProfile {
            delay_ticks: 0..=delay,
            write_bytes: 1..=write,
            read_bytes: 1..=read,
            capacity_bytes,
            bytes_per_tick: None,
            busy_per_mille,
        },
    )
}

#[test]
fn sends_that_have_ended_make_room_behind_one_that_waits() {
    let mut model = Model::new(1, 1, Checksum::None, LinkProfile::perfect());
    // Nobody receives this one for now.
    let blocked = model.announce(0, 0, 3 * EAGER_BYTES_MAX).unwrap();
    model.post_send(blocked);
    for _ in 0..3 * DEPTH_MAX {
        let number = model.announce(0, 1, 100).unwrap();
        model.post_receive(number);
        model.post_send(number);
        assert!(model.messages[&number].send_posted, "refused after {number} sends");
        model.until(|model| model.messages[&number].sent && model.messages[&number].received);
    }
    model.finish(1);
}

/// Sends short messages from side 0 to side 1, whose receives are posted.
fn send_short(model: &mut Model, count: usize) -> Vec<u32> {
    let numbers: Vec<u32> = (0..count).map(|_| model.announce(0, 0, 100).unwrap()).collect();
    for number in &numbers {
        model.post_receive(*number);
        model.post_send(*number);
        model.poll(0);
        assert!(model.messages[number].sent, "what is held back has been sent for its sender");
    }
    for _ in 0..1000 {
        model.network.tick();
        model.poll(1);
    }
    numbers
}

fn received(model: &Model, numbers: &[u32]) -> usize {
    numbers.iter().filter(|number| model.messages[number].received).count()
}

#[test]
fn messages_that_are_held_back_go_when_that_ends() {
    let mut model = Model::new(1, 1, Checksum::None, LinkProfile::perfect());
    assert!(model.ends[0].hold_back(true));
    assert!(!model.ends[0].holds_any_back());
    let numbers = send_short(&mut model, 3);
    assert_eq!(received(&model, &numbers), 0);
    assert!(model.ends[0].holds_any_back());
    model.ends[0].hold_back(false);
    model.until(|model| received(model, &numbers) == numbers.len());
}

#[test]
fn messages_that_are_held_back_go_when_there_are_enough() {
    let mut model = Model::new(1, 1, Checksum::None, LinkProfile::perfect());
    model.ends[0].hold_back(true);
    let numbers: Vec<u32> = (0..450).map(|_| model.announce(0, 0, 100).unwrap()).collect();
    for number in &numbers {
        model.post_send(*number);
        model.poll(0);
        model.network.tick();
        model.poll(1);
    }
    let there = model.ends[1].wire_bytes().1;
    let all = numbers.len() as u64 * (HEADER_BYTES as u64 + 100);
    assert!(there > 0 && there < all, "{there} of {all} bytes");
    assert!(model.ends[0].holds_any_back());
    model.finish(20);
    assert_eq!(received(&model, &numbers), numbers.len());
}

#[test]
fn what_the_peer_does_not_take_counts_as_held_back_until_it_does() {
    let profile = LinkProfile { capacity_bytes: 500, ..LinkProfile::perfect() };
    let mut model = Model::new(1, 1, Checksum::None, profile);
    model.ends[0].hold_back(true);
    let numbers: Vec<u32> = (0..20).map(|_| model.announce(0, 0, 100).unwrap()).collect();
    for number in &numbers {
        model.post_receive(*number);
        model.post_send(*number);
        model.poll(0);
        assert!(model.messages[number].sent);
    }
    model.ends[0].hold_back(false);
    model.poll(0);
    assert!(model.ends[0].holds_any_back(), "the link takes three of them");
    model.until(|model| received(model, &numbers) == numbers.len());
    assert!(!model.ends[0].holds_any_back());
}

#[test]
fn many_communicators_are_as_good_as_few() {
    let mut model = Model::new(1, 1, Checksum::None, LinkProfile::perfect());
    for communicator in 0..1100 {
        for from in [0, 1] {
            let number = model.announce(from, communicator, 10).unwrap();
            model.post_receive(number);
            model.post_send(number);
            model.until(|model| model.messages[&number].received && model.messages[&number].sent);
        }
    }
    // Nobody waits for this one yet.
    let number = model.announce(0, 1200, 10).unwrap();
    model.post_send(number);
    model.until(|model| model.messages[&number].sent);
    model.finish(1);
}

#[test]
fn a_communicator_with_a_full_queue_leaves_room_for_others() {
    let mut model = Model::new(1, 1, Checksum::None, LinkProfile::perfect());
    // Nobody receives these, or sends those, for now.
    for (from, posts_send) in [(0, true), (1, false)] {
        for _ in 0..DEPTH_MAX {
            let number = model.announce(from, 0, 2 * EAGER_BYTES_MAX).unwrap();
            if posts_send { model.post_send(number) } else { model.post_receive(number) }
        }
    }
    for size in [100, 3 * EAGER_BYTES_MAX] {
        for from in [0, 1] {
            let number = model.announce(from, 1, size).unwrap();
            model.post_receive(number);
            model.post_send(number);
            model.until(|model| model.messages[&number].received && model.messages[&number].sent);
        }
    }
    model.finish(20);
}

#[test]
fn a_message_that_is_no_short_one_takes_along_what_was_held_back() {
    let mut model = Model::new(1, 1, Checksum::None, LinkProfile::perfect());
    model.ends[0].hold_back(true);
    let numbers = send_short(&mut model, 3);
    let long = model.announce(0, 0, 20_000).unwrap();
    model.post_receive(long);
    model.post_send(long);
    model.until(|model| received(model, &numbers) == 3 && model.messages[&long].received);
    assert!(!model.ends[0].holds_any_back());
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_is_lost_and_everything_ends(
        seed in any::<u64>(),
        streams in 1..5u16,
        checksum in prop::sample::select(&Checksum::ALL),
        profile in profiles(),
        actions in prop::collection::vec(actions(0), 1..120),
        window in 1..5usize,
    ) {
        let mut model = Model::new(seed, streams, checksum, profile);
        for action in &actions {
            model.apply(action);
        }
        model.finish(window);
        prop_assert!(!model.dead);
    }

    #[test]
    fn what_is_abandoned_is_released_and_the_rest_ends(
        seed in any::<u64>(),
        streams in 1..5u16,
        checksum in prop::sample::select(&Checksum::ALL),
        profile in profiles(),
        actions in prop::collection::vec(actions(1), 1..120),
    ) {
        let mut model = Model::new(seed, streams, checksum, profile);
        for action in &actions {
            model.apply(action);
        }
        model.finish(3);
    }
}

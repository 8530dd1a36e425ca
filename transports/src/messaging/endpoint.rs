use std::sync::Arc;

use super::stream::{FrameStream, Share, Until};
use super::{ByteStream, DEPTH_MAX, FrameKind, Inbox, Outbox, Receiving, StreamError, Terms};
use crate::{
    Capabilities, Checksum, ConnectionCounters, Endpoint, EndpointError, Event, MessageId,
    RecvPost, Rejected, SendPost, Signature, Wakeup,
};

/// Waits of 5 ms that an endpoint's drop spends at most on letting its peer know; only a peer that
/// does not read costs any.
const GOODBYE_WAITS_MAX: u32 = 20;

/// The same while messages are queued that were reported as sent.
const DELIVERY_WAITS_MAX: u32 = 400;

/// What endpoints over streams can do; `wakeup` says whether the streams have descriptors.
pub(crate) const fn stream_capabilities(wakeup: bool) -> Capabilities {
    Capabilities {
        message_bytes_max: u32::MAX as usize,
        send_depth_max: DEPTH_MAX,
        recv_depth_max: DEPTH_MAX,
        wakeup,
    }
}

/// The streams to one peer.
#[derive(Debug)]
pub(crate) struct StreamEndpoint<S: ByteStream> {
    peer: u32,
    address: String,
    streams: Vec<Stream<S>>,
    /// How many of them, the first ones, carry messages to the peer.
    used: usize,
    /// What one takes where it is the only one.
    alone: Share,
    /// Whether small messages may wait for more of them.
    holds_back: bool,
    /// Whose turn it is to take something to send.
    turn: usize,
    inbox: Inbox,
    outbox: Outbox,
    /// What ended when it was posted, with its communicator.
    pending_events: Vec<(u32, Event)>,
    dead: Option<EndpointError>,
    counters: Arc<ConnectionCounters>,
}

#[derive(Debug)]
struct Stream<S> {
    frames: FrameStream<S>,
    /// Whether the peer has closed it, and whether it said goodbye on it.
    ended: Option<bool>,
}

impl<S: ByteStream> StreamEndpoint<S> {
    /// An endpoint over `streams`, of which there is at least one.
    pub(crate) fn new(peer: u32, address: String, terms: Terms, streams: Vec<S>) -> Self {
        let counters = Arc::new(ConnectionCounters::new(peer, S::KIND, streams.len()));
        let used = streams.len();
        let with_frames = |(channel, stream)| {
            let frames = FrameStream::new(stream, terms, counters.channel(channel));
            Stream { frames, ended: None }
        };
        Self {
            peer,
            address,
            streams: streams.into_iter().enumerate().map(with_frames).collect(),
            used,
            alone: if terms.checksum == Checksum::None { Share::ALL } else { Share::IN_PIECES },
            holds_back: false,
            turn: 0,
            inbox: Inbox::new(),
            outbox: Outbox::new(terms.epoch),
            pending_events: Vec::with_capacity(DEPTH_MAX),
            dead: None,
            counters,
        }
    }

    fn move_bytes(&mut self, events: &mut Vec<Event>) -> Result<bool, StreamError> {
        let until = match Until::NothingIsPosted.is_reached(&self.outbox, &self.inbox) {
            true => Until::NothingIsThere,
            false => Until::NothingIsPosted,
        };
        let mut moved = self.send(events)?;
        if moved && self.outbox.len() == 0 && !self.inbox.has_posted() {
            // All is sent and nothing is expected: what may have come all the same is taken when
            // something is, or when there is nothing to send.
            return Ok(true);
        }
        let Self { streams, inbox, outbox, .. } = self;
        let mut ended = false;
        for stream in streams.iter_mut() {
            if stream.ended.is_none() && !until.is_reached(outbox, inbox) {
                match stream.frames.receive(outbox, inbox, until, events) {
                    Ok(received) => moved |= received,
                    Err(StreamError::Closed { orderly }) => stream.ended = Some(orderly),
                    Err(error) => return Err(error),
                }
            }
            ended |= stream.ended.is_some();
        }
        if ended {
            self.check_end(moved)?;
        }
        if self.return_credit() {
            // At once: this side may not poll again for long, and the peer waits for it.
            self.send(events)?;
        }
        Ok(moved)
    }

    /// Sends what the streams take, in turns, so that what limits one of them does not limit all.
    fn send(&mut self, events: &mut Vec<Event>) -> Result<bool, StreamError> {
        let Self { streams, inbox, outbox, .. } = self;
        if self.used == 1 {
            let Some(stream) = streams.first_mut() else { return Ok(false) };
            let share = self.alone.waiting(self.holds_back);
            return stream.frames.send(outbox, inbox, share, events);
        }
        let share = Share::ONE_OF_SEVERAL.waiting(self.holds_back);
        let (mut moved, mut idle) = (false, 0);
        while idle < self.used {
            let stream = &mut streams[self.turn % self.used];
            if stream.frames.send(outbox, inbox, share, events)? {
                (moved, idle) = (true, 0);
            } else {
                idle += 1;
            }
            self.turn = (self.turn + 1) % self.used;
        }
        Ok(moved)
    }

    /// Decides whether the peer is gone, now that at least one stream has ended. Whatever it sent
    /// on the others before is taken first.
    fn check_end(&self, moved: bool) -> Result<(), StreamError> {
        let orderly = self.streams.iter().all(|stream| stream.ended != Some(false));
        let open = self.streams.iter().any(|stream| stream.ended.is_none());
        let expect_more = open && (orderly || moved);
        if expect_more { Ok(()) } else { Err(StreamError::Closed { orderly }) }
    }

    /// Queues the credit and grants that are due. Returns whether there were any.
    fn return_credit(&mut self) -> bool {
        let mut any = false;
        while let Some(communicator) = self.inbox.credit_due() {
            let id = MessageId { communicator, tag: 0, op_seq: 0 };
            self.queue_control(FrameKind::Credit, id);
            any = true;
        }
        while let Some(id) = self.inbox.grant_due() {
            self.queue_control(FrameKind::Grant, id);
            any = true;
        }
        any
    }

    fn queue_control(&mut self, kind: FrameKind, id: MessageId) {
        let mut header = self.outbox.control(kind, id);
        header.credit = self.inbox.take_credit(id.communicator);
        // A stream that the peer has closed would never take it.
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.ended.is_none()) {
            stream.frames.queue_control(&header);
        }
    }

    fn dies(&mut self, error: StreamError) {
        let (peer, address) = (self.peer, self.address.clone());
        self.die(match error {
            StreamError::Closed { orderly } => EndpointError::Closed { peer, address, orderly },
            StreamError::Io(error) => {
                EndpointError::Io { peer, address, kind: error.kind(), message: error.to_string() }
            }
            StreamError::Protocol(what) => EndpointError::Protocol { peer, address, what },
            StreamError::Corrupted { part, computed, expected } => {
                EndpointError::Corrupted { peer, address, part, computed, expected }
            }
        });
    }

    /// Closes the streams, so that the peer learns of it too.
    fn die(&mut self, error: EndpointError) {
        self.dead = Some(error);
        self.streams.clear();
    }
}

impl<S: ByteStream> Endpoint for StreamEndpoint<S> {
    fn peer(&self) -> u32 {
        self.peer
    }

    fn peer_description(&self) -> String {
        format!("{} ({})", self.address, S::KIND)
    }

    fn post_send(&mut self, post: SendPost) -> Result<(), Rejected<SendPost>> {
        if self.dead.is_some() {
            return Err(Rejected::Dead(post));
        }
        if self.outbox.is_full_for(post.id.communicator) {
            return Err(Rejected::QueueFull(post));
        }
        self.outbox.post(post);
        Ok(())
    }

    fn post_recv(&mut self, post: RecvPost) -> Result<(), Rejected<RecvPost>> {
        // A peer that has left may have sent everything before it did.
        if self.dead.is_some() && !self.inbox.holds(post.id, post.slice.len()) {
            return Err(Rejected::Dead(post));
        }
        if self.inbox.is_full_for(post.id.communicator) {
            return Err(Rejected::QueueFull(post));
        }
        let id = post.id;
        match self.inbox.post(post) {
            Receiving::Waits { needs_grant: true } => self.queue_control(FrameKind::Grant, id),
            Receiving::Waits { needs_grant: false } => {}
            Receiving::Ended(event) => self.pending_events.push((id.communicator, event)),
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<bool, EndpointError> {
        let before = events.len();
        events.extend(self.pending_events.drain(..).map(|(_, event)| event));
        if self.dead.is_none() {
            match self.move_bytes(events) {
                Ok(moved) => return Ok(moved || events.len() > before),
                Err(error) => self.dies(error),
            }
        }
        // What ended before the connection did is reported first, the error by the next call.
        match &self.dead {
            Some(error) if events.len() == before => Err(error.clone()),
            _ => Ok(true),
        }
    }

    fn is_active(&self) -> bool {
        self.inbox.has_posted()
            || self.outbox.len() > 0
            || !self.pending_events.is_empty()
            || self.streams.iter().any(|stream| stream.frames.has_unsent())
    }

    fn stray(&self, communicator: u32, op_seq: u64) -> Option<(u64, Signature)> {
        self.inbox.stray(communicator, op_seq)
    }

    fn abandon(&mut self, communicator: u32) {
        let mut cut = false;
        for stream in &mut self.streams {
            cut |= stream.frames.abandon(communicator);
        }
        self.pending_events.retain(|(of, _)| *of != communicator);
        self.inbox.abandon(communicator);
        self.outbox.abandon(communicator);
        if cut {
            let (peer, address) = (self.peer, self.address.clone());
            self.die(EndpointError::Abandoned { peer, address });
        }
    }

    fn wakeups<'a>(&'a self, wakeups: &mut Vec<Wakeup<'a>>) {
        wakeups.extend(self.streams.iter().filter(|stream| stream.ended.is_none()).filter_map(
            |stream| {
                let fd = stream.frames.wait_on()?;
                let writable = !S::WAKES_FOR_ROOM && stream.frames.has_unsent();
                Some(Wakeup { fd, writable })
            },
        ));
    }

    fn wakeups_max(&self) -> usize {
        if S::WAKES { self.streams.len() } else { 0 }
    }

    fn hold_back(&mut self, wanted: bool) -> bool {
        self.holds_back = wanted && S::MAY_WAIT;
        self.holds_back
    }

    fn holds_any_back(&self) -> bool {
        S::MAY_WAIT && self.streams.iter().any(|stream| stream.frames.has_unsent())
    }

    fn use_channels(&mut self, count: usize) {
        self.used = count.clamp(1, self.streams.len().max(1));
    }

    fn close_unused_channels(&mut self) {
        let mut unused = self.streams.split_off(self.used.min(self.streams.len()));
        say_goodbye(&mut unused, &self.outbox);
    }

    fn counters(&self) -> &Arc<ConnectionCounters> {
        &self.counters
    }

    fn memory_bytes(&self) -> usize {
        let streams: usize = self.streams.iter().map(|stream| stream.frames.memory_bytes()).sum();
        let pending = self.pending_events.capacity() * size_of::<(u32, Event)>();
        streams + self.inbox.memory_bytes() + self.outbox.memory_bytes() + pending
    }
}

impl<S: ByteStream> Drop for StreamEndpoint<S> {
    fn drop(&mut self) {
        // It is said on every stream, because any of them may be the one whose end the peer sees first.
        say_goodbye(&mut self.streams, &self.outbox);
    }
}

/// The peer then knows that streams ended in good order rather than died.
fn say_goodbye<S: ByteStream>(streams: &mut [Stream<S>], outbox: &Outbox) {
    let nothing = MessageId { communicator: 0, tag: 0, op_seq: 0 };
    let goodbye = outbox.control(FrameKind::Goodbye, nothing);
    let owes = streams.iter().any(|stream| stream.frames.has_queued());
    let mut patience = if owes { DELIVERY_WAITS_MAX } else { GOODBYE_WAITS_MAX };
    for stream in streams.iter_mut().filter(|stream| stream.ended.is_none()) {
        stream.frames.say_goodbye(&goodbye, outbox, &mut patience);
    }
}

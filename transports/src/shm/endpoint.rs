use std::cell::Cell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::pipe::{LINE, Pipe};
use crate::messaging::{FrameHeader, FrameKind, HEADER_BYTES, Inbox, Outbox};
use crate::{
    Capabilities, Endpoint, EndpointError, Event, MessageId, RecvPost, Rejected, SendPost, Wakeup,
};

/// Sends and receives that may be posted at a time.
const DEPTH_MAX: usize = 256;

/// A frame is written only if at least this much of its payload fits, or all of it: shorter ones are
/// not worth their headers.
const FRAGMENT_BYTES_MIN: usize = 4 << 10;

/// Bytes that one call of `poll` takes before it lets others have a turn.
const RECEIVE_BYTES_TURN: usize = 512 << 10;

/// Calls of `poll` in vain after which the socket is looked at. Whoever sleeps learns of the peer's
/// end from the socket at once; this is for callers that never sleep.
const LOOK_INTERVAL: u32 = 1024;

/// What shared-memory endpoints can do.
pub(super) const CAPABILITIES: Capabilities = Capabilities {
    message_bytes_max: u32::MAX as usize,
    send_depth_max: DEPTH_MAX,
    recv_depth_max: DEPTH_MAX,
    wakeup: true,
};

/// Where the peers are.
const ADDRESS: &str = "this node";

/// What can go wrong between two ranks of a node.
enum PipeError {
    Closed { orderly: bool },
    Protocol(String),
}

/// Two pipes to one peer, and a socket: it carries a byte when the other side must be woken, and its
/// end is the end of the peer's process.
#[derive(Debug)]
pub(super) struct ShmEndpoint {
    peer: u32,
    epoch: u32,
    stream: UnixStream,
    out: Pipe,
    into: Pipe,
    inbox: Inbox,
    outbox: Outbox,
    /// Frames without payload, in the order in which they must go.
    control: Vec<FrameHeader>,
    pending_events: Vec<Event>,
    goodbye: bool,
    /// Whether the socket has ended.
    ended: bool,
    /// Whether the peer has been told that we sleep.
    asleep: Cell<bool>,
    polls_in_vain: u32,
    /// Room in the outgoing pipe when it was last found too small.
    room_before: usize,
    dead: Option<EndpointError>,
    bytes_sent: u64,
    bytes_received: u64,
}

impl ShmEndpoint {
    pub(super) fn new(peer: u32, epoch: u32, stream: UnixStream, out: Pipe, into: Pipe) -> Self {
        Self {
            peer,
            epoch,
            stream,
            out,
            into,
            inbox: Inbox::default(),
            outbox: Outbox::new(epoch),
            control: Vec::new(),
            pending_events: Vec::new(),
            goodbye: false,
            ended: false,
            asleep: Cell::new(false),
            polls_in_vain: 0,
            room_before: usize::MAX,
            dead: None,
            bytes_sent: 0,
            bytes_received: 0,
        }
    }

    fn fragment_bytes_max(&self) -> usize {
        self.out.capacity() / 4
    }

    fn move_bytes(&mut self, events: &mut Vec<Event>) -> Result<bool, PipeError> {
        if self.asleep.replace(false) {
            self.into.announce_awake();
            self.look_at_socket();
        }
        let mut moved = self.send(events)?;
        moved |= self.receive(events)?;
        while let Some(communicator) = self.inbox.credit_due() {
            let id = MessageId { communicator, tag: 0, op_seq: 0 };
            let mut header = self.outbox.control(FrameKind::Credit, id);
            header.credit = self.inbox.take_credit(communicator);
            self.control.push(header);
        }
        // At once: this side may not poll again for long, and the peer waits for it.
        moved |= self.send(events)?;
        if moved {
            self.polls_in_vain = 0;
            self.wake_peer();
            return Ok(true);
        }
        self.polls_in_vain += 1;
        if self.polls_in_vain >= LOOK_INTERVAL {
            self.polls_in_vain = 0;
            self.look_at_socket();
        }
        // What the peer wrote before its end has been taken by now, unless it came this instant.
        if (self.goodbye || self.ended) && self.is_drained() {
            return Err(PipeError::Closed { orderly: self.goodbye });
        }
        Ok(false)
    }

    fn is_drained(&self) -> bool {
        self.into.filled().is_none_or(|(_, filled)| filled == 0)
    }

    /// Writes frames as long as there are some and the pipe has room.
    fn send(&mut self, events: &mut Vec<Event>) -> Result<bool, PipeError> {
        if self.control.is_empty() && self.outbox.len() == 0 {
            return Ok(false);
        }
        let broken = || PipeError::Protocol("impossible position in a pipe".to_owned());
        let (start, room) = self.out.room().ok_or_else(broken)?;
        let (mut position, end) = (start, start + room as u64);
        let mut queued = 0;
        while queued < self.control.len() && position + LINE as u64 <= end {
            self.out.put(position, &self.control[queued].encode());
            position += LINE as u64;
            queued += 1;
        }
        self.control.drain(..queued);
        while self.control.is_empty() {
            let room = usize::try_from(end - position).unwrap_or(0);
            if room < HEADER_BYTES + FRAGMENT_BYTES_MIN.min(self.fragment_bytes_max()) {
                break;
            }
            let payload_max = (room - HEADER_BYTES).min(self.fragment_bytes_max());
            let Some(mut frame) = self.outbox.next_frame(payload_max) else { break };
            frame.header.credit = self.inbox.take_credit(frame.header.id.communicator);
            self.out.put(position, &frame.header.encode());
            position += HEADER_BYTES as u64;
            let payload = self.outbox.payload(&frame, 0);
            self.out.put(position, payload);
            position += payload.len().next_multiple_of(LINE) as u64;
            self.outbox.written(&frame, events);
            // Frame by frame, so that the peer reads one while we write the next.
            self.out.publish_written(position);
        }
        self.room_before = usize::try_from(end - position).unwrap_or(0);
        self.out.publish_written(position);
        self.bytes_sent += position - start;
        Ok(position > start)
    }

    /// Takes frames as long as there are some, up to one turn's worth.
    fn receive(&mut self, events: &mut Vec<Event>) -> Result<bool, PipeError> {
        let mut taken = 0;
        while taken < RECEIVE_BYTES_TURN {
            let (position, filled) = self
                .into
                .filled()
                .ok_or_else(|| PipeError::Protocol("impossible position in a pipe".to_owned()))?;
            if filled == 0 {
                break;
            }
            let bytes = self.take_frame(position, filled, events).map_err(PipeError::Protocol)?;
            self.into.publish_read(position + bytes as u64);
            self.bytes_received += bytes as u64;
            taken += bytes;
        }
        Ok(taken > 0)
    }

    /// Takes the frame at `position`; returns its bytes in the pipe.
    fn take_frame(
        &mut self,
        position: u64,
        filled: usize,
        events: &mut Vec<Event>,
    ) -> Result<usize, String> {
        let mut header = [0; HEADER_BYTES];
        self.into.take(position, &mut header);
        let header = FrameHeader::decode(&header, self.epoch).map_err(|error| error.to_string())?;
        let length = if header.kind == FrameKind::Data { header.length as usize } else { 0 };
        let bytes = HEADER_BYTES + length.next_multiple_of(LINE);
        if bytes > filled {
            return Err(format!("a frame of {bytes} bytes where {filled} were written"));
        }
        if header.credit > 0 {
            self.outbox.credited(header.id.communicator, header.credit)?;
        }
        match header.kind {
            FrameKind::Data => {
                let landing = self.inbox.begin(&header, events)?;
                if let Some(target) = self.inbox.target(landing, 0, length) {
                    self.into.take(position + HEADER_BYTES as u64, target);
                }
                self.inbox.finish(landing, &header, events);
            }
            FrameKind::Grant => self.outbox.granted(header.id)?,
            FrameKind::Credit => {}
            FrameKind::Goodbye => self.goodbye = true,
        }
        Ok(bytes)
    }

    fn wake_peer(&self) {
        if self.out.must_wake_reader() {
            // If the socket is full the peer has been woken often enough; if it is closed we learn
            // of it when we look at it.
            let _ = send(&self.stream, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Empties the socket of what woke us, and notices its end.
    fn look_at_socket(&mut self) {
        let mut bells = [0; 64];
        loop {
            match recv(&self.stream, &mut bells[..], RecvFlags::DONTWAIT) {
                Ok((count, _)) if count == bells.len() => {}
                Ok((0, _)) => {
                    self.ended = true;
                    return;
                }
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn has_outstanding(&self) -> bool {
        self.inbox.has_posted() || self.outbox.len() > 0
    }

    fn dies(&mut self, error: PipeError) -> EndpointError {
        let (peer, address) = (self.peer, ADDRESS.to_owned());
        let error = match error {
            PipeError::Closed { orderly } => EndpointError::Closed { peer, address, orderly },
            PipeError::Protocol(what) => EndpointError::Protocol { peer, address, what },
        };
        self.dead = Some(error.clone());
        error
    }
}

impl Endpoint for ShmEndpoint {
    fn peer(&self) -> u32 {
        self.peer
    }

    fn peer_description(&self) -> String {
        format!("{ADDRESS} (shm)")
    }

    fn post_send(&mut self, post: SendPost) -> Result<(), Rejected<SendPost>> {
        if self.dead.is_some() {
            return Err(Rejected::Dead(post));
        }
        if self.outbox.len() >= DEPTH_MAX {
            return Err(Rejected::QueueFull(post));
        }
        self.outbox.post(post);
        Ok(())
    }

    fn post_recv(&mut self, post: RecvPost) -> Result<(), Rejected<RecvPost>> {
        if self.dead.is_some() {
            return Err(Rejected::Dead(post));
        }
        if self.inbox.posted_count() >= DEPTH_MAX {
            return Err(Rejected::QueueFull(post));
        }
        let id = post.id;
        if self.inbox.post(post, &mut self.pending_events) {
            let mut header = self.outbox.control(FrameKind::Grant, id);
            header.credit = self.inbox.take_credit(id.communicator);
            self.control.push(header);
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<bool, EndpointError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let early = !self.pending_events.is_empty();
        events.append(&mut self.pending_events);
        match self.move_bytes(events) {
            Ok(moved) => Ok(moved || early),
            Err(error) => {
                let error = self.dies(error);
                // What was posted may all have ended before the peer left: then nobody is hurt,
                // and whoever posts next learns of it.
                if self.has_outstanding() { Err(error) } else { Ok(true) }
            }
        }
    }

    fn is_active(&self) -> bool {
        let unsent = self.dead.is_none() && !self.control.is_empty();
        self.has_outstanding() || !self.pending_events.is_empty() || unsent
    }

    fn abandon(&mut self, communicator: u32) {
        self.inbox.abandon(communicator);
        // Frames are written whole, so none can be cut.
        self.outbox.abandon(communicator);
    }

    fn wakeups<'a>(&'a self, wakeups: &mut Vec<Wakeup<'a>>) {
        if self.dead.is_some() {
            return;
        }
        self.into.announce_sleep();
        self.asleep.set(true);
        // Something may have come between the last poll and the announcement: then there must be no
        // sleep, and a socket with room for a byte is writable at once.
        let arrived = !self.is_drained();
        let unsent = !self.control.is_empty() || self.outbox.len() > 0;
        let room = self.out.room().is_none_or(|(_, room)| room > self.room_before);
        let writable = arrived || (unsent && room);
        wakeups.push(Wakeup { fd: self.stream.as_fd(), writable });
    }

    fn wire_bytes(&self) -> (u64, u64) {
        (self.bytes_sent, self.bytes_received)
    }

    fn memory_bytes(&self) -> usize {
        self.out.capacity() + self.inbox.memory_bytes()
    }
}

impl Drop for ShmEndpoint {
    fn drop(&mut self) {
        // The peer then knows that we ended in good order rather than died. If the pipe has no
        // room, the peer sees a plain end of the socket.
        if self.dead.is_none() {
            let id = MessageId { communicator: 0, tag: 0, op_seq: 0 };
            self.control.push(self.outbox.control(FrameKind::Goodbye, id));
            // Only the control frames matter now; an error means that the peer is gone as well.
            let _ = self.send(&mut Vec::new());
        }
    }
}

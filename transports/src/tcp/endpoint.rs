use std::net::TcpStream;
use std::os::fd::AsFd;

use super::socket::{Socket, StreamError};
use crate::messaging::{FrameKind, Inbox, Outbox};
use crate::{
    Capabilities, Endpoint, EndpointError, Event, MessageId, RecvPost, Rejected, SendPost, Wakeup,
};

/// Sends and receives that may be posted at a time.
const DEPTH_MAX: usize = 256;

/// Largest payload of one frame when several sockets share the work: small enough that a slow
/// socket holds up little, large enough that the header and the call are noise.
const FRAGMENT_BYTES_MAX: usize = 256 << 10;

/// What TCP endpoints can do.
pub(super) const CAPABILITIES: Capabilities = Capabilities {
    message_bytes_max: u32::MAX as usize,
    send_depth_max: DEPTH_MAX,
    recv_depth_max: DEPTH_MAX,
    wakeup: true,
};

/// The sockets to one peer.
#[derive(Debug)]
pub(super) struct TcpEndpoint {
    peer: u32,
    address: String,
    epoch: u32,
    sockets: Vec<Socket>,
    inbox: Inbox,
    outbox: Outbox,
    pending_events: Vec<Event>,
    dead: Option<EndpointError>,
}

impl TcpEndpoint {
    pub(super) fn new(peer: u32, address: String, epoch: u32, streams: Vec<TcpStream>) -> Self {
        Self {
            peer,
            address,
            epoch,
            sockets: streams.into_iter().map(Socket::new).collect(),
            inbox: Inbox::default(),
            outbox: Outbox::new(epoch),
            pending_events: Vec::new(),
            dead: None,
        }
    }

    fn move_bytes(&mut self, events: &mut Vec<Event>) -> Result<bool, StreamError> {
        let fragment_max =
            if self.sockets.len() > 1 { FRAGMENT_BYTES_MAX } else { u32::MAX as usize };
        let Self { sockets, inbox, outbox, .. } = self;
        let mut moved = false;
        for socket in sockets.iter_mut() {
            moved |= socket.send(outbox, inbox, fragment_max, events)?;
        }
        for socket in sockets.iter_mut() {
            moved |= socket.receive(outbox, inbox, self.epoch, events)?;
        }
        if self.return_credit() {
            // At once: this side may not poll again for long, and the peer waits for it.
            let Self { sockets, inbox, outbox, .. } = self;
            sockets[0].send(outbox, inbox, fragment_max, events)?;
        }
        Ok(moved)
    }

    fn has_outstanding(&self) -> bool {
        self.inbox.has_posted() || self.outbox.len() > 0
    }

    fn has_unsent(&self) -> bool {
        self.dead.is_none() && self.sockets.iter().any(Socket::has_unsent)
    }

    fn return_credit(&mut self) -> bool {
        let mut any = false;
        while let Some(communicator) = self.inbox.credit_due() {
            let id = MessageId { communicator, tag: 0, op_seq: 0 };
            let mut header = self.outbox.control(FrameKind::Credit, id);
            header.credit = self.inbox.take_credit(communicator);
            self.sockets[0].queue_control(&header);
            any = true;
        }
        any
    }

    fn dies(&mut self, error: StreamError) -> EndpointError {
        let (peer, address) = (self.peer, self.address.clone());
        let error = match error {
            StreamError::Closed { orderly } => EndpointError::Closed { peer, address, orderly },
            StreamError::Io(error) => {
                EndpointError::Io { peer, address, kind: error.kind(), message: error.to_string() }
            }
            StreamError::Protocol(what) => EndpointError::Protocol { peer, address, what },
        };
        self.dead = Some(error.clone());
        error
    }
}

impl Endpoint for TcpEndpoint {
    fn peer(&self) -> u32 {
        self.peer
    }

    fn peer_description(&self) -> String {
        format!("{} (tcp)", self.address)
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
            self.sockets[0].queue_control(&header);
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
        self.has_outstanding() || !self.pending_events.is_empty() || self.has_unsent()
    }

    fn abandon(&mut self, communicator: u32) {
        let cut = self.sockets.iter().any(Socket::is_mid_frame);
        self.inbox.abandon(communicator);
        if self.outbox.abandon(communicator) && cut && self.dead.is_none() {
            let (peer, address) = (self.peer, self.address.clone());
            self.dead = Some(EndpointError::Abandoned { peer, address });
        }
        if self.dead.is_some() {
            self.sockets.clear();
        }
    }

    fn wakeups<'a>(&'a self, wakeups: &mut Vec<Wakeup<'a>>) {
        wakeups.extend(
            self.sockets
                .iter()
                .map(|socket| Wakeup { fd: socket.stream.as_fd(), writable: socket.has_unsent() }),
        );
    }

    fn wire_bytes(&self) -> (u64, u64) {
        let sum = |(sent, received), socket: &Socket| {
            (sent + socket.bytes_sent, received + socket.bytes_received)
        };
        self.sockets.iter().fold((0, 0), sum)
    }

    fn memory_bytes(&self) -> usize {
        let sockets: usize = self.sockets.iter().map(Socket::memory_bytes).sum();
        sockets + self.inbox.memory_bytes()
    }
}

impl Drop for TcpEndpoint {
    fn drop(&mut self) {
        // The peer then knows that we ended in good order rather than died. If the socket does not
        // take it, or a frame is half-written, the peer sees a plain close.
        if self.dead.is_none()
            && let Some(socket) = self.sockets.first_mut()
        {
            let id = MessageId { communicator: 0, tag: 0, op_seq: 0 };
            socket.queue_control(&self.outbox.control(FrameKind::Goodbye, id));
            let _ =
                socket.send(&mut self.outbox, &mut self.inbox, FRAGMENT_BYTES_MAX, &mut Vec::new());
        }
    }
}

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::{
    BufSlice, BufSliceMut, ConnectionCounters, EndpointError, MessageId, OpError, Signature,
};

/// A message to send.
#[derive(Debug)]
pub struct SendPost {
    /// Chosen by the caller; comes back in the [`Event`].
    pub token: u64,
    /// Which message this is.
    pub id: MessageId,
    /// What the operation is; must equal the receiver's.
    pub signature: Signature,
    /// The bytes. May be empty.
    pub slice: BufSlice,
}

/// A message to receive. Its length must equal the sender's.
#[derive(Debug)]
pub struct RecvPost {
    /// Chosen by the caller; comes back in the [`Event`].
    pub token: u64,
    /// Which message this is.
    pub id: MessageId,
    /// What the operation is; must equal the sender's.
    pub signature: Signature,
    /// Where the bytes go. May be empty.
    pub slice: BufSliceMut,
}

/// What was posted comes back, because it cannot be taken now.
#[derive(Debug, thiserror::Error)]
pub enum Rejected<P> {
    /// The queue is full; poll, then post again.
    #[error("the endpoint's queue is full")]
    QueueFull(P),
    /// The connection is gone; `poll` says why.
    #[error("the connection is dead")]
    Dead(P),
}

impl<P> Rejected<P> {
    /// What was posted.
    pub fn into_inner(self) -> P {
        match self {
            Self::QueueFull(post) | Self::Dead(post) => post,
        }
    }
}

/// What [`Endpoint::poll`] reports.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The bytes of a send are no longer needed: the slice may be reused. It does not mean that
    /// the peer has them.
    Sent {
        /// The token of the [`SendPost`].
        token: u64,
    },
    /// Every byte of a receive has landed.
    Received {
        /// The token of the [`RecvPost`].
        token: u64,
    },
    /// One posted operation failed; the connection goes on.
    Failed {
        /// The token of the post.
        token: u64,
        /// Why.
        error: OpError,
    },
    /// A message arrived that no receive is posted for. It is kept (within the eager limit) until
    /// one is. Reported for the first frame of a message, so that a caller whose current
    /// operation has another signature can say so instead of waiting.
    Early {
        /// Which message.
        id: MessageId,
        /// What its sender thinks the operation is.
        signature: Signature,
    },
}

/// What to sleep on when nothing moves: readable is always of interest, writable if said so.
#[derive(Debug, Clone, Copy)]
pub struct Wakeup<'a> {
    /// The descriptor to wait for.
    pub fd: BorrowedFd<'a>,
    /// Whether bytes wait to be written.
    pub writable: bool,
}

/// One live connection to one peer: a pair of ordered message queues.
///
/// `post_*` only queue, `poll` moves bytes; neither blocks. Messages of one communicator are
/// delivered in the order of their posts, but matched by [`MessageId`], so receives may be posted
/// in any order.
pub trait Endpoint: Send + std::fmt::Debug {
    /// The rank at the other end.
    fn peer(&self) -> u32;

    /// Where the peer is, for messages to people, e.g. `10.0.0.7:41022 (tcp)`.
    fn peer_description(&self) -> String;

    /// Queues a message.
    ///
    /// # Errors
    /// [`Rejected`] gives the post back when the queue is full or the connection is dead.
    fn post_send(&mut self, post: SendPost) -> Result<(), Rejected<SendPost>>;

    /// Queues a receive, and lets the peer know where it needs to.
    ///
    /// # Errors
    /// [`Rejected`] gives the post back when the queue is full or the connection is dead.
    fn post_recv(&mut self, post: RecvPost) -> Result<(), Rejected<RecvPost>>;

    /// Moves bytes both ways and appends what ended to `events`. Returns whether anything moved.
    ///
    /// # Errors
    /// [`EndpointError`] when the connection is dead; the error is the same at every later call.
    /// A call that fails appends nothing: what ended before the connection did was reported by an
    /// earlier call, and everything still posted stays held until it is abandoned.
    fn poll(&mut self, events: &mut Vec<Event>) -> Result<bool, EndpointError>;

    /// Whether `poll` has anything to do: something posted, queued or owed to the peer.
    fn is_active(&self) -> bool;

    /// Gives up everything posted for a communicator and forgets its early messages. Afterwards no
    /// slice of it is held, no event of its posts is reported, and its number must not be used
    /// again on this endpoint. If a frame was half-sent the connection dies, because the peer could
    /// not make sense of what follows.
    fn abandon(&mut self, communicator: u32);

    /// An early message of a communicator, of an operation before `op_seq`, that no receive was ever
    /// posted for: its number and what its sender thought the operation was.
    fn stray(&self, communicator: u32, op_seq: u64) -> Option<(u64, Signature)>;

    /// What to wait for when `poll` moved nothing; appends nothing if the transport cannot wake.
    fn wakeups<'a>(&'a self, wakeups: &mut Vec<Wakeup<'a>>);

    /// How many wake-ups there are at most; none if the transport cannot wake, so that somebody has
    /// to look again before long.
    fn wakeups_max(&self) -> usize;

    /// From now on short messages may wait for more of them, or not any more. What waits has been reported
    /// as sent; it goes when there is enough of it, and with [`Endpoint::poll`] after this was taken back, as
    /// soon as the peer takes it. Returns whether the endpoint does so; most do not.
    fn hold_back(&mut self, _wanted: bool) -> bool {
        false
    }

    /// Whether there is something to send that may have been reported as sent, be it because messages wait
    /// for more of them or because the peer has not taken them yet: somebody has to poll until there is not.
    fn holds_any_back(&self) -> bool {
        false
    }

    /// Sends what follows on the first `count` channels alone, at least one: which of its own bytes take
    /// which way is nobody else's business. Without effect where there are no more.
    fn use_channels(&mut self, _count: usize) {}

    /// Closes the channels that are [not used](Endpoint::use_channels). The peer must have stopped using
    /// them, and all that it sent on them must have arrived.
    fn close_unused_channels(&mut self) {}

    /// What has crossed the connection so far. The counts may be kept, and read while another thread
    /// uses the endpoint.
    fn counters(&self) -> &Arc<ConnectionCounters>;

    /// Bytes put on the wire and taken from it so far, headers included.
    fn wire_bytes(&self) -> (u64, u64) {
        let total = self.counters().total();
        (total.sent.wire_bytes, total.received.wire_bytes)
    }

    /// Bytes of memory that the endpoint holds: queues, staging, early messages, and the part of
    /// shared memory that it writes to. What the kernel holds comes on top.
    fn memory_bytes(&self) -> usize;
}

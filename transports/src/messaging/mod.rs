//! The message layer that stream-like transports share: frame headers, matching, credits, grants.
//!
//! Sans I/O: [`Inbox`] says where the payload of an incoming frame goes, [`Outbox`] says which
//! frame goes out next, and [`StreamEndpoint`] drives both over any [`ByteStream`]s, which is all
//! that a transport has to bring. Sender and receiver keep one account per communicator:
//!
//! * up to [`EAGER_BYTES_OUTSTANDING_MAX`] bytes may be under way that no receive was posted for;
//!   such frames are [`FrameKind::Eager`] and their cost ([`eager_cost`]) is the sender's debt;
//! * the receiver gives the credit back when the bytes have landed in a posted receive: inside the
//!   header of any frame that it sends anyway, or in a frame of its own before the sender runs dry
//!   ([`Inbox::credit_due`]);
//! * a message longer than [`EAGER_BYTES_MAX`] is granted when its receive is posted, and granted
//!   bytes cost nothing, since there is a place for them. So is a shorter one when early messages
//!   hold the whole credit, since it could not come otherwise ([`Inbox::grant_due`]).
//!
//! An abandoned communicator's number must not be used again on the same connection: the two ends
//! would disagree about its account.
//!
//! So nobody buffers more than the eager limit for a peer, whatever the peer does, and data for
//! one communicator can always be taken off a connection that another one shares.
//!
//! With a [`Checksum`], nothing that a header says is believed before the header has proved right, and
//! no payload counts as landed before it has: bytes that changed on the way end the connection.
//!
//! [`EAGER_BYTES_MAX`]: crate::EAGER_BYTES_MAX
//! [`EAGER_BYTES_OUTSTANDING_MAX`]: crate::EAGER_BYTES_OUTSTANDING_MAX

mod byte_stream;
mod early;
mod endpoint;
mod header;
#[cfg(any(test, feature = "testing"))]
mod hostile;
mod inbox;
mod outbox;
mod stream;

pub(crate) use endpoint::{StreamEndpoint, stream_capabilities};
#[cfg(any(test, feature = "testing"))]
pub use hostile::{feed, frames_to_change};

pub(crate) use byte_stream::{ByteStream, StreamError};
pub(crate) use header::{FrameHeader, FrameKind, HEADER_BYTES, HeaderError, LENGTH_MAX};
pub(crate) use inbox::{Inbox, Landing, Receiving};
pub(crate) use outbox::{OutFrame, Outbox};

use crate::{Checksum, Group};

#[cfg(test)]
mod corruption;
#[cfg(test)]
mod tests;

/// What the two ends of a connection have agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) epoch: u32,
    pub(crate) checksum: Checksum,
}

impl From<&Group<'_>> for Terms {
    fn from(group: &Group<'_>) -> Self {
        Self { epoch: group.epoch, checksum: group.checksum }
    }
}

/// Sends and receives that may be posted at a time on one connection.
pub(crate) const DEPTH_MAX: usize = 256;

/// Communicators whose accounts there is room for from the start.
pub(crate) const COMMUNICATORS: usize = 8;

/// The least that an eager frame costs: more than what is remembered of one, so that empty messages are
/// bounded too.
pub(crate) const EAGER_COST_MIN: usize = 256;

/// What an eager frame costs: its payload, but at least [`EAGER_COST_MIN`].
pub(crate) fn eager_cost(payload: usize) -> usize {
    payload.max(EAGER_COST_MIN)
}

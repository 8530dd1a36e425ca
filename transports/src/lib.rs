//! Ways to move bytes between ranks, behind one post/poll trait.
//!
//! A [`Transport`] turns a [`Group`] of ranks into one [`Endpoint`] per peer. An endpoint moves
//! *messages*: a send is matched with the receive of the same [`MessageId`] and length, the bytes
//! land in the posted slice, and [`Endpoint::poll`] reports both ends. Nothing here blocks after
//! the connections stand, nothing here reads a clock, and no thread runs behind the caller's back
//! (over MPI one does, to close connections).
//!
//! This crate knows peers, messages and memory. It deliberately does not know what the bytes mean:
//! element types, reductions and schedules live in `collectives`.
//!
//! # Thread safety
//! An endpoint is `Send` and used by one thread at a time (`&mut self`). A [`Region`] is shared by
//! reference counting; the unsafe slice constructors state who may touch its bytes when.
//!
//! # Resource cleanup
//! Dropping an endpoint closes its connections and releases every slice posted to it.

mod checksum;
mod copy;
mod counters;
mod endpoint;
mod error;
mod message;
mod messaging;
mod reception;
mod region;
mod transport;

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod shm;
pub mod sim;
pub mod tcp;

#[cfg(any(test, feature = "testing"))]
pub use messaging::{feed as feed_frames, frames_to_change as data_frames_to_change};

pub use checksum::Checksum;
pub use copy::{SharedWriter, Way, copy_bytes, copy_slice, stream_bytes, stream_fence};
pub use counters::{ConnectionCounters, Traffic, TwoWay};
pub use endpoint::{Endpoint, Event, RecvPost, Rejected, SendPost, Wakeup};
pub use error::{EndpointError, EstablishError, OpError, Weight};
pub use message::{EAGER_BYTES_MAX, EAGER_BYTES_OUTSTANDING_MAX, MessageId, Signature};
pub use region::{BufSlice, BufSliceMut, Region, RegionError};
pub use transport::{Capabilities, Group, Patience, Transport, TransportKind};

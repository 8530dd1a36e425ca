//! TCP sockets, driven by the caller: non-blocking sends and receives, no thread, no epoll on the
//! fast path.
//!
//! # Wire
//! After the handshake of [`paceline_rendezvous::hello`] a connection carries frames: a 64-byte
//! header (see `messaging::header`) and its payload. Several sockets may join two ranks; a frame
//! goes to whichever is writable and lands by its offset, so that one slow flow costs its own
//! share only. Which socket carried a frame never matters to the receiver.
//!
//! # System calls
//! One `sendmsg` takes queued control frames, header and payload together; one `recvmsg` reads the
//! rest of a payload straight into the posted slice and the next header behind it. A short read
//! means the socket is drained, so no call is spent on hearing "try again".

mod address;
mod interface;
mod listener;
mod socket;

pub use interface::check_interface;
pub use listener::{TcpConfig, TcpTransport};

#[cfg(test)]
mod tests;

//! Ranks of one node through memory that they share.
//!
//! Two things live here. The [`Arena`] is for collectives that work in shared memory directly, with
//! nobody sending anything (`paceline_collectives::node`). And [`ShmTransport`] gives every pair of
//! ranks two pipes, rings of bytes that carry the same frames as a TCP connection, so that every
//! schedule runs over shared memory too.
//!
//! All memory is sealed memfd, allocated at the start: it has no name, nothing is left behind
//! however processes end, and lack of memory is an error at the start and never a signal later. Its
//! descriptor travels over a unix socket in the abstract namespace after a mutual handshake: that
//! this succeeds, and nothing else, proves that two ranks are on one node.
//!
//! # System calls
//! None while bytes move, except a byte into a socket to wake a peer that sleeps.

mod arena;
mod exchange;
mod handoff;
mod listener;
mod memory;
mod pipe;
mod stream;

/// What [`handoff`] is made of; under loom it is made of loom's.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

#[cfg(test)]
mod tests;

pub use arena::{Arena, ArenaLayout, Counter};
#[cfg(any(test, feature = "testing"))]
pub use exchange::check_arena_handshake;
pub use listener::{Node, ShmTransport};
pub use memory::{MemoryError, SharedMemory};

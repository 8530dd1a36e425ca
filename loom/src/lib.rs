//! The hand-offs of shared memory and of the courier under loom, which tries every order in which threads can run and
//! every value that a load may see.
#![cfg(test)]

mod arena;
#[path = "../../collectives/src/courier/calls.rs"]
mod calls;
mod courier;
#[path = "../../transports/src/shm/handoff.rs"]
mod handoff;
mod pipe;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
    pub(super) use loom::thread::{Thread, park};
}

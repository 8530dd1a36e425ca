//! The hand-offs of shared memory under loom, which tries every order in which threads can run and
//! every value that a load may see.
#![cfg(test)]

mod arena;
#[path = "../../src/shm/handoff.rs"]
mod handoff;
mod pipe;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

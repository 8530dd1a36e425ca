//! Ranks of one node through memory that they share.

mod arena;
mod memory;

pub use arena::{Arena, ArenaLayout, Counter};
pub use memory::{MemoryError, SharedMemory};

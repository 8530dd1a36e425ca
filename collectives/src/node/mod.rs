//! Collectives of the ranks of one node, in memory that they share.
//!
//! Here nobody sends anything: members read each other's contributions where they lie. Results have
//! the bits of every other algorithm with the canonical order of reduction: chunk c is the left fold
//! x_{c+1} op x_{c+2} op … op x_c, made by member c or by everybody alike.
//!
//! A [`NodeGroup`] is driven like everything else: [`NodeGroup::start`], then [`NodeOp::step`] until
//! it is done, with the caller's idle policy in between and [`NodeOp::park`] for the last resort. The
//! group knows bytes and members; which ranks these are, deadlines and reports are the caller's.
//!
//! # Failures
//! Members' buffers are touched by their owner alone, so an operation that is given up leaves them
//! quiescent at once. The group itself is of no use after that.

mod chain;
mod copy;
mod error;
mod group;
mod one_shot;
mod plan;
#[cfg(test)]
mod process_tests;
mod request;
mod rounds;
#[cfg(test)]
mod tests;

pub use error::NodeError;
pub use group::{NodeGroup, NodeOp, Progress};
pub use plan::{Tuning, arena_layout};
pub use request::{Manner, NodeKind, NodeRequest};

//! Collective operations over pluggable transports.
//!
//! A process makes a [`Context`] (from the environment that `paceline run` sets up), takes a
//! [`Communicator`] from it and calls collectives on its own slices:
//!
//! ```
//! use paceline_collectives::{Context, ReduceOp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = Context::from_environment()?; // alone, unless a launcher says otherwise
//! let communicator = context.communicator()?;
//! let mut gradients = vec![1.0f32; 1000];
//! communicator.all_reduce(&mut gradients, ReduceOp::Avg)?;
//! # assert_eq!(gradients, [1.0; 1000]);
//! # Ok(())
//! # }
//! ```
//!
//! The layers, from the top: the typed calls of [`Communicator`], each of which becomes a [`RawCall`]
//! (the one unsafe entry, [`Communicator::run_raw`], is for bindings); the choice of an algorithm in
//! [`plan`]; the pure programs of [`schedule`]; the engine that carries a program out over
//! `paceline_transports` without ever blocking; the reduction [`kernels`].
//!
//! Beside the blocking calls there is the [`queue`]: operations in the background, submitted under
//! names, in any order, and fused.
//!
//! This crate knows nothing of processes, hosts or clocks beyond deadlines, and has no globals.
//!
//! # Determinism
//! The order of reduction depends on count, rank, world size and algorithm alone: results are
//! bit-identical on all ranks and from run to run. See [`schedule`] for the order.
//!
//! # Timeline
//! With [`ContextOptions::timeline`] all ranks append to one file what happens when: operations,
//! waiting, messages per peer and direction, reductions, and a queue's negotiation and submissions.
//! <https://ui.perfetto.dev> and `chrome://tracing` show it. Times of one host are exact to each other;
//! those of several hosts agree as their clocks do. Without it, it costs a branch per operation and
//! per message; with it, a look at the clock and a short lock per event, and some megabytes of memory.
//! What is recorded faster than it can be written is dropped, and the file says so.
//!
//! # Thread safety
//! [`Context`], [`Communicator`] and [`queue::Queue`] are `Send + Sync`.
//!
//! # Resource cleanup
//! Dropping the last communicator and context closes all connections.

mod adasum;
mod batch;
mod call;
mod communicator;
mod connect;
mod context;
mod counters;
mod courier;
mod drive;
mod engine;
mod error;
mod fusion;
mod job;
pub mod kernels;
mod levels;
mod members;
mod meter;
pub mod node;
pub mod plan;
mod program;
pub mod queue;
mod reduction;
pub mod schedule;
mod signature;
pub mod simulated;
mod timeline;
mod trouble;
mod tune;
mod waiting;

pub use adasum::Float;
pub use batch::Batch;
pub use call::RawCall;
pub use communicator::{Communicator, Compression};
#[cfg(feature = "testing")]
pub use connect::check_cards;
pub use context::{Context, ContextOptions, TransportChoice};
pub use counters::{Counters, OperationCounters, OperationInProgress, PeerCounters};
pub use error::{CollectiveError, OperationName, SetupError};
pub use job::Job;
pub use kernels::UserOp;
pub use paceline_devices::{Bool, Buffer, DType, Element, Memory, ReduceOp, bf16, f16};
pub use paceline_transports::{Checksum, Traffic, TransportKind, TwoWay};
#[cfg(feature = "testing")]
pub use queue::{announcements_to_change, check_announcement};
pub use reduction::{Reduction, Scale};
pub use signature::{Collective, OperationKind};
pub use tune::{Origin, PlanFault, Tune};

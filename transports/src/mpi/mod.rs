//! MPI point-to-point messages, inside a world that `mpirun` (or another launcher of MPI) started.
//! Feature `mpi`.
//!
//! # What carries what
//! Each pair of ranks exchanges a stream of bytes, and what runs over it are the frames, credits
//! and grants that run over TCP. A piece of the stream is one MPI message of at most
//! [`PIECE_BYTES`](stream::PIECE_BYTES), sent from memory of ours and received into memory of
//! ours. MPI never sees a buffer of the caller's: a send that MPI has begun cannot be taken back, and
//! buffers must be quiescent when an operation has failed. That costs one copy at each end.
//!
//! # Who may take part
//! MPI decides who is in the world and connects its processes, by its own means and with its own
//! protection, if any: there is no handshake of ours and no message authentication on these
//! connections. That the ranks of a group are the processes of one MPI world is checked by a number
//! that MPI's rank 0 draws. The control plane (store, coordinator) is ours and authenticated as ever.
//!
//! # Ends
//! A stream that is closed says so with an empty message, which is its last. Until the other end has
//! done so too, MPI still works on it; a thread that sleeps otherwise sees to that. A process that
//! dies without a word is a matter of MPI's launcher, which ends the job.
//!
//! # Threads
//! MPI is started with `MPI_THREAD_SERIALIZED`, or was started by the program with
//! `MPI_THREAD_MULTIPLE`; every call of ours is made under one lock. There is nothing to sleep on:
//! [`Capabilities::wakeup`](crate::Capabilities::wakeup) is false, and MPI moves bytes only while
//! somebody polls. So a send is reported as done when MPI needs this process no more for it.

mod address;
mod calls;
mod closing;
mod listener;
mod stream;
mod world;

pub use calls::{Calls, MpiError};
pub use listener::{MpiConfig, MpiTransport};
pub use world::World;

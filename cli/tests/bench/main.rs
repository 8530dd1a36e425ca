//! `paceline bench` with real processes: what it prints, what it records, what it refuses.

mod failing;
mod joining;
#[cfg(feature = "mpi")]
mod mpi;
mod output;
mod peer;
mod record;
mod support;
mod usage;

//! Collective operations over pluggable transports.

pub mod schedule;

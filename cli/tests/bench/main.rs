//! `paceline bench` with real processes: what it prints, what it records, what it refuses.

mod joining;
mod output;
mod record;
mod support;
mod usage;

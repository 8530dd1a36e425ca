//! `paceline run` with real processes and real signals.
//!
//! Every job carries a mark in its environment; when a test ends, no process with that mark may be
//! left on the machine, whatever the test did to the job.

mod cleanup;
mod cluster;
mod collectives;
mod command_line;
mod coordination;
mod environment;
mod events;
mod failures;
mod hosts;
mod input;
mod killed;
mod memory;
mod observing;
mod one_sided;
mod output;
mod programs;
mod renewal;
mod settings;
mod shares;
mod signals;
mod stacks;
mod status;
mod support;

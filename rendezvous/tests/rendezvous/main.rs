//! The crate from outside: real sockets, real files, and everything a stranger may send.
#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test")]

mod bootstrap;
mod codecs;
mod coordinator;
mod environment;
mod groups;
mod hello;
mod renewal;
mod secret;
mod server;
mod stalls;
mod status;
mod store;
mod support;

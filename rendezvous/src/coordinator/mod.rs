//! The party that keeps the store, knows who is there, and ends the epoch when someone is lost.
//!
//! [`Coordinator`] decides, without I/O and without a clock; [`Server`] is one thread that runs it
//! on a socket.

mod connection;
mod diagnosis;
mod event_loop;
mod groups;
mod overview;
mod server;
mod state;

pub use server::{Event, Server, ServerConfig, ServerError, Watcher};
pub use state::{Coordinator, CoordinatorConfig};

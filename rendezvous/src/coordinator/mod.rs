//! The party that keeps the store, knows who is there, and ends the epoch when someone is lost.
//!
//! [`Coordinator`] decides, without I/O and without a clock; [`Server`] is one thread that runs it
//! on a socket, and [`LocalLink`] what ranks that are threads of one process have in its place.

mod connection;
mod diagnosis;
mod event_loop;
mod groups;
mod local;
mod naming;
mod overview;
mod renewal;
mod server;
mod stalls;
mod state;
mod values;

pub use local::LocalLink;
pub use renewal::context_keys;
pub use server::{Event, Server, ServerConfig, ServerError, Watcher};
pub use state::{Coordinator, CoordinatorConfig};

//! The party that keeps the store, knows who is there, and ends the epoch when someone is lost.

mod server;
mod state;

pub use server::{Event, Server, ServerConfig, ServerError};
pub use state::{Coordinator, CoordinatorConfig};

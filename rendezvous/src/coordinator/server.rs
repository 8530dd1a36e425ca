//! The coordinator on a socket: one thread around `poll(2)`.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::CoordinatorConfig;
use crate::hello::HelloError;
use crate::message::Abort;
use crate::run::{RunId, Secret};

/// What a server must know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The run that it serves.
    pub run_id: RunId,
    /// The secret that ranks must prove to know.
    pub secret: Secret,
    /// The job.
    pub coordinator: CoordinatorConfig,
}

impl ServerConfig {
    /// The server of epoch 0 of a job, without limits on joining and without grace.
    pub fn new(run_id: RunId, secret: Secret, world_size: u32) -> Self {
        let coordinator = CoordinatorConfig {
            world_size,
            epoch: 0,
            join_timeout: None,
            lost_grace: Duration::ZERO,
        };
        Self { run_id, secret, coordinator }
    }
}

/// Something that happened on a server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A rank has joined.
    Joined {
        /// The rank.
        rank: u32,
    },
    /// All ranks have joined.
    AllJoined,
    /// A rank has said goodbye.
    Left {
        /// The rank.
        rank: u32,
    },
    /// All ranks have joined and then left or been lost.
    AllGone,
    /// The connection of a rank has ended without goodbye.
    Lost {
        /// The rank.
        rank: u32,
        /// How it showed.
        reason: String,
    },
    /// The epoch is over.
    Aborted {
        /// Why.
        abort: Abort,
    },
    /// A connection was turned away.
    Turned {
        /// Where it came from.
        from: SocketAddr,
        /// Why.
        error: HelloError,
    },
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread or its descriptors cannot be made.
    #[error("failed to start the coordinator thread")]
    Start {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A running coordinator. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
}

impl Server {
    /// Listens on `bind`, and on no other address; port 0 lets the kernel choose.
    ///
    /// `on_event` is called on the server's thread and must not block.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(
        bind: SocketAddr,
        config: ServerConfig,
        on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(bind)
            .map_err(|source| ServerError::Listen { address: bind, source })?;
        Self::start_on(listener, config, on_event)
    }

    /// As [`Server::start`], on a listener that exists already.
    ///
    /// # Errors
    /// [`ServerError::Start`].
    pub fn start_on(
        _listener: TcpListener,
        _config: ServerConfig,
        _on_event: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, ServerError> {
        todo!()
    }

    /// The address that it listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tells all ranks that `rank` is dead; for a supervisor, which learns of it first.
    pub fn rank_lost(&self, _rank: u32, _reason: &str) {
        todo!()
    }

    /// Ends the epoch for a reason of the caller's.
    pub fn abort(&self, _culprit: Option<u32>, _reason: &str) {
        todo!()
    }

    /// Waits until all ranks have joined and then left or been lost. Returns false at `deadline`.
    pub fn wait_all_gone(&self, _deadline: Instant) -> bool {
        todo!()
    }

    /// Closes all connections and joins the thread.
    pub fn shutdown(self) {
        todo!()
    }
}

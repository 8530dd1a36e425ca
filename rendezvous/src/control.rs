//! The rank's end of the control connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::frame::FrameError;
use crate::hello::{HelloError, Identity};
use crate::message::{Abort, MessageError, OperationReport};
use crate::run::Secret;
use crate::store::{Store, StoreError};

/// Why the control connection does not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody answers at the address.
    #[error("failed to connect to the coordinator at {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error("failed to shake hands with the coordinator at {address}")]
    Hello {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: HelloError,
    },
    /// The connection failed.
    #[error("lost the connection to the coordinator at {address}")]
    Lost {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The coordinator sent a bad frame.
    #[error("the coordinator at {address} sent a bad frame")]
    Frame {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: FrameError,
    },
    /// The coordinator sent a bad message.
    #[error("the coordinator at {address} sent a bad message")]
    Message {
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        #[source]
        source: MessageError,
    },
    /// The coordinator took too long.
    #[error("the coordinator at {address} did not answer in time")]
    TimedOut {
        /// The address.
        address: SocketAddr,
    },
    /// The job has been aborted.
    #[error("the job was aborted: {abort}")]
    Aborted {
        /// Why.
        abort: Abort,
    },
}

/// Control connection of one rank. It is the [`Store`] of a job over the network.
///
/// All methods may be called from any thread.
#[derive(Debug)]
pub struct ControlClient {
    stream: std::net::TcpStream,
}

impl ControlClient {
    /// Connects to the coordinator at `address`, trying again until `deadline` while nobody
    /// listens there yet.
    ///
    /// # Errors
    /// [`ControlError::Connect`], [`ControlError::Hello`].
    pub fn connect(
        _address: SocketAddr,
        _identity: Identity,
        _secret: &Secret,
        _deadline: Instant,
    ) -> Result<Self, ControlError> {
        todo!()
    }

    /// The address of the coordinator.
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// This process's address on the connection: one that the coordinator's host can reach.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }

    /// Tells the coordinator what this rank is doing; never blocks.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn report(&self, _report: &OperationReport) -> Result<(), ControlError> {
        todo!()
    }

    /// Tells the coordinator that this rank is alive; never blocks.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn heartbeat(&self) -> Result<(), ControlError> {
        todo!()
    }

    /// Why the job is over, if it is; at most one non-blocking system call.
    ///
    /// The loss of the coordinator is an abort, too.
    pub fn poll_abort(&self) -> Option<Abort> {
        todo!()
    }

    /// Leaves the job in good order: returns when the coordinator knows.
    ///
    /// # Errors
    /// When the connection fails or `deadline` passes first.
    pub fn goodbye(&self, _deadline: Instant) -> Result<(), ControlError> {
        todo!()
    }
}

impl AsFd for ControlClient {
    /// Readable when [`ControlClient::poll_abort`] should be called; for parking.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Store for ControlClient {
    fn set(&self, _key: &str, _value: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    fn get(&self, _key: &str, _deadline: Instant) -> Result<Vec<u8>, StoreError> {
        todo!()
    }
}

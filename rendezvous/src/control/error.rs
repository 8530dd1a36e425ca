use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::hello::HelloError;
use crate::message::Abort;

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
    /// The connection failed, or the coordinator sent something that is no valid message.
    #[error("lost the connection to the coordinator at {address}")]
    Lost {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// The ranks did not meet in the next epoch.
    #[error("the next epoch did not begin: {abort}")]
    NoEpoch {
        /// Why, and who is to blame.
        abort: Abort,
    },
    /// The coordinator took too long.
    #[error("the coordinator at {address} did not answer in time")]
    TimedOut {
        /// The address.
        address: SocketAddr,
    },
}

impl ControlError {
    /// Whether somebody may be there who did not answer in time.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Hello { source, .. } => matches!(source, HelloError::TimedOut { .. }),
            Self::Connect { source, .. } => source.kind() == io::ErrorKind::TimedOut,
            Self::NoEpoch { abort } => abort.timed_out,
            Self::Lost { .. } => false,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { address, .. } => Some(format!(
                "check that the launcher or rank 0 runs and that {address} can be reached from here"
            )),
            Self::Hello { source, .. } => source.hint(),
            Self::NoEpoch { .. } | Self::Lost { .. } | Self::TimedOut { .. } => None,
        }
    }
}

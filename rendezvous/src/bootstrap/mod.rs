//! How a process finds the others: the decision between a launcher's coordinator, an address that
//! the user gave, a directory, and no store at all.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{ControlClient, ControlError};
use crate::coordinator::ServerError;
use crate::env::{Environment, EnvironmentError, PortRange};
use crate::rank_info::{RankInfo, Warning};
use crate::run::{RunId, Secret, SecretError};
use crate::store::{Store, StoreError};

/// What a caller of [`bootstrap`] decides.
#[derive(Clone, Debug)]
pub struct BootstrapOptions {
    /// The address on which rank 0 listens if it must run the coordinator and nothing else says
    /// where; needed only with `file:` and several nodes. On one node it is the loopback address.
    pub bind: Option<IpAddr>,
    /// Ports for that.
    pub port_range: PortRange,
    /// Longest time until all ranks have met; `None` takes PACELINE_START_TIMEOUT.
    pub start_timeout: Option<Duration>,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        Self { bind: None, port_range: PortRange::ANY, start_timeout: None }
    }
}

/// A process that has found its job.
pub struct Rendezvous {
    /// Its place.
    pub rank_info: RankInfo,
    /// The run, the same on all ranks.
    pub run_id: RunId,
    /// The secret that all ranks share.
    pub secret: Secret,
    /// The store that all ranks share.
    pub store: Arc<dyn Store>,
    /// The control connection; `None` in a job of one process without launcher.
    pub control: Option<Arc<ControlClient>>,
    /// Oddities of the environment, for the user.
    pub warnings: Vec<Warning>,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Rendezvous")
            .field("rank_info", &self.rank_info)
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// Leaves the job in good order. Rank 0, if it runs the coordinator, waits for the others.
    ///
    /// # Errors
    /// When the others have not left at `deadline` or the coordinator cannot be reached.
    pub fn finish(self, _deadline: Instant) -> Result<(), BootstrapError> {
        todo!()
    }
}

/// Finds the job that the environment describes.
///
/// # Errors
/// [`BootstrapError`], with a hint that says what to set.
pub fn bootstrap(
    _environment: &(impl Environment + ?Sized),
    _options: &BootstrapOptions,
) -> Result<Rendezvous, BootstrapError> {
    todo!()
}

/// Why a process did not find its job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The environment makes no sense.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// There is no usable secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The coordinator cannot be started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The coordinator cannot be reached.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The directory in which ranks meet cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing says where the ranks meet.
    #[error("rank {rank} of {world_size} does not know where to meet the others")]
    NoRendezvous {
        /// This rank.
        rank: u32,
        /// Ranks of the job.
        world_size: u32,
    },
    /// The address of the rendezvous needs a secret.
    #[error("PACELINE_RENDEZVOUS names an address, but PACELINE_SECRET_FILE is not set")]
    NoSecret,
    /// A host name has no address.
    #[error("failed to resolve {host:?}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ranks are on several nodes and nothing says on which address rank 0 should listen.
    #[error("rank 0 does not know on which address to listen for other nodes")]
    NoBindAddress,
    /// Rank 0 did not leave its address in time.
    #[error(
        "rank 0 did not appear in {} within {:.1} s", directory.display(), waited.as_secs_f64()
    )]
    RankZeroAbsent {
        /// The directory in which the ranks meet.
        directory: PathBuf,
        /// How long this rank waited.
        waited: Duration,
        /// What the last attempt met, if there was anything.
        #[source]
        source: Option<Box<ControlError>>,
    },
    /// Some ranks have not left in time.
    #[error("other ranks were still connected when rank 0 stopped waiting for them")]
    OthersRemain,
}

impl BootstrapError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Environment(error) => error.hint(),
            Self::Secret(error) => error.hint(),
            _ => None,
        }
    }
}

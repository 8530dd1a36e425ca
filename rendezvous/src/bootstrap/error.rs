//! Why a process did not find its job.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::control::ControlError;
use crate::coordinator::ServerError;
use crate::env::{EnvironmentError, PortRange};
use crate::run::SecretError;
use crate::store::StoreError;

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
    /// A launcher of ours started this process but gave it no coordinator.
    #[error("PACELINE_AGENT_PID is set, but PACELINE_RENDEZVOUS is not")]
    NoLauncher,
    /// A host name has no address.
    #[error("failed to resolve {host:?}")]
    Resolve {
        /// The name and port.
        host: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The ranks are on several nodes and nothing says on which address rank 0 should listen.
    #[error("rank 0 does not know on which address to listen for other nodes")]
    NoBindAddress,
    /// No port of the range is free, or the address is not of this host.
    #[error("failed to listen on {address}, port {ports}")]
    Listen {
        /// The address.
        address: IpAddr,
        /// The ports that were tried; 0 is any.
        ports: PortRange,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Rank 0 did not leave its address in time.
    #[error(
        "rank 0 did not appear in {} within {:.1} s",
        directory.display(),
        waited.as_secs_f64()
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
    /// Another rank 0 is there, to whom the others come.
    #[error("another rank 0 waits for the ranks of the job in {}", directory.display())]
    RankZeroTwice {
        /// The directory in which the ranks meet.
        directory: PathBuf,
    },
    /// The thread that tells the coordinator that this rank runs cannot be started.
    #[error("failed to start the heartbeat thread")]
    Heartbeat {
        /// Why.
        #[source]
        source: io::Error,
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
            Self::Server(error) => error.hint(),
            Self::Control(error) => error.hint(),
            Self::NoRendezvous { .. } => Some(
                "start the program with `paceline run`, or set PACELINE_RENDEZVOUS=HOST:PORT (a \
                 free port on the host of rank 0) and PACELINE_SECRET_FILE on all ranks, or \
                 PACELINE_RENDEZVOUS=file:DIRECTORY with a directory that all ranks share"
                    .to_owned(),
            ),
            Self::NoSecret => Some(
                "make one with `(umask 077; od -An -tx1 -N32 /dev/urandom | tr -d ' \\n' > FILE)` \
                 and give all ranks the same"
                    .to_owned(),
            ),
            Self::NoBindAddress => Some(
                "set PACELINE_INTERFACE to the interface that the nodes share, or \
                 PACELINE_RENDEZVOUS=HOST:PORT"
                    .to_owned(),
            ),
            Self::RankZeroAbsent { .. } => Some(
                "rank 0 has not started, has failed, or was given another rendezvous, or the job has all \
                 its ranks already; set PACELINE_RENDEZVOUS on all ranks if the launcher does not name \
                 its job"
                    .to_owned(),
            ),
            Self::RankZeroTwice { .. } => Some(
                "two processes have rank 0, or an older job of the same name has not ended".to_owned(),
            ),
            Self::Store(StoreError::NotPrivate { path, .. }) => {
                Some(format!("run `chmod 700 {}` if it is yours", path.display()))
            }
            _ => None,
        }
    }
}

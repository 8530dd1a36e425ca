//! What the launcher asks an agent about its host, and what that answers.

use std::net::{IpAddr, SocketAddr};

use paceline_rendezvous::RunId;
use serde::{Deserialize, Serialize};

use super::examination::Examination;
use crate::probe::{Door, Effort, ProbeError, Way};

/// From the launcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// What is the host like?
    Host,
    /// What time is it?
    Clock,
    /// Be the host of this number among so many, and answer those that knock at these addresses. The
    /// secret of the run has come before.
    Doors {
        run_id: [u8; RunId::LEN],
        number: u32,
        count: u32,
        addresses: Vec<IpAddr>,
        /// The first and the last port to use; twice 0 for any.
        ports: (u16, u16),
    },
    /// Does this address lead to the host of this number?
    Reach { host: u32, address: SocketAddr },
    /// Does this address lead to the host of this number, and how well?
    Way { host: u32, address: SocketAddr, effort: Effort },
}

/// From an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Host(Box<Examination>),
    /// When the question came and when the answer went, in nanoseconds since 1970.
    Clock {
        heard: u64,
        answered: u64,
    },
    Doors(Vec<Door>),
    Reach(Result<(), ProbeError>),
    Way(Result<Way, ProbeError>),
    /// Why there is none.
    Nothing {
        reason: String,
    },
}

/// The time, in nanoseconds since 1970.
pub(crate) fn wall_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.ok().and_then(|time| u64::try_from(time.as_nanos()).ok()).unwrap_or(0)
}

//! Why there is no plan.

use paceline_rendezvous::Fraction;
use thiserror::Error;

use super::placement::PlacementError;
use crate::ExitCode;

/// Why a job makes no sense as described.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Neither a count nor slots.
    #[error("the number of ranks is missing")]
    NoRankCount,
    /// Fewer hosts than were asked for.
    #[error("{wanted} hosts were asked for, and there are {hosts}")]
    TooFewHosts {
        /// Hosts asked for.
        wanted: usize,
        /// Hosts that there are, this machine counted once.
        hosts: usize,
    },
    /// Several names of this machine, with devices that do not add up.
    #[error("{} are all this machine, and their devices do not add up", names.join(", "))]
    LocalDevices {
        /// The names.
        names: Vec<String>,
    },
    /// Ranks find no place.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// A rank's identity is the launcher's to give.
    #[error("{variable} says which rank a process is and cannot be set for all of them")]
    IdentityVariable {
        /// The variable.
        variable: String,
    },
    /// What a setting gives each rank cannot be the same for all of them.
    #[error("{variable} cannot be set for all ranks: each one gets its own by {by}")]
    SetTwice {
        /// The variable.
        variable: &'static str,
        /// The setting.
        by: &'static str,
    },
    /// Part of a device where none is given.
    #[error("--gpu-fraction {fraction} says nothing: no rank has a GPU")]
    FractionOfNothing {
        /// The fraction.
        fraction: Fraction,
    },
    /// Ranks of other programs, and none of the first one.
    #[error("of {world_size} ranks none is left for the first program: the others run {others}")]
    NoFirstRanks {
        /// Number of ranks.
        world_size: u32,
        /// Those of the other programs.
        others: u64,
    },
    /// An interface of no host.
    #[error("--interface names {host}, which is none of the hosts")]
    InterfaceHost {
        /// The host.
        host: String,
    },
    /// There is no such rank.
    #[error("rank {rank} cannot get standard input: the ranks are 0 to {}", world_size - 1)]
    StdinRank {
        /// The rank asked for.
        rank: u32,
        /// Number of ranks, at least 1.
        world_size: u32,
    },
    /// There is no such rank.
    #[error("rank {rank} cannot be shown: the ranks are 0 to {}", world_size - 1)]
    ShownRank {
        /// The highest rank asked for.
        rank: u32,
        /// Number of ranks, at least 1.
        world_size: u32,
    },
    /// Every port for frameworks is taken.
    #[error("no port between 20000 and 32000 is free for the program's own rendezvous")]
    NoPort,
}

impl PlanError {
    /// What the launcher returns for it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoPort => ExitCode::LauncherFailed,
            _ => ExitCode::Usage,
        }
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRankCount => Some("say how many with -np N".into()),
            Self::TooFewHosts { .. } => {
                Some("name as many with -H or --hostfile, or lower --nnodes".into())
            }
            Self::LocalDevices { .. } => {
                Some("name this machine once, with all its devices, as in -H localhost:@0+1".into())
            }
            Self::Placement(error) => error.hint(),
            Self::SetTwice { .. } => Some("leave one of the two out".into()),
            Self::FractionOfNothing { .. } => {
                Some("list the GPUs, as in --gpus a:0+1,b:2 or -H a:@0+1".into())
            }
            Self::NoFirstRanks { .. } => Some("say how many it runs with -np before it".into()),
            Self::InterfaceHost { .. } => {
                Some("name it as it is named with -H or in the hostfile".into())
            }
            Self::IdentityVariable { .. }
            | Self::StdinRank { .. }
            | Self::ShownRank { .. }
            | Self::NoPort => None,
        }
    }
}

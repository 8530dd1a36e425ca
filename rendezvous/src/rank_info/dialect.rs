//! The launchers whose variables we understand.

use std::fmt;

use crate::env::{self, Variable};

/// Whose variables describe a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// Ours.
    Paceline,
    /// `horovodrun`.
    Horovod,
    /// `torchrun`.
    Torch,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// Hydra, Intel MPI, MPICH and other PMI launchers.
    Pmi,
    /// `srun`; only inside a step.
    Slurm,
    /// No launcher.
    None,
}

/// The variables in which a dialect says the same things.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) rank: Variable,
    pub(super) world_size: Variable,
    /// Rank and number of ranks on the node, where the dialect has both.
    pub(super) local: Option<(Variable, Variable)>,
    /// Index and number of the nodes, where the dialect has both.
    pub(super) node: Option<(Variable, Variable)>,
}

impl Dialect {
    /// The order in which complete dialects are preferred.
    pub const PRECEDENCE: [Self; 6] =
        [Self::Paceline, Self::Horovod, Self::Torch, Self::OpenMpi, Self::Pmi, Self::Slurm];

    /// The variables of the dialect; `None` for Slurm, which needs more than names, and without a
    /// launcher.
    pub(super) const fn names(self) -> Option<Names> {
        Some(match self {
            Self::Paceline => Names {
                rank: env::RANK,
                world_size: env::WORLD_SIZE,
                local: Some((env::LOCAL_RANK, env::LOCAL_SIZE)),
                node: Some((env::NODE_RANK, env::NODE_COUNT)),
            },
            Self::Horovod => Names {
                rank: env::HOROVOD_RANK,
                world_size: env::HOROVOD_SIZE,
                local: Some((env::HOROVOD_LOCAL_RANK, env::HOROVOD_LOCAL_SIZE)),
                node: Some((env::HOROVOD_CROSS_RANK, env::HOROVOD_CROSS_SIZE)),
            },
            Self::Torch => Names {
                rank: env::TORCH_RANK,
                world_size: env::TORCH_WORLD_SIZE,
                local: Some((env::TORCH_LOCAL_RANK, env::TORCH_LOCAL_WORLD_SIZE)),
                node: Some((env::TORCH_GROUP_RANK, env::TORCH_GROUP_WORLD_SIZE)),
            },
            // OMPI_COMM_WORLD_NODE_RANK is not here: it counts processes of a node, not nodes.
            Self::OpenMpi => Names {
                rank: env::OMPI_RANK,
                world_size: env::OMPI_SIZE,
                local: Some((env::OMPI_LOCAL_RANK, env::OMPI_LOCAL_SIZE)),
                node: None,
            },
            Self::Pmi => Names {
                rank: env::PMI_RANK,
                world_size: env::PMI_SIZE,
                local: Some((env::MPI_LOCAL_RANK, env::MPI_LOCAL_SIZE)),
                node: None,
            },
            Self::Slurm | Self::None => return None,
        })
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Paceline => "PACELINE",
            Self::Horovod => "HOROVOD",
            Self::Torch => "torch",
            Self::OpenMpi => "Open MPI",
            Self::Pmi => "PMI",
            Self::Slurm => "Slurm",
            Self::None => "no",
        })
    }
}

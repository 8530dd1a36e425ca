//! What a process is told about its place in the job.

mod device;
mod dialect;
mod read;
mod slurm;

use std::fmt;

pub use device::{DeviceAssignment, Fraction, ParseDeviceError};
pub use dialect::Dialect;

use crate::env::{self, Environment, EnvironmentError};
use crate::run::RunId;

/// The place of one process in the job.
///
/// # Invariants
/// `rank < world_size`, `local_rank < local_size <= world_size`, `node_rank < node_count`; all
/// counts are at least 1. [`RankInfo::from_environment`] guarantees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankInfo {
    /// Index of the process, `0..world_size`.
    pub rank: u32,
    /// Number of processes in the job.
    pub world_size: u32,
    /// Index of the process among those of the job on its node, `0..local_size`.
    pub local_rank: u32,
    /// Number of processes of the job on its node.
    pub local_size: u32,
    /// Index of the node, `0..node_count`. Only a claim where the launcher does not number nodes:
    /// whether two ranks can share memory is decided by trying it.
    pub node_rank: u32,
    /// Number of nodes; see `node_rank`.
    pub node_count: u32,
    /// Number of the run, where the launcher gave one.
    pub run_id: Option<RunId>,
    /// Membership of the job that the process belongs to.
    pub epoch: u32,
    /// The device of the rank.
    pub device: DeviceAssignment,
    /// Whose variables all this was taken from.
    pub dialect: Dialect,
}

impl RankInfo {
    /// A job of one process, as when a program is started without a launcher.
    pub fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            local_rank: 0,
            local_size: 1,
            node_rank: 0,
            node_count: 1,
            run_id: None,
            epoch: 0,
            device: DeviceAssignment::None,
            dialect: Dialect::None,
        }
    }

    /// The place that the environment describes.
    ///
    /// The first complete dialect counts, in the order of [`Dialect::PRECEDENCE`]. Without any, the
    /// process is [alone](Self::alone). The warnings name complete dialects of lower precedence
    /// that say something else.
    ///
    /// # Errors
    /// Half a pair of variables in a dialect that would have counted, and values that make no
    /// sense.
    pub fn from_environment(
        environment: &(impl Environment + ?Sized),
    ) -> Result<(Self, Vec<Warning>), EnvironmentError> {
        read::rank_info(environment)
    }

    /// The variables to set for this process: ours, Horovod's and torch's.
    ///
    /// `MASTER_ADDR` and `MASTER_PORT` are not among them, nor is anything that concerns the
    /// connection to the coordinator: both depend on more than the place of the rank.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables: Vec<(&'static str, String)> = [
            (env::RANK, self.rank),
            (env::WORLD_SIZE, self.world_size),
            (env::LOCAL_RANK, self.local_rank),
            (env::LOCAL_SIZE, self.local_size),
            (env::NODE_RANK, self.node_rank),
            (env::NODE_COUNT, self.node_count),
            (env::EPOCH, self.epoch),
            (env::HOROVOD_RANK, self.rank),
            (env::HOROVOD_SIZE, self.world_size),
            (env::HOROVOD_LOCAL_RANK, self.local_rank),
            (env::HOROVOD_LOCAL_SIZE, self.local_size),
            (env::HOROVOD_CROSS_RANK, self.node_rank),
            (env::HOROVOD_CROSS_SIZE, self.node_count),
            (env::TORCH_RANK, self.rank),
            (env::TORCH_WORLD_SIZE, self.world_size),
            (env::TORCH_LOCAL_RANK, self.local_rank),
            (env::TORCH_LOCAL_WORLD_SIZE, self.local_size),
            (env::TORCH_GROUP_RANK, self.node_rank),
            (env::TORCH_GROUP_WORLD_SIZE, self.node_count),
            (env::TORCH_ROLE_RANK, self.rank),
            (env::TORCH_ROLE_WORLD_SIZE, self.world_size),
            (env::JAX_PROCESS_ID, self.rank),
            (env::JAX_NUM_PROCESSES, self.world_size),
        ]
        .into_iter()
        .map(|(variable, value)| (variable.name, value.to_string()))
        .collect();
        variables.push((env::DEVICE.name, self.device.to_string()));
        if let Some(run_id) = self.run_id {
            variables.push((env::RUN_ID.name, run_id.to_string()));
        }
        variables
    }

    /// Open MPI's variables for this process; set only on request, because some programs then
    /// expect Open MPI's daemons to be there as well.
    pub fn open_mpi_variables(&self) -> Vec<(&'static str, String)> {
        [
            (env::OMPI_RANK, self.rank),
            (env::OMPI_SIZE, self.world_size),
            (env::OMPI_LOCAL_RANK, self.local_rank),
            (env::OMPI_LOCAL_SIZE, self.local_size),
            // We run one job at a time, so this is no different.
            (env::OMPI_NODE_RANK, self.local_rank),
        ]
        .into_iter()
        .map(|(variable, value)| (variable.name, value.to_string()))
        .collect()
    }

    /// Whether all ranks are on one node, as far as the launcher says.
    pub fn is_on_one_node(&self) -> bool {
        self.local_size == self.world_size
    }
}

/// Something odd in the environment that does not stop the process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Two launchers' variables say different things.
    Disagreement {
        /// The dialect that counts.
        chosen: Dialect,
        /// Its rank and world size.
        chosen_place: (u32, u32),
        /// The dialect that is ignored.
        ignored: Dialect,
        /// Its rank and world size.
        ignored_place: (u32, u32),
    },
    /// A dialect that is not used anyway is incomplete or makes no sense.
    Unusable {
        /// The dialect.
        ignored: Dialect,
        /// What is wrong with it.
        error: EnvironmentError,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disagreement { chosen, chosen_place, ignored, ignored_place } => write!(
                formatter,
                "{chosen} variables say rank {} of {}, {ignored} variables say rank {} of {}; \
                 {chosen} counts",
                chosen_place.0, chosen_place.1, ignored_place.0, ignored_place.1
            ),
            Self::Unusable { ignored, error } => {
                write!(formatter, "{ignored} variables are ignored: {error}")
            }
        }
    }
}

//! What each rank of this host gets of the host: a GPU, processors, threads.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use paceline_rendezvous::Fraction;
use paceline_rendezvous::env::{Environment, ProcessEnvironment};

use super::binding::{BindTo, bind};
use super::devices::{self, Given};
use super::ranks::is_unset;
use crate::environment;
use crate::machine::cores::{Cpus, Topology};
use crate::machine::gpus::{self, Detail};
use crate::protocol::messages::{AgentConfig, RankConfig};
use crate::refusal::Refusal;

/// Where clients of MPS find its pipes: docs.nvidia.com/deploy/mps, "Environment Variables".
const MPS_PIPES: (&str, &str) = ("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps");

/// What one rank gets.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// `None` for wherever the agent may run.
    pub(crate) cpus: Option<Cpus>,
}

/// The share of each rank, in the order of the configuration.
pub(crate) fn of(config: &AgentConfig, host: &str) -> Result<Vec<Share>, Refusal> {
    let given = gpus_of(config, host)?;
    // A file for each processor is read for it: not where nobody is bound.
    let is_bound = config.bind_to != BindTo::None;
    let topology = if is_bound { Topology::of_this_process() } else { Topology::default() };
    let root = Path::new("/");
    let node_of = |given: &Given| {
        let is_asked = config.bind_to == BindTo::Numa;
        given.gpu.as_deref().filter(|_| is_asked).and_then(|uuid| gpus::numa_node(root, uuid))
    };
    let nodes: Vec<Option<u32>> = given.iter().map(node_of).collect();
    let bound = bind(config.bind_to, &topology, &nodes).map_err(|problem| Refusal::Binding {
        problem: problem.to_string(),
        host: host.to_owned(),
    })?;
    let divide = config.divide_cores && is_unset(environment::OMP_NUM_THREADS.as_ref());
    let threads = |cpus: &Option<Cpus>| match cpus {
        Some(cpus) => {
            let sharing = bound.iter().flatten().filter(|other| *other == cpus).count();
            environment::threads_default(topology.cores_among(cpus), sharing)
        }
        None => environment::threads_default(environment::cores().get(), bound.len()),
    };
    let share = |((rank, given), cpus): ((&RankConfig, Given), &Option<Cpus>)| {
        let mut variables = given.variables;
        variables.extend(divide.then(|| threads(cpus)));
        if !config.tensorflow.is_empty() {
            let text = environment::tf_config(&config.tensorflow, rank.rank);
            variables.push((environment::TF_CONFIG.into(), text.into()));
        }
        Share { variables, cpus: cpus.clone() }
    };
    Ok(config.ranks.iter().zip(given).zip(&bound).map(share).collect())
}

fn gpus_of(config: &AgentConfig, host: &str) -> Result<Vec<Given>, Refusal> {
    let mut wanted = config.ranks.iter().filter_map(|rank| rank.device.as_ref()).peekable();
    if wanted.peek().is_none() {
        return Ok(config.ranks.iter().map(|_| Given::default()).collect());
    }
    let is_divided = wanted.any(|device| device.fraction() != Fraction::WHOLE);
    let detail = if is_divided { Detail::All } else { Detail::Names };
    let found = gpus::find(Path::new("/"), detail);
    let set = config.variables.iter().rev().find(|(name, _)| name == MPS_PIPES.0);
    let pipes = set.map(|(_, value)| value.clone()).or_else(|| ProcessEnvironment.get(MPS_PIPES.0));
    let pipes = pipes.map_or_else(|| PathBuf::from(MPS_PIPES.1), PathBuf::from);
    let has_mps = is_divided && devices::mps_runs(&pipes);
    devices::assign(&config.ranks, config.gpu_visibility, &found, has_mps).map_err(|problem| {
        let (hint, problem) = (problem.hint(), problem.to_string());
        Refusal::Device { problem, hint, host: host.to_owned() }
    })
}

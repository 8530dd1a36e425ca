//! The environment of a rank, as data.

mod passed;

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;

use paceline_rendezvous::env::{self, ProcessEnvironment};
use paceline_rendezvous::{RankInfo, RunId};
use rustix::process::getpid;

pub use passed::Passed;

use crate::process::table::ProcessEntry;
use crate::protocol::messages::AgentConfig;

/// Threads of OpenMP and of the libraries that follow its variable.
pub(crate) const OMP_NUM_THREADS: &str = "OMP_NUM_THREADS";

/// By what TensorFlow's workers find each other.
pub(crate) const TF_CONFIG: &str = env::TF_CONFIG.name;

/// Makes Python write lines as they come although its output is a pipe.
const PYTHONUNBUFFERED: &str = "PYTHONUNBUFFERED";

/// Ports for the user's framework are looked for here: below every port that kernels hand out by
/// themselves (from 32768 on), so no connection takes one before the framework listens on it.
const FRAMEWORK_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Variables that say which rank a process is; they must not be set by hand for a job.
pub(crate) fn is_identity(name: &OsStr) -> bool {
    env::identifies_rank(name) && !is_for_framework(name)
}

/// Ours to suggest, the user's to change.
fn is_for_framework(name: &OsStr) -> bool {
    let names = [env::TORCH_MASTER_ADDR, env::TORCH_MASTER_PORT, env::JAX_COORDINATOR_ADDRESS];
    names.iter().any(|variable| name == variable.name)
}

/// Inherited variables that describe the place of *this* process in somebody's job.
pub(crate) fn inherited_to_remove() -> Vec<OsString> {
    let names = ProcessEnvironment.all().into_iter().map(|(name, _)| name);
    names.filter(|name| env::identifies_rank(name)).collect()
}

/// What the rank in this place has of its own.
///
/// `cross` is its place among the ranks with the same local rank, and how many those are: on hosts
/// with different numbers of ranks this is not the node rank.
pub(crate) fn of_rank(
    place: &RankInfo,
    cross: (u32, u32),
    open_mpi: bool,
) -> Vec<(OsString, OsString)> {
    let open_mpi = if open_mpi { place.open_mpi_variables() } else { Vec::new() };
    let variables = place.variables().into_iter().chain(open_mpi);
    let value = |(name, value): (&str, String)| match name {
        _ if name == env::HOROVOD_CROSS_RANK.name => (name.into(), cross.0.to_string().into()),
        _ if name == env::HOROVOD_CROSS_SIZE.name => (name.into(), cross.1.to_string().into()),
        _ => (name.into(), value.into()),
    };
    variables.map(value).collect()
}

/// The run that the ranks of an agent belong to.
pub(crate) fn run_of(config: &AgentConfig) -> Option<RunId> {
    let variables = config.ranks.iter().flat_map(|rank| &rank.variables);
    let run_id = variables.into_iter().find(|(name, _)| name == env::RUN_ID.name)?;
    run_id.1.to_str()?.parse().ok()
}

/// Variables with values that only the agent knows.
pub(crate) fn known_to_agent_only(secret_file: &OsStr) -> Vec<(OsString, OsString)> {
    let pid = getpid().as_raw_pid().to_string();
    vec![
        (env::SECRET_FILE.name.into(), secret_file.to_owned()),
        (env::AGENT_PID.name.into(), pid.into()),
    ]
}

/// Defaults for programs whose output is a pipe.
pub(crate) fn defaults() -> Vec<(OsString, OsString)> {
    vec![(PYTHONUNBUFFERED.into(), "1".into())]
}

/// The default for programs that do not know they share a machine: what OMP_NUM_THREADS becomes
/// for each of `ranks` where nobody has set it.
pub(crate) fn threads_default(cores: usize, ranks: usize) -> (OsString, OsString) {
    let threads = cores.checked_div(ranks).unwrap_or(1).max(1);
    (OMP_NUM_THREADS.into(), threads.to_string().into())
}

/// Processors that this process may use.
pub(crate) fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Ports of the host of rank 0 that every job has for its frameworks: PyTorch's and JAX's.
pub(crate) const FRAMEWORK_PORT_COUNT: u32 = 2;

/// Where the user's framework may let its own ranks meet: PyTorch at the first port, JAX at the
/// second.
pub(crate) fn for_frameworks(address: IpAddr, [torch, jax]: [u16; 2]) -> Vec<(OsString, OsString)> {
    vec![
        (env::TORCH_MASTER_ADDR.name.into(), address.to_string().into()),
        (env::TORCH_MASTER_PORT.name.into(), torch.to_string().into()),
        (
            env::JAX_COORDINATOR_ADDRESS.name.into(),
            SocketAddr::new(address, jax).to_string().into(),
        ),
    ]
}

/// What TensorFlow calls a cluster and the place of this rank in it, as JSON.
pub(crate) fn tf_config(workers: &[SocketAddr], rank: u32) -> String {
    let workers: Vec<String> = workers.iter().map(ToString::to_string).collect();
    serde_json::json!({
        "cluster": { "worker": workers },
        "task": { "type": "worker", "index": rank },
    })
    .to_string()
}

/// Which rank's environment a process was started with.
pub(crate) fn rank_of(process: &ProcessEntry) -> Option<u32> {
    process.started_with(env::RANK.name)?.parse().ok()
}

/// Ports on which nothing listens, for the user's frameworks; we never listen on them. So many, or
/// those that there are.
///
/// The search starts at a place that depends on `seed`, so that jobs that start at the same time
/// do not get the same ports.
pub(crate) fn free_framework_ports(seed: u32, wanted: u32) -> Vec<u16> {
    let count = u32::from(FRAMEWORK_PORTS.end - FRAMEWORK_PORTS.start);
    // Neighbouring seeds (process ids) should not probe each other's ports.
    let start = seed.wrapping_mul(2_654_435_761) % count;
    (0..count)
        .filter_map(|step| u16::try_from((start + step) % count).ok())
        .map(|offset| FRAMEWORK_PORTS.start + offset)
        .filter(|&port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok())
        .take(usize::try_from(wanted).unwrap_or(usize::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_told_from_settings() {
        for name in ["PACELINE_RANK", "RANK", "OMPI_COMM_WORLD_RANK", "PACELINE_SECRET_FILE"] {
            assert!(is_identity(OsStr::new(name)), "{name}");
        }
        for name in ["MASTER_PORT", "PATH", "NCCL_DEBUG", "PACELINE_TRANSPORT"] {
            assert!(!is_identity(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn cores_are_divided_among_the_ranks_of_a_host() {
        for (ranks, threads) in [(1, "8"), (3, "2"), (8, "1"), (9, "1"), (0, "1")] {
            let expected = (OMP_NUM_THREADS.into(), threads.into());
            assert_eq!(threads_default(8, ranks), expected, "{ranks}");
        }
    }

    #[test]
    fn tensorflow_is_told_of_all_workers_and_of_its_own_place() {
        let workers =
            ["10.0.0.1:20002", "[fe80::1]:20002"].map(|text| text.parse().expect("sound"));
        let expected = r#"{"cluster":{"worker":["10.0.0.1:20002","[fe80::1]:20002"]},"#;
        let expected = format!(r#"{expected}"task":{{"index":1,"type":"worker"}}}}"#);
        assert_eq!(tf_config(&workers, 1), expected);
    }

    #[test]
    fn a_framework_port_is_free_and_outside_the_kernels_own_range() {
        let ports = free_framework_ports(7, 3);
        let [first, second, third] = ports[..] else { panic!("three of thousands: {ports:?}") };
        assert!(ports.iter().all(|port| FRAMEWORK_PORTS.contains(port)));
        assert!(first != second && second != third && first != third);
        let held = TcpListener::bind((Ipv4Addr::UNSPECIFIED, first));
        assert!(held.is_err() || !free_framework_ports(7, 3).contains(&first));
    }
}

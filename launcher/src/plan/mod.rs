//! From a job to what each host does. Pure: no host is asked, nothing is started.

mod error;
mod hosts;
mod placement;
#[cfg(test)]
mod placement_tests;
mod rank_file;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::time::Duration;

use paceline_rendezvous::env::{self, Environment, PortRange, RankList};
use paceline_rendezvous::{DeviceAssignment, Dialect, Fraction, RankInfo, RunId};

use crate::agent::binding::BindTo;
use crate::device::{CUDA_VISIBLE_DEVICES, RankDevice};
use crate::environment;
use crate::hosts::{HostSlots, LocalRule};
use crate::job::{JobSpec, OutputOptions, StdinTarget};
use crate::networks::InterfaceRules;
use crate::output::prefix::Place;
use crate::protocol::messages::{AgentConfig, RankConfig};
use crate::run::SshOptions;
use crate::task::Task;

pub use error::PlanError;
pub use placement::{MapBy, Placed, PlacementError, Rules, place};
pub use rank_file::{RankFile, RankFileError, RankLineProblem, RankPlace, parse_rank_file};
pub use summary::{
    CommandSummary, HostSummary, PLAN_SCHEMA, PlanSummary, RankSummary, VariableSummary, shell_line,
};

/// What must be known of the machine that plans.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// The addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
    /// Which hosts are this machine.
    pub local_rule: LocalRule,
    /// Cores that this process may use.
    pub cores: NonZeroUsize,
    /// Ports that the user's frameworks may listen on.
    pub framework_ports: [u16; 2],
}

impl HostFacts {
    /// Those of this machine.
    ///
    /// # Errors
    /// [`PlanError::NoPort`].
    pub fn of_this_host() -> Result<Self, PlanError> {
        // Without them only names and loopback addresses are known to be ours.
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        Ok(Self {
            name: crate::agent::host_name(),
            addresses: interfaces.iter().map(if_addrs::Interface::ip).collect(),
            local_rule: LocalRule::Own,
            cores: environment::cores(),
            framework_ports: <[u16; 2]>::try_from(environment::free_framework_ports(
                std::process::id(),
                environment::FRAMEWORK_PORT_COUNT,
            ))
            .map_err(|_| PlanError::NoPort)?,
        })
    }
}

/// The hosts of a job, each machine once, and whether it is this one.
pub(crate) fn machines(
    job: &JobSpec,
    facts: &HostFacts,
    notices: &mut Vec<String>,
) -> Result<Vec<(HostSlots, bool)>, PlanError> {
    let hosts = hosts::resolve(job, facts, notices)?;
    let (all, local) = (hosts.all.into_iter().enumerate(), hosts.local);
    Ok(all.map(|(index, host)| (host, local == Some(index))).collect())
}

/// What each host of a job does.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    pub(crate) run_id: RunId,
    pub(crate) world_size: u32,
    /// Hosts that have ranks, by node rank.
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) start_timeout: Duration,
    pub(crate) stall_report: Option<Duration>,
    pub(crate) stacks_on_timeout: bool,
    pub(crate) grace: Duration,
    pub(crate) stdin: StdinTarget,
    pub(crate) output: OutputOptions,
    /// Variables that ranks on other hosts get unless they get others of the same names.
    pub(crate) passed_on: Vec<(OsString, OsString)>,
    pub(crate) ssh: SshOptions,
    pub(crate) interface: InterfaceRules,
    pub(crate) port_range: PortRange,
    /// Whether ranks get TF_CONFIG, for which their hosts are asked for ports.
    pub(crate) tensorflow: bool,
    /// Cores of the machine that plans.
    local_cores: NonZeroUsize,
    /// Decisions that the user may want to know of, one sentence each.
    pub notices: Vec<String>,
}

/// What one host does.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    /// The host; by the name that it has itself where it is this machine.
    pub(crate) host: HostSlots,
    /// Whether it is this machine, so that its agent is simply started.
    pub(crate) is_local: bool,
    pub(crate) config: AgentConfig,
}

/// Decides which rank runs where and with what.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(
    job: &JobSpec,
    run_id: RunId,
    facts: &HostFacts,
    environment: &impl Environment,
) -> Result<LaunchPlan, PlanError> {
    refuse_variables(job)?;
    let mut notices = job.hosts.notices.clone();
    let hosts = hosts::resolve(job, facts, &mut notices)?;
    let order = hosts::named_as_planned(&job.map_by, &hosts, facts);
    let rules = Rules { per_host: job.ranks_per_host, per_device: job.gpu_fraction.per_device() };
    let placed = place(hosts.rank_count, &hosts.all, &order, &rules)?;
    if job.gpu_fraction != Fraction::WHOLE && placed.iter().all(|place| place.device.is_none()) {
        return Err(PlanError::FractionOfNothing { fraction: job.gpu_fraction });
    }
    let world_size = u32::try_from(placed.len()).unwrap_or(u32::MAX);
    if let StdinTarget::Rank(rank) = job.stdin
        && rank >= world_size
    {
        return Err(PlanError::StdinRank { rank, world_size });
    }
    if let Some(rank) = job.output.shown.as_ref().map(RankList::last)
        && rank >= world_size
    {
        return Err(PlanError::ShownRank { rank, world_size });
    }
    let named = |name: &str| hosts.all.iter().any(|host| host.host == name);
    if let Some(host) = job.interface.named_hosts().find(|name| !named(name)) {
        return Err(PlanError::InterfaceHost { host: host.to_owned() });
    }
    let others: u64 = job.others.iter().map(|others| u64::from(others.count.get())).sum();
    if u64::from(world_size) <= others {
        return Err(PlanError::NoFirstRanks { world_size, others });
    }
    let mut nodes = nodes(job, run_id, &hosts, &placed);
    if let [only] = &mut nodes[..]
        && only.is_local
    {
        // Where there are other hosts, it is known when their agents have said what they are like.
        let address =
            environment::for_frameworks(Ipv4Addr::LOCALHOST.into(), facts.framework_ports);
        only.config.variables.splice(0..0, address);
        // Alone its ranks need nobody's choice; they understand no more than one.
        if let (None, [first, ..]) = (job.interface.plain(), &job.interface.of(&only.host.host)[..])
        {
            let interface = (env::INTERFACE.name.into(), first.to_string().into());
            only.config.variables.push(interface);
        }
    }
    notices.extend(hosts::unused(&hosts, &placed));
    if let MapBy::RankFile(file) = &job.map_by
        && file.ranks.iter().any(|place| place.slot.is_some())
    {
        notices.push("slot= in a rank file changes nothing: ranks are not bound to cores".into());
    }
    let is_set = environment.get(environment::OMP_NUM_THREADS).is_some() || sets_threads(job);
    if !is_set && job.bind_to == BindTo::None {
        notices.push(threads_notice(&nodes, facts));
    }
    Ok(LaunchPlan {
        run_id,
        world_size,
        nodes,
        timeout: job.timeout,
        start_timeout: job.start_timeout,
        stall_report: job.stall_report,
        stacks_on_timeout: job.stacks_on_timeout,
        grace: job.grace,
        stdin: job.stdin,
        output: job.output.clone(),
        passed_on: job.passed_on.clone(),
        ssh: job.ssh.clone(),
        interface: job.interface.clone(),
        port_range: job.port_range,
        tensorflow: job.tensorflow,
        local_cores: facts.cores,
        notices,
    })
}

/// Refuses variables that are not the user's to set in this job.
fn refuse_variables(job: &JobSpec) -> Result<(), PlanError> {
    let of_tasks = job.others.iter().flat_map(|others| &others.task.variables);
    let variables: Vec<_> =
        job.variables.iter().chain(&job.task.variables).chain(of_tasks).collect();
    if let Some((name, _)) = variables.iter().find(|(name, _)| environment::is_identity(name)) {
        return Err(PlanError::IdentityVariable { variable: name.display().to_string() });
    }
    let has_devices = job.hosts.hosts.iter().any(|host| !host.devices.is_empty());
    let ours = [
        (CUDA_VISIBLE_DEVICES, has_devices, "a list of devices"),
        (environment::TF_CONFIG, job.tensorflow, "--tf-config"),
    ];
    for (variable, is_ours, by) in ours {
        if is_ours && variables.iter().any(|(name, _)| name == variable) {
            return Err(PlanError::SetTwice { variable, by });
        }
    }
    Ok(())
}

fn sets_threads(job: &JobSpec) -> bool {
    job.variables.iter().any(|(name, _)| name == environment::OMP_NUM_THREADS)
}

/// What each host that has ranks does, but for the address of the framework.
fn nodes(job: &JobSpec, run_id: RunId, hosts: &hosts::Hosts, placed: &[Placed]) -> Vec<NodePlan> {
    let config = AgentConfig {
        tasks: tasks(job),
        working_directory: job.working_directory.clone(),
        variables: job.variables.clone(),
        default_variables: environment::defaults(),
        divide_cores: !sets_threads(job),
        ranks: Vec::new(),
        wrapper: job.wrapper.clone(),
        bind_to: job.bind_to,
        gpu_visibility: job.gpu_visibility,
        tensorflow: Vec::new(),
        grace: job.grace,
        is_remote: false,
    };
    let mut ranks_of: Vec<Vec<RankConfig>> = hosts.all.iter().map(|_| Vec::new()).collect();
    let node_count = placed.iter().map(|place| place.node + 1).max().unwrap_or(0);
    let world = World { size: u32::try_from(placed.len()).unwrap_or(u32::MAX), node_count, run_id };
    for (rank, place) in (0..).zip(placed) {
        ranks_of[place.host].push(rank_config(rank, place, &world, job));
    }
    let used = hosts.all.iter().enumerate().zip(ranks_of).filter(|(_, ranks)| !ranks.is_empty());
    used.map(|((index, host), ranks)| NodePlan {
        host: host.clone(),
        is_local: hosts.local == Some(index),
        config: AgentConfig { ranks, is_remote: hosts.local != Some(index), ..config.clone() },
    })
    .collect()
}

/// What the ranks of a job run.
fn tasks(job: &JobSpec) -> Vec<Task> {
    let others = job.others.iter().map(|others| &others.task);
    std::iter::once(&job.task).chain(others).cloned().collect()
}

/// Which of the tasks a rank runs: the last ranks those of the last one, and so on.
fn task_of(rank: u32, world_size: u32, job: &JobSpec) -> usize {
    let mut first_after = world_size;
    for (index, others) in job.others.iter().enumerate().rev() {
        first_after = first_after.saturating_sub(others.count.get());
        if rank >= first_after {
            return index + 1;
        }
    }
    0
}

/// What all ranks have in common.
struct World {
    size: u32,
    node_count: u32,
    run_id: RunId,
}

fn rank_config(rank: u32, placed: &Placed, world: &World, job: &JobSpec) -> RankConfig {
    let fraction = job.gpu_fraction;
    let named = placed.device.as_ref().map(|name| name.as_str().to_owned());
    // The host finds out which device that is.
    let device = named
        .clone()
        .map_or(DeviceAssignment::None, |uuid| DeviceAssignment::Local { uuid, fraction });
    let place = RankInfo {
        rank,
        world_size: world.size,
        local_rank: placed.local_rank,
        local_size: placed.local_size,
        node_rank: placed.node,
        node_count: world.node_count,
        run_id: Some(world.run_id),
        epoch: 0,
        device,
        dialect: Dialect::Paceline,
    };
    let has_input = matches!(job.stdin, StdinTarget::All) || job.stdin == StdinTarget::Rank(rank);
    let cross = (placed.cross_rank, placed.cross_size);
    let variables = environment::of_rank(&place, cross, job.open_mpi_variables);
    let device = named.map(|name| RankDevice::new(name, fraction));
    RankConfig { rank, has_input, task: task_of(rank, world.size, job), device, variables }
}

/// How many threads each rank gets.
fn threads_notice(nodes: &[NodePlan], facts: &HostFacts) -> String {
    let name = environment::OMP_NUM_THREADS;
    match nodes {
        [only] if only.is_local => {
            let ranks = only.config.ranks.len();
            let threads = environment::threads_default(facts.cores.get(), ranks).1;
            format!(
                "{name}={} for each rank ({} cores, {ranks} ranks on {}); -x {name}=N changes it",
                threads.display(),
                facts.cores,
                facts.name,
            )
        }
        _ => format!(
            "{name} for each rank is the cores of its host divided by the ranks there; \
             -x {name}=N changes it"
        ),
    }
}

impl LaunchPlan {
    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.world_size
    }

    /// Where each rank is, in their order.
    pub(crate) fn places(&self) -> Vec<Place> {
        let of_node = |node: &NodePlan| {
            let host = node.host.host.clone();
            let local = (0..).zip(node.config.ranks.clone());
            local.map(move |(local_rank, rank)| {
                (rank.rank, Place { local_rank, host: host.clone() })
            })
        };
        let places: BTreeMap<u32, Place> = self.nodes.iter().flat_map(of_node).collect();
        places.into_values().collect()
    }

    /// The number of this run.
    pub fn run_id(&self) -> RunId {
        self.run_id
    }

    /// The number of the node that rank 0 is on.
    pub(crate) fn first_node(&self) -> usize {
        let has_rank_0 = |node: &NodePlan| node.config.ranks.iter().any(|rank| rank.rank == 0);
        self.nodes.iter().position(has_rank_0).unwrap_or(0)
    }
}

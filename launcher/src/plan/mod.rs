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
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
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
    /// What all agents are told: what their own ranks are is missing.
    pub(crate) common: AgentConfig,
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
    /// How many of the last ranks run each task but the first.
    others: Vec<NonZeroU32>,
    gpu_fraction: Fraction,
    open_mpi_variables: bool,
    /// Cores of the machine that plans.
    local_cores: NonZeroUsize,
    /// Decisions that the user may want to know of, one sentence each.
    pub notices: Vec<String>,
}

/// What one host does. What its agent is told is made of it when it is needed: a rank has some twenty
/// variables, and a job may have tens of thousands of ranks.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    /// The host; by the name that it has itself where it is this machine.
    pub(crate) host: HostSlots,
    /// Whether it is this machine, so that its agent is simply started.
    pub(crate) is_local: bool,
    /// Its ranks and their places, in the order of local ranks.
    pub(crate) ranks: Vec<(u32, Placed)>,
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
    notices.extend(hosts::unused(&hosts, &placed));
    let nodes = nodes(&hosts, placed);
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
        common: common(job, &nodes, facts),
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
        others: job.others.iter().map(|others| others.count).collect(),
        gpu_fraction: job.gpu_fraction,
        open_mpi_variables: job.open_mpi_variables,
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

/// What all hosts are told, as far as it is known before any agent runs.
fn common(job: &JobSpec, nodes: &[NodePlan], facts: &HostFacts) -> AgentConfig {
    let mut variables = job.variables.clone();
    if let [only] = nodes
        && only.is_local
    {
        // Where there are other hosts, it is known when their agents have said what they are like.
        let address =
            environment::for_frameworks(Ipv4Addr::LOCALHOST.into(), facts.framework_ports);
        variables.splice(0..0, address);
        // Alone its ranks need nobody's choice; they understand no more than one.
        if let (None, [first, ..]) = (job.interface.plain(), &job.interface.of(&only.host.host)[..])
        {
            variables.push((env::INTERFACE.name.into(), first.to_string().into()));
        }
    }
    AgentConfig {
        tasks: tasks(job),
        working_directory: job.working_directory.clone(),
        variables,
        default_variables: environment::defaults(),
        divide_cores: !sets_threads(job),
        ranks: Vec::new(),
        wrapper: job.wrapper.clone(),
        bind_to: job.bind_to,
        gpu_visibility: job.gpu_visibility,
        tensorflow: Vec::new(),
        grace: job.grace,
        is_remote: false,
    }
}

/// The hosts that have ranks, and which.
fn nodes(hosts: &hosts::Hosts, placed: Vec<Placed>) -> Vec<NodePlan> {
    let mut ranks_of: Vec<Vec<(u32, Placed)>> = hosts.all.iter().map(|_| Vec::new()).collect();
    for (rank, place) in (0..).zip(placed) {
        ranks_of[place.host].push((rank, place));
    }
    let used = hosts.all.iter().enumerate().zip(ranks_of).filter(|(_, ranks)| !ranks.is_empty());
    used.map(|((index, host), ranks)| NodePlan {
        host: host.clone(),
        is_local: hosts.local == Some(index),
        ranks,
    })
    .collect()
}

/// What the ranks of a job run.
fn tasks(job: &JobSpec) -> Vec<Task> {
    let others = job.others.iter().map(|others| &others.task);
    std::iter::once(&job.task).chain(others).cloned().collect()
}

/// How many threads each rank gets.
fn threads_notice(nodes: &[NodePlan], facts: &HostFacts) -> String {
    let name = environment::OMP_NUM_THREADS;
    match nodes {
        [only] if only.is_local => {
            let ranks = only.ranks.len();
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

    /// What the agent of a node is told, as far as it is known before any agent runs.
    pub(crate) fn config(&self, node: &NodePlan) -> AgentConfig {
        let ranks = node.ranks.iter().map(|(rank, placed)| self.rank_config(*rank, placed));
        let ranks = ranks.collect();
        AgentConfig { ranks, is_remote: !node.is_local, ..self.common.clone() }
    }

    fn rank_config(&self, rank: u32, placed: &Placed) -> RankConfig {
        let fraction = self.gpu_fraction;
        let named = placed.device.as_ref().map(|name| name.as_str().to_owned());
        // The host finds out which device that is.
        let device = named
            .clone()
            .map_or(DeviceAssignment::None, |uuid| DeviceAssignment::Local { uuid, fraction });
        let place = RankInfo {
            rank,
            world_size: self.world_size,
            local_rank: placed.local_rank,
            local_size: placed.local_size,
            node_rank: placed.node,
            node_count: u32::try_from(self.nodes.len()).unwrap_or(u32::MAX),
            run_id: Some(self.run_id),
            epoch: 0,
            device,
            dialect: Dialect::Paceline,
        };
        let has_input = self.stdin == StdinTarget::All || self.stdin == StdinTarget::Rank(rank);
        let cross = (placed.cross_rank, placed.cross_size);
        let variables = environment::of_rank(&place, cross, self.open_mpi_variables);
        let device = named.map(|name| RankDevice::new(name, fraction));
        RankConfig { rank, has_input, task: self.task_of(rank), device, variables }
    }

    /// Which of the tasks a rank runs: the last ranks those of the last one, and so on.
    fn task_of(&self, rank: u32) -> usize {
        let mut first_after = self.world_size;
        for (index, count) in self.others.iter().enumerate().rev() {
            first_after = first_after.saturating_sub(count.get());
            if rank >= first_after {
                return index + 1;
            }
        }
        0
    }

    /// Where each rank is, in their order.
    pub(crate) fn places(&self) -> Vec<Place> {
        let of_node = |node: &NodePlan| {
            let host: Arc<str> = node.host.host.as_str().into();
            let place = move |(rank, placed): &(u32, Placed)| {
                (*rank, Place { local_rank: placed.local_rank, host: Arc::clone(&host) })
            };
            node.ranks.iter().map(place).collect::<Vec<_>>()
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
        let has_rank_0 = |node: &NodePlan| node.ranks.iter().any(|(rank, _)| *rank == 0);
        self.nodes.iter().position(has_rank_0).unwrap_or(0)
    }
}

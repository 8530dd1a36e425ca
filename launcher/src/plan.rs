//! From a job to what each host does. Pure: no host is asked, nothing is started.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use paceline_rendezvous::env::Environment;
use paceline_rendezvous::{DeviceAssignment, Dialect, RankInfo, RunId};
use thiserror::Error;

use crate::ExitCode;
use crate::environment;
use crate::job::{JobSpec, OutputOptions, StdinTarget};
use crate::protocol::messages::{AgentConfig, RankConfig};

/// What must be known of the machine that plans.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Its name.
    pub name: String,
    /// Cores that this process may use.
    pub cores: NonZeroU32,
    /// A port that the user's framework may listen on.
    pub framework_port: u16,
}

impl HostFacts {
    /// Those of this machine.
    ///
    /// # Errors
    /// [`PlanError::NoPort`].
    pub fn of_this_host() -> Result<Self, PlanError> {
        let cores = std::thread::available_parallelism().ok();
        let cores = cores.and_then(|cores| NonZeroU32::try_from(cores).ok());
        Ok(Self {
            name: crate::agent::host_name(),
            cores: cores.unwrap_or(NonZeroU32::MIN),
            framework_port: environment::free_framework_port(std::process::id())
                .ok_or(PlanError::NoPort)?,
        })
    }
}

/// What each host of a job does.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    pub(crate) run_id: RunId,
    pub(crate) world_size: u32,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) start_timeout: Duration,
    pub(crate) stall_report: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) stdin: StdinTarget,
    pub(crate) output: OutputOptions,
    /// Decisions that the user may want to know of, one sentence each.
    pub notices: Vec<String>,
}

/// What one host does.
#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) host: String,
    pub(crate) config: AgentConfig,
}

/// Most ranks of one host: what their agent is told must fit into one frame, and a kernel has
/// fewer than twice as many process ids by default.
const RANKS_PER_HOST_MAX: u32 = 16 << 10;

/// Why a job makes no sense as described.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Neither a count nor slots.
    #[error("the number of ranks is missing")]
    NoRankCount,
    /// More ranks than the hosts take.
    #[error("{rank_count} ranks do not fit into {slots} slots")]
    TooFewSlots {
        /// Ranks asked for.
        rank_count: u32,
        /// Slots of all hosts together.
        slots: u32,
    },
    /// More ranks than one host can start.
    #[error("{rank_count} ranks are too many for one host, which takes {RANKS_PER_HOST_MAX}")]
    TooManyRanks {
        /// Ranks asked for.
        rank_count: u32,
    },
    /// Not this machine.
    #[error("host {host} is not this machine, and ranks cannot be started over ssh yet")]
    RemoteHost {
        /// The host.
        host: String,
    },
    /// A rank's identity is the launcher's to give.
    #[error("{variable} says which rank a process is and cannot be set for all of them")]
    IdentityVariable {
        /// The variable.
        variable: String,
    },
    /// There is no such rank.
    #[error("rank {rank} cannot get standard input: the ranks are 0 to {}", world_size - 1)]
    StdinRank {
        /// The rank asked for.
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
            Self::TooFewSlots { rank_count, .. } => {
                Some(format!("give the host more slots, as in -H localhost:{rank_count}"))
            }
            Self::RemoteHost { .. } => Some(
                "leave -H out, or use localhost:N; start remote ranks with your own ssh, \
                      mpirun or srun for now"
                    .into(),
            ),
            Self::TooManyRanks { .. }
            | Self::IdentityVariable { .. }
            | Self::StdinRank { .. }
            | Self::NoPort => None,
        }
    }
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
    refuse_identities(&job.variables)?;
    let rank_count = rank_count(job, facts)?;
    let world_size = rank_count.get();
    if world_size > RANKS_PER_HOST_MAX {
        return Err(PlanError::TooManyRanks { rank_count: world_size });
    }
    if let StdinTarget::Rank(rank) = job.stdin
        && rank >= world_size
    {
        return Err(PlanError::StdinRank { rank, world_size });
    }
    let mut notices = Vec::new();
    let threads = (facts.cores.get() / world_size).max(1);
    let is_set = environment.get(environment::OMP_NUM_THREADS).is_some()
        || job.variables.iter().any(|(name, _)| name == environment::OMP_NUM_THREADS);
    if !is_set {
        notices.push(format!(
            "{}={threads} for each rank ({} cores, {world_size} ranks on {}); -x {}=N changes it",
            environment::OMP_NUM_THREADS,
            facts.cores,
            facts.name,
            environment::OMP_NUM_THREADS
        ));
    }
    let mut variables = environment::for_framework("127.0.0.1", facts.framework_port);
    variables.extend(job.variables.iter().cloned());
    let ranks = (0..world_size).map(|rank| rank_config(rank, world_size, run_id, job)).collect();
    let config = AgentConfig {
        program: job.program.clone(),
        arguments: job.arguments.clone(),
        working_directory: job.working_directory.clone(),
        variables,
        default_variables: environment::defaults(threads),
        ranks,
        grace: job.grace,
    };
    Ok(LaunchPlan {
        run_id,
        world_size,
        nodes: vec![NodePlan { host: facts.name.clone(), config }],
        timeout: job.timeout,
        start_timeout: job.start_timeout,
        stall_report: job.stall_report,
        grace: job.grace,
        stdin: job.stdin,
        output: job.output.clone(),
        notices,
    })
}

fn refuse_identities(variables: &[(OsString, OsString)]) -> Result<(), PlanError> {
    match variables.iter().find(|(name, _)| environment::is_identity(name)) {
        Some((name, _)) => {
            Err(PlanError::IdentityVariable { variable: name.display().to_string() })
        }
        None => Ok(()),
    }
}

fn rank_count(job: &JobSpec, facts: &HostFacts) -> Result<NonZeroU32, PlanError> {
    if let Some(remote) = job.hosts.iter().find(|host| !host.is_local(&facts.name)) {
        return Err(PlanError::RemoteHost { host: remote.host.clone() });
    }
    if job.hosts.is_empty() {
        return job.rank_count.ok_or(PlanError::NoRankCount);
    }
    let slots = job
        .hosts
        .iter()
        .fold(0_u32, |sum, host| sum.saturating_add(host.slots.map_or(1, NonZeroU32::get)));
    match (job.rank_count, NonZeroU32::new(slots)) {
        (Some(count), _) if count.get() > slots => {
            Err(PlanError::TooFewSlots { rank_count: count.get(), slots })
        }
        (Some(count), _) => Ok(count),
        (None, Some(slots)) => Ok(slots),
        (None, None) => Err(PlanError::NoRankCount),
    }
}

fn rank_config(rank: u32, world_size: u32, run_id: RunId, job: &JobSpec) -> RankConfig {
    let place = RankInfo {
        rank,
        world_size,
        local_rank: rank,
        local_size: world_size,
        node_rank: 0,
        node_count: 1,
        run_id: Some(run_id),
        epoch: 0,
        device: DeviceAssignment::None,
        dialect: Dialect::Paceline,
    };
    let has_input = matches!(job.stdin, StdinTarget::All) || job.stdin == StdinTarget::Rank(rank);
    let variables = environment::of_rank(&place, job.open_mpi_variables);
    RankConfig { rank, has_input, variables }
}

impl LaunchPlan {
    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.world_size
    }

    /// What the ranks run, as a shell would need it.
    pub fn command_line(&self) -> String {
        let Some(node) = self.nodes.first() else { return String::new() };
        let arguments = node.config.arguments.iter().map(quoted);
        let words = std::iter::once(node.config.program.display()).chain(arguments);
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The text of `--dry-run`: one block per host, one line per rank, then what they have in common.
impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "run {}: {} ranks on {} host(s)",
            self.run_id,
            self.world_size,
            self.nodes.len()
        )?;
        for (node_rank, node) in self.nodes.iter().enumerate() {
            let config = &node.config;
            writeln!(f, "node {node_rank}: {}", node.host)?;
            write!(f, "  command:   {}", config.program.display())?;
            for argument in &config.arguments {
                write!(f, " {}", quoted(argument))?;
            }
            writeln!(f, "\n  directory: {}", config.working_directory.display())?;
            for rank in &config.ranks {
                let local = value_of(&rank.variables, "PACELINE_LOCAL_RANK");
                let device = value_of(&rank.variables, "PACELINE_DEVICE");
                writeln!(f, "  rank {}: local rank {local}, device {device}", rank.rank)?;
            }
            writeln!(f, "  variables of all ranks:")?;
            for (name, value) in &config.variables {
                writeln!(f, "    {}={}", name.display(), quoted(value))?;
            }
            for (name, value) in &config.default_variables {
                writeln!(f, "    {}={} (unless set)", name.display(), quoted(value))?;
            }
        }
        Ok(())
    }
}

fn value_of(variables: &[(OsString, OsString)], name: &str) -> String {
    let found = variables.iter().find(|(candidate, _)| candidate == name);
    found.map(|(_, value)| value.display().to_string()).unwrap_or_default()
}

/// As a shell would need it.
fn quoted(text: &OsString) -> String {
    let text = text.display().to_string();
    let plain = |character: char| character.is_alphanumeric() || "-_./:=,+@%".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::hosts::HostSlots;
    use crate::program::Program;

    fn facts() -> HostFacts {
        HostFacts {
            name: "node1".into(),
            cores: NonZeroU32::new(8).expect("not zero"),
            framework_port: 20_001,
        }
    }

    fn job(ranks: u32) -> JobSpec {
        let mut job = JobSpec::local(NonZeroU32::MIN, Program::Command("true".into()), vec![]);
        job.rank_count = NonZeroU32::new(ranks);
        job.working_directory = "/tmp".into();
        job
    }

    fn make(job: &JobSpec) -> Result<LaunchPlan, PlanError> {
        let environment: HashMap<String, String> = HashMap::new();
        plan(job, RunId::from_bytes([7; 16]), &facts(), &environment)
    }

    #[test]
    fn ranks_are_numbered_and_told_their_place() {
        let plan = make(&job(3)).expect("sensible");
        assert_eq!(plan.world_size(), 3);
        let config = &plan.nodes[0].config;
        let places: Vec<_> = config
            .ranks
            .iter()
            .map(|rank| {
                ["PACELINE_RANK", "HOROVOD_LOCAL_RANK", "WORLD_SIZE"]
                    .map(|name| value_of(&rank.variables, name))
            })
            .collect();
        assert_eq!(places, [["0", "0", "3"], ["1", "1", "3"], ["2", "2", "3"]]);
        assert_eq!(value_of(&config.variables, "MASTER_PORT"), "20001");
        assert_eq!(value_of(&config.default_variables, "OMP_NUM_THREADS"), "2");
        assert_eq!(plan.notices.len(), 1);
    }

    #[test]
    fn slots_limit_and_supply_the_count() {
        let with = |hosts: &str, ranks: u32| {
            let hosts = HostSlots::parse_list(hosts).expect("well formed");
            make(&JobSpec { hosts, ..job(ranks) }).map(|plan| plan.world_size())
        };
        assert_eq!(with("localhost:4", 0), Ok(4));
        assert_eq!(with("localhost:4", 2), Ok(2));
        assert_eq!(with("localhost", 0), Ok(1));
        let refused = with("localhost:2", 3);
        assert_eq!(refused, Err(PlanError::TooFewSlots { rank_count: 3, slots: 2 }));
        assert_eq!(with("other:2", 2), Err(PlanError::RemoteHost { host: "other".into() }));
        assert_eq!(make(&job(0)).map(|plan| plan.world_size()), Err(PlanError::NoRankCount));
    }

    #[test]
    fn absurd_numbers_of_ranks_are_refused_before_memory_is_taken_for_them() {
        let refused = make(&job(u32::MAX)).map(|plan| plan.world_size());
        assert_eq!(refused, Err(PlanError::TooManyRanks { rank_count: u32::MAX }));
        assert!(make(&job(RANKS_PER_HOST_MAX)).is_ok());
    }

    #[test]
    fn identities_cannot_be_set_by_hand_and_frameworks_variables_can() {
        let with = |name: &str| {
            let variables = vec![(name.into(), "5".into())];
            make(&JobSpec { variables, ..job(1) })
        };
        assert!(matches!(with("RANK"), Err(PlanError::IdentityVariable { .. })));
        let plan = with("MASTER_PORT").expect("allowed");
        let last = plan.nodes[0].config.variables.last().cloned();
        assert_eq!(last, Some(("MASTER_PORT".into(), "5".into())));
    }

    #[test]
    fn a_thread_count_that_is_set_is_kept() {
        let variables = vec![("OMP_NUM_THREADS".into(), "3".into())];
        assert!(make(&JobSpec { variables, ..job(1) }).expect("sensible").notices.is_empty());
    }

    #[test]
    fn the_dry_run_shows_what_would_be_run() {
        let arguments = vec!["a b".into(), "it's".into(), String::new().into()];
        let text = make(&JobSpec { arguments, ..job(2) }).expect("sensible").to_string();
        assert!(text.contains(r"command:   true 'a b' 'it'\''s' ''"), "{text}");
        assert!(text.contains("rank 1: local rank 1, device none"), "{text}");
        assert!(text.contains("OMP_NUM_THREADS=4 (unless set)"), "{text}");
    }
}

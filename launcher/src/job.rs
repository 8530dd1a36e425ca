//! What the user asks for.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use paceline_rendezvous::Fraction;
use paceline_rendezvous::bootstrap::DEFAULT_STALL_REPORT;
use paceline_rendezvous::env::{PortRange, ProcessEnvironment, RankList};

use crate::agent::binding::BindTo;
use crate::device::GpuVisibility;
use crate::environment::Passed;
use crate::hosts::HostList;
use crate::networks::InterfaceRules;
use crate::output::prefix::PrefixTemplate;
use crate::plan::MapBy;
use crate::program::Program;
use crate::run::SshOptions;
use crate::task::{MoreRanks, Task};
use crate::wrap::Wrapper;

/// Time between SIGTERM and SIGKILL: long enough to write a checkpoint of a small model.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Time for all ranks of a job to be started.
pub const START_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// A job, as the user describes it. [`crate::plan()`] turns it into what each host does.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Number of ranks; may be left out where hosts or `ranks_per_host` say how many there is room
    /// for.
    pub rank_count: Option<NonZeroU32>,
    /// Hosts to use, in order of ranks; none means this one, or those of a rank file.
    pub hosts: HostList,
    /// Use so many of the hosts, the first ones; `None` for all that there are ranks for.
    pub host_count: Option<NonZeroU32>,
    /// Ranks of each host, however many slots beyond that it has.
    pub ranks_per_host: Option<NonZeroU32>,
    /// The order in which ranks are dealt to hosts.
    pub map_by: MapBy,
    /// What the first ranks run: all but those of `others`.
    pub task: Task,
    /// Ranks that run something else, in order; `rank_count`, which must be given, counts them, too.
    pub others: Vec<MoreRanks>,
    /// Where the ranks start.
    pub working_directory: PathBuf,
    /// Variables to set for every rank. Those that say which rank a process is are refused.
    pub variables: Vec<(OsString, OsString)>,
    /// Variables of this process that ranks on other hosts get, before those of `variables`; ranks on
    /// this host inherit all.
    pub passed_on: Vec<(OsString, OsString)>,
    /// What each rank runs under.
    pub wrapper: Option<Wrapper>,
    /// What the ranks of each host are bound to.
    pub bind_to: BindTo,
    /// The share of its device that each rank gets, where devices are listed; less than all of it lets
    /// ranks share one.
    pub gpu_fraction: Fraction,
    /// Which GPUs a rank sees, where devices are listed.
    pub gpu_visibility: GpuVisibility,
    /// Give the ranks TF_CONFIG, by which TensorFlow's workers find each other.
    pub tensorflow: bool,
    /// Between SIGTERM and SIGKILL when ranks are stopped.
    pub grace: Duration,
    /// Longest time for the whole job; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Longest time until all ranks have been started.
    pub start_timeout: Duration,
    /// How long ranks wait in an operation before that is worth a warning; `None` for never.
    pub stall_report: Option<Duration>,
    /// Look at what ranks are doing before they are stopped because a time limit has run out.
    pub stacks_on_timeout: bool,
    /// Which ranks get our standard input; the others read /dev/null.
    pub stdin: StdinTarget,
    /// What becomes of the ranks' output.
    pub output: OutputOptions,
    /// How other hosts are reached.
    pub ssh: SshOptions,
    /// Over which network ranks on several hosts talk to each other; measured where nothing is said.
    pub interface: InterfaceRules,
    /// The ports that ranks listen on, as far as they may be tried before the job starts.
    pub port_range: PortRange,
    /// Give the ranks Open MPI's variables, too: some programs then expect Open MPI's daemons.
    pub open_mpi_variables: bool,
}

/// Which ranks get our standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StdinTarget {
    /// None: our standard input is not touched.
    #[default]
    None,
    /// One.
    Rank(u32),
    /// Each gets all of it, at the pace of the slowest.
    All,
}

/// Whether a line that several ranks print within a moment is shown once, with a list of them.
///
/// Prefixes must name the ranks for that; where they do not, every line is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fold {
    /// Where the stream is a terminal: people read it, and what programs read stays a line per rank.
    #[default]
    Auto,
    /// Wherever it goes.
    On,
    /// Nowhere.
    Off,
}

/// What becomes of the ranks' output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputOptions {
    /// Put this before each line; `None` leaves the bytes as they are.
    pub prefix: Option<PrefixTemplate>,
    /// Show the output of these ranks only; `None` for all. Files have that of all ranks.
    pub shown: Option<RankList>,
    /// Whether a line that several ranks print is shown once, with a list of them. Files have it of each.
    pub fold: Fold,
    /// Also write `DIR/rank.NN/stdout` and `DIR/rank.NN/stderr`.
    pub directory: Option<PathBuf>,
}

impl Default for OutputOptions {
    /// What `paceline run` does without options.
    fn default() -> Self {
        let prefix = Some(PrefixTemplate::default());
        Self { prefix, shown: None, fold: Fold::default(), directory: None }
    }
}

impl JobSpec {
    /// A job of `rank_count` ranks on this host with every option at its default.
    pub fn local(rank_count: NonZeroU32, program: Program, arguments: Vec<OsString>) -> Self {
        Self {
            rank_count: Some(rank_count),
            hosts: HostList::default(),
            host_count: None,
            ranks_per_host: None,
            map_by: MapBy::Slot,
            task: Task::new(program, arguments),
            others: Vec::new(),
            working_directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            variables: Vec::new(),
            passed_on: Passed::Usual.of(ProcessEnvironment.all()),
            wrapper: None,
            bind_to: BindTo::None,
            gpu_fraction: Fraction::WHOLE,
            gpu_visibility: GpuVisibility::Host,
            tensorflow: false,
            grace: GRACE_DEFAULT,
            timeout: None,
            start_timeout: START_TIMEOUT_DEFAULT,
            stall_report: Some(DEFAULT_STALL_REPORT),
            stacks_on_timeout: false,
            stdin: StdinTarget::None,
            output: OutputOptions::default(),
            ssh: SshOptions::default(),
            interface: InterfaceRules::default(),
            port_range: PortRange::ANY,
            open_mpi_variables: false,
        }
    }
}

//! Hosts and slots to a plan, an agent per host, supervised ranks, an exit code.
//!
//! A [`JobSpec`] says what the user wants. [`plan()`] turns it into a [`LaunchPlan`] without asking
//! or starting anything. [`run()`] starts an agent per host ([`run_agent`] is its main function),
//! which starts and watches the ranks; it returns an [`Outcome`] once no process of the job is
//! left, and the [`ExitCode`] follows from that.
//!
//! This crate moves environment variables, bytes of output and signals. It deliberately knows
//! nothing of tensors, transports or devices.
//!
//! # Processes
//!
//! ```text
//! paceline run (subreaper, coordinator)
//! └── paceline agent (own session, subreaper, one per host)
//!     ├── rank 0 (own process group, killed by the kernel if the agent dies)
//!     │   └── whatever it starts
//!     └── rank 1 …
//! ```
//!
//! * The launcher dies: the agent sees the end of its input and ends everything below it, within the
//!   grace and 5 s, and removes the launcher's card.
//! * The agent dies: the kernel kills the ranks, the launcher inherits their children and kills
//!   them.
//! * Both die at once, by SIGKILL: the kernel kills the ranks at once. Nobody is left to find what the
//!   ranks have started. The next job removes the launcher's card.
//! * A rank dies: the others are told, then stopped.
//!
//! # Thread safety
//!
//! [`run()`] blocks the calling thread and owns the process's signals and children while it runs.

mod agent;
mod device;
pub mod doctor;
mod environment;
mod exit_code;
mod hosts;
mod job;
mod machine;
mod networks;
mod output;
mod plan;
pub mod probe;
mod process;
mod program;
mod protocol;
mod refusal;
mod run;
#[cfg(feature = "testing")]
pub mod stage;
mod task;
mod wrap;

pub use agent::binding::BindTo;
pub use agent::run_agent;
pub use device::GpuVisibility;
pub use environment::Passed;
pub use exit_code::ExitCode;
pub use hosts::{
    ConflictKind, DeviceError, DeviceName, GpuList, GpuListError, HostConflict, HostError,
    HostFileError, HostLineProblem, HostList, HostProblem, HostSlots, LineHint, LineProblem,
    LocalRule, RangeError, SelectionError, TextFileError, parse_hostfile, select,
};
pub use job::{Fold, GRACE_DEFAULT, JobSpec, OutputOptions, START_TIMEOUT_DEFAULT, StdinTarget};
pub use networks::{InterfaceRules, NetworkChoice, NetworkReport, ParseInterfaceRulesError};
pub use output::Stream;
pub use output::prefix::{PrefixError, PrefixTemplate};
pub use plan::{
    CommandSummary, HostFacts, HostSummary, LaunchPlan, MapBy, PLAN_SCHEMA, Placed, PlacementError,
    PlanError, PlanSummary, RankFile, RankFileError, RankLineProblem, RankPlace, RankSummary,
    Rules, VariableSummary, parse_rank_file, place, plan, shell_line,
};
pub use process::descendants::ProcessName;
pub use process::memory::OutOfMemory;
pub use process::wait::{Ending, ResourceUsage};
pub use program::Program;
pub use protocol::codec::FrameError;
#[cfg(feature = "testing")]
pub use protocol::hostile::check_agent_protocol;
pub use protocol::link::LinkError;
pub use protocol::messages::{LeftBehind, RankExit};
pub use refusal::Refusal;
pub use run::{
    AgentCommand, JobEvent, LateHost, MetricsError, MetricsListener, Outcome, RankExited,
    RankFailure, RankOutcome, RankStacks, RunError, SshOptions, Survivor, Unreached, Verdict,
    rank_ranges, run, run_with, tell,
};
pub use task::{MoreRanks, Task};
pub use wrap::{WrapError, Wrapper};

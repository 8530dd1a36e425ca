//! Carrying out a plan: agents started, output moved, signals passed on, everything ended.

pub(crate) mod agents;
mod conductor;
mod copying;
mod director;
mod ending;
mod events;
mod gathering;
mod input;
mod meeting;
mod metrics;
mod outcome;
mod report;
mod setup;
pub(crate) mod ssh;
mod starting;
pub(crate) mod terminal;
mod tunnels;
mod words;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use paceline_rendezvous::coordinator::ServerError;
use paceline_rendezvous::{Secret, SecretError};
use rustix::process::{getpid, set_child_subreaper};
use thiserror::Error;

pub use agents::AgentCommand;
pub(crate) use agents::Source;
pub use events::{JobEvent, RankExited};
pub use metrics::{MetricsError, MetricsListener};
pub use outcome::{
    LateHost, Outcome, RankFailure, RankOutcome, RankStacks, Survivor, Unreached, Verdict,
};
pub use report::rank_ranges;
pub use ssh::SshOptions;

use crate::ExitCode;
use crate::plan::LaunchPlan;
use crate::process::heap;
use crate::protocol::link::LinkError;

/// Why a job was not even started.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The kernel refuses what supervision needs.
    #[error("failed to {operation}")]
    System {
        /// What, as the end of "failed to".
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent's binary cannot be started.
    #[error("failed to start the agent {}", program.display())]
    StartAgent {
        /// The binary.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The agent cannot be talked to.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A file for a rank's output cannot be created.
    #[error("failed to create {}", path.display())]
    OutputFile {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// This binary cannot be told from other builds.
    #[error("this paceline has no build id, so a copy of it could not be told from another build")]
    NoBuildId,
    /// No secret could be made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The coordinator cannot be started.
    #[error(transparent)]
    Coordinator(#[from] ServerError),
}

impl RunError {
    /// What the launcher returns for it.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::LauncherFailed
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OutputFile { .. } => {
                Some("--output-filename DIR needs a directory that can be written".into())
            }
            Self::StartAgent { program, .. } if program.as_os_str() == "ssh" => Some(
                "other hosts are reached by OpenSSH's client, ssh, which has to be in the PATH"
                    .into(),
            ),
            Self::NoBuildId => Some(
                "copy it by hand and name it with --remote-program, or link it with --build-id"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Runs a job to its end. Blocks; returns when no process of the job is left.
///
/// The calling process becomes a subreaper, takes SIGINT, SIGTERM, SIGHUP, SIGQUIT and the signals
/// that are passed on, and must not start other children meanwhile. Ranks' output goes to this
/// process's standard output and error. Whoever asks at `metrics` is told about the job meanwhile.
///
/// # Errors
/// The job was not started; nothing is left behind. Failures after the start are in the
/// [`Outcome`].
pub fn run(
    plan: LaunchPlan,
    agent: &AgentCommand,
    metrics: Option<MetricsListener>,
) -> Result<Outcome, RunError> {
    run_with(plan, agent, metrics, |_| Vec::new())
}

/// [`run`], telling `on_event` what happens as it happens; [`JobEvent::Finished`] comes last.
///
/// While `on_event` runs nothing else is done for the job, so it must not wait for anybody: not even for
/// whoever reads standard error. What the user is to hear of an event it returns, a line each.
///
/// # Errors
/// As [`run`]; nothing has happened then, or nothing is left of it.
pub fn run_with(
    plan: LaunchPlan,
    agent: &AgentCommand,
    metrics: Option<MetricsListener>,
    mut on_event: impl FnMut(&JobEvent) -> Vec<String>,
) -> Result<Outcome, RunError> {
    run_from(plan, Source::Command(agent.clone()), metrics, &mut on_event)
}

pub(crate) fn run_from(
    plan: LaunchPlan,
    source: Source,
    metrics: Option<MetricsListener>,
    on_event: &mut dyn FnMut(&JobEvent) -> Vec<String>,
) -> Result<Outcome, RunError> {
    let system = |operation| move |source| RunError::System { operation, source };
    heap::keep_buffers();
    // If an agent dies, what it had started becomes ours to end.
    set_child_subreaper(Some(getpid()))
        .map_err(|error| system("become the parent of orphans")(error.into()))?;
    let secret = Secret::random()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the supervisor"))?;
    let outcome = runtime.block_on(conductor::conduct(plan, source, secret, metrics, on_event));
    // A thread that is stuck in a write must not keep us.
    runtime.shutdown_timeout(Duration::ZERO);
    outcome
}

/// Says these lines on standard error once a job is over. Blocks until somebody has taken them, or until
/// a signal that would have ended the job says that nobody will: its number is returned.
pub fn tell(lines: Vec<String>) -> Option<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let signal = runtime.block_on(terminal::tell(lines));
    runtime.shutdown_timeout(Duration::ZERO);
    signal
}

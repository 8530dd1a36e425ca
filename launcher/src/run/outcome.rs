//! What became of a job.

use std::path::PathBuf;
use std::time::Duration;

use crate::ExitCode;
use crate::process::descendants::ProcessName;
use crate::process::wait::Ending;
use crate::protocol::messages::{LeftBehind, RankExit};
use crate::refusal::Refusal;

/// Why a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Every rank exited with 0.
    Success,
    /// This rank failed before any other did.
    RankFailed(RankFailure),
    /// A host could not start its ranks.
    Refused(Refusal),
    /// No agent came up on these hosts.
    Unreached(Vec<Unreached>),
    /// The agent of a host is of another version.
    OtherVersion {
        /// The host.
        host: String,
        /// Its version of paceline.
        theirs: String,
    },
    /// What a host is to be told does not fit into a message.
    PlanTooLarge {
        /// The size, and what is allowed.
        reason: String,
    },
    /// The hosts cannot meet.
    NoNetwork {
        /// Why: a sentence without its full stop.
        reason: String,
    },
    /// A signal to the launcher.
    Interrupted {
        /// Its number.
        signal: i32,
    },
    /// A signal to an agent.
    AgentInterrupted {
        /// The agent's host.
        host: String,
        /// Number of the signal.
        signal: i32,
    },
    /// The job took longer than allowed.
    TimedOut {
        /// What was allowed.
        limit: Duration,
    },
    /// Not all ranks had been started in time.
    StartTimedOut {
        /// What was allowed.
        limit: Duration,
        /// Hosts whose ranks had not: those without an agent, if there are any.
        hosts: Vec<LateHost>,
    },
    /// Nobody reads our standard output any more.
    OutputClosed,
    /// Output could not be written.
    OutputFailed {
        /// The file, or `None` for one of our own streams.
        path: Option<PathBuf>,
        /// The system's words.
        reason: String,
    },
    /// An agent ended, or stopped making sense, while ranks ran.
    AgentLost {
        /// The agent's host.
        host: String,
        /// The agent's process id on its host.
        pid: i32,
        /// Whether ssh led to it, and `ending` is that of ssh.
        by_ssh: bool,
        /// How it ended, where that is known.
        ending: Option<Ending>,
        /// What it said that made no sense.
        reason: Option<String>,
    },
}

impl Verdict {
    /// What the launcher returns for it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Success => ExitCode::Success,
            Self::RankFailed(failure) => match failure.exit.ending {
                Ending::Code(code) => ExitCode::Worker(code),
                Ending::Signal(signal) => ExitCode::WorkerSignal(signal),
            },
            Self::Refused(refusal) => refusal.exit_code(),
            Self::Interrupted { signal } => {
                ExitCode::Interrupted(u8::try_from(*signal).unwrap_or(0))
            }
            Self::TimedOut { .. } | Self::StartTimedOut { .. } => ExitCode::TimedOut,
            // What a program gets that writes to a pipe without a reader: SIGPIPE.
            Self::OutputClosed => ExitCode::Interrupted(13),
            Self::Unreached(_)
            | Self::OtherVersion { .. }
            | Self::NoNetwork { .. }
            | Self::PlanTooLarge { .. }
            | Self::AgentInterrupted { .. }
            | Self::OutputFailed { .. }
            | Self::AgentLost { .. } => ExitCode::LauncherFailed,
        }
    }
}

/// A host whose ranks were not started in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateHost {
    /// The host.
    pub host: String,
    /// Whether its agent had come up.
    pub has_agent: bool,
}

/// A host on which no agent came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreached {
    /// The host.
    pub host: String,
    /// How ssh, or the agent, ended, where that is known.
    pub ending: Option<Ending>,
    /// The last lines that it wrote to standard error, oldest first.
    pub words: Vec<String>,
    /// What it said that made no sense.
    pub reason: Option<String>,
}

/// The first rank that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankFailure {
    /// How it ended.
    pub exit: RankExit,
    /// Its host.
    pub host: String,
    /// The last lines that it wrote to standard error, oldest first.
    pub last_lines: Vec<String>,
    /// What the coordinator had told all ranks before, where that is not about this rank.
    pub cause: Option<String>,
}

/// What became of one rank.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RankOutcome {
    /// It was never started.
    NotStarted,
    /// It ended by itself, before anything failed or with code 0.
    Ended(RankExit),
    /// It failed by itself, after the first failure.
    FailedAfter(RankExit),
    /// We ended it.
    Stopped(RankExit),
    /// It was started and nobody knows more: its agent was lost.
    Unknown,
}

/// A process of the job that even SIGKILL did not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its host.
    pub host: String,
    /// The rank that it is, or that had started it, if that can be told.
    pub rank: Option<u32>,
    /// The process.
    pub process: ProcessName,
    /// Its state as the kernel abbreviates it: `D` is uninterruptible sleep.
    pub state: char,
}

/// What a rank was doing when time ran out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankStacks {
    /// The rank.
    pub rank: u32,
    /// Its host.
    pub host: String,
    /// Its processes and threads, and what debuggers say of them.
    pub lines: Vec<String>,
}

/// What became of a job.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Why it ended.
    pub verdict: Verdict,
    /// What became of each rank, in order.
    pub ranks: Vec<RankOutcome>,
    /// Processes that ranks had started and that outlived them; they were ended.
    pub left_behind: Vec<LeftBehind>,
    /// Processes of the job that even SIGKILL did not end.
    pub survivors: Vec<Survivor>,
    /// What ranks were doing when time ran out, where that was asked for.
    pub stacks: Vec<RankStacks>,
    /// Between SIGTERM and SIGKILL, as the user had chosen.
    pub grace: Duration,
}

impl Outcome {
    /// What the launcher returns: that of the verdict, except that no job is a success of which something
    /// still runs.
    pub fn exit_code(&self) -> ExitCode {
        match self.verdict.exit_code() {
            ExitCode::Success if !self.survivors.is_empty() => ExitCode::LauncherFailed,
            code => code,
        }
    }
}

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use paceline_rendezvous::env;
use paceline_rendezvous::message::{CommunicatorName, message_place};
use paceline_rendezvous::{Abort, BootstrapError, ControlError, StoreError};
use paceline_transports::{EndpointError, EstablishError, OpError, RegionError};

use crate::signature::{Collective, OperationKind};
use crate::timeline::OperationLabel;
use crate::tune::PlanFault;

/// Names one operation to people: `all_reduce #17 (1048576 f32, sum, by ring)`, and if it is not of
/// the first communicator `all_reduce #17 of communicator 2 (…)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationName {
    /// What it is.
    pub kind: OperationKind,
    /// The number of its communicator in the context, from 0; the largest number for the agreement
    /// that opens a context.
    pub communicator: u32,
    /// Its number in the communicator, from 0. Messages between two ranks have numbers of their own,
    /// in which tag and order are found by `message_place`.
    pub op_seq: u64,
}

/// The communicator in which the ranks of a new context agree on their plan.
pub(crate) const AGREEMENT_COMMUNICATOR: u32 = paceline_rendezvous::message::NO_COMMUNICATOR;

impl OperationName {
    /// What it is called on a timeline.
    pub(crate) fn label(&self) -> OperationLabel {
        let Self { kind, communicator, op_seq } = *self;
        OperationLabel { collective: kind.collective.name(), communicator, op_seq }
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match message_place(self.op_seq) {
            Some((tag, order)) => write!(f, "{} #{order} with tag {tag}", self.kind.collective)?,
            None => write!(f, "{} #{}", self.kind.collective, self.op_seq)?,
        }
        if !matches!(self.communicator, 0 | AGREEMENT_COMMUNICATOR) {
            write!(f, " of {}", CommunicatorName(self.communicator))?;
        }
        let details = self.kind.details();
        if details.is_empty() { Ok(()) } else { write!(f, " ({details})") }
    }
}

/// Why a collective operation failed. Its buffers are quiescent when it is returned, their
/// contents unspecified, and the communicator takes no further operations.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// The arguments make no sense; nothing was sent and the communicator is as before.
    #[error("{collective}: {what}")]
    InvalidArgument {
        /// Which call.
        collective: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The connection to a peer died.
    #[error("{operation} failed on rank {rank}: lost rank {peer}")]
    PeerLost {
        /// Which operation.
        operation: OperationName,
        /// On which rank.
        rank: u32,
        /// Who is lost.
        peer: u32,
        /// How.
        #[source]
        source: EndpointError,
    },
    /// Two ranks called different operations.
    #[error("{operation} on rank {rank}, but rank {peer} called {theirs}")]
    Mismatch {
        /// What this rank called.
        operation: OperationName,
        /// This rank.
        rank: u32,
        /// The other rank.
        peer: u32,
        /// What it called.
        theirs: String,
    },
    /// A message did not fit.
    #[error("{operation} failed on rank {rank}: bad message from rank {peer}")]
    Message {
        /// Which operation.
        operation: OperationName,
        /// On which rank.
        rank: u32,
        /// From whom.
        peer: u32,
        /// What was wrong.
        #[source]
        source: OpError,
    },
    /// The deadline has passed.
    #[error(
        "{operation} timed out on rank {rank} after {:.1} s: {}",
        .waited.as_secs_f64(),
        .verdict.clone().unwrap_or_else(|| waiting(.waiting_on).into())
    )]
    TimedOut {
        /// Which operation.
        operation: OperationName,
        /// On which rank.
        rank: u32,
        /// How long it waited.
        waited: Duration,
        /// For whom.
        waiting_on: Vec<u32>,
        /// The rank to blame, if one could be named.
        culprit: Option<u32>,
        /// What the coordinator found out from the reports of all ranks.
        verdict: Option<Box<str>>,
    },
    /// The job ended this operation because something failed elsewhere.
    #[error("{operation} was aborted on rank {rank}: {reason}")]
    Aborted {
        /// Which operation.
        operation: OperationName,
        /// On which rank.
        rank: u32,
        /// The rank to blame, if one could be named.
        culprit: Option<u32>,
        /// Whether a time limit ran out elsewhere, as it soon would have here.
        timed_out: bool,
        /// What happened.
        reason: String,
    },
    /// An earlier operation failed.
    #[error("{collective} on a communicator that has failed before: {first}")]
    Poisoned {
        /// What was called.
        collective: &'static str,
        /// The first failure.
        first: String,
    },
    /// Memory, or another resource of this process, cannot be had.
    #[error("{collective}: {message}")]
    Memory {
        /// What was called.
        collective: &'static str,
        /// What could not be had.
        message: String,
    },
}

fn waiting(on: &[u32]) -> String {
    match on {
        [] => "waiting for the network".to_owned(),
        peers => format!("waiting for {}", ranks(peers)),
    }
}

fn ranks(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(u32::to_string).collect();
    format!("rank{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

impl CollectiveError {
    /// Whether the deadline passed, here or on another rank of the operation.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Aborted { timed_out: true, .. })
    }

    /// The operation that failed, where it had begun.
    pub(crate) fn operation(&self) -> Option<OperationName> {
        match self {
            Self::PeerLost { operation, .. }
            | Self::Mismatch { operation, .. }
            | Self::Message { operation, .. }
            | Self::TimedOut { operation, .. }
            | Self::Aborted { operation, .. } => Some(*operation),
            _ => None,
        }
    }

    /// The rank to blame, if it is known.
    pub fn culprit(&self) -> Option<u32> {
        match self {
            Self::PeerLost { peer, .. }
            | Self::Mismatch { peer, .. }
            | Self::Message { peer, .. } => Some(*peer),
            Self::Aborted { culprit, .. } | Self::TimedOut { culprit, .. } => *culprit,
            _ => None,
        }
    }

    /// What happened, without the operation and the rank that it happened to: completes
    /// "all_reduce #3 failed on rank 2: …", which is how the other ranks are told.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::PeerLost { peer, source, .. } => format!("lost rank {peer}: {source}"),
            Self::Mismatch { operation, peer, theirs, .. } => {
                format!("it called {}, but rank {peer} called {theirs}", operation.kind)
            }
            Self::Message { peer, source, .. } => format!("bad message from rank {peer}: {source}"),
            Self::Memory { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the communicator takes no further operations.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::InvalidArgument { .. })
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::PeerLost { peer, source, .. } => {
                source.hint().or_else(|| Some(format!("see how rank {peer} ended")))
            }
            Self::Mismatch { operation, .. } if operation.kind.collective.is_message() => Some(
                "messages of one tag are received in the order in which they are sent; counts and \
                 types must be equal on both sides"
                    .to_owned(),
            ),
            Self::TimedOut { operation, .. } if operation.kind.collective == Collective::Send => {
                Some(
                    "a long message is sent when the other side receives it; ranks that send to \
                     each other post both directions together, as a batch"
                        .to_owned(),
                )
            }
            Self::Mismatch { .. } => Some(
                "all ranks must call the same operations in the same order, with equal counts and \
                 types"
                    .to_owned(),
            ),
            Self::TimedOut { .. } => Some(
                "if a rank may be that late, allow it more with --op-timeout (PACELINE_TIMEOUT)"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Why a context could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The process did not find its job.
    #[error("cannot join the job")]
    Bootstrap(#[from] BootstrapError),
    /// An option or variable makes no sense.
    #[error("{0}")]
    Option(String),
    /// The value of a variable makes no sense.
    #[error("{variable}={value:?} is invalid: {why}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// No network interface of a rank's host is the one that was asked for; the same on all ranks.
    #[error("the network interface that was asked for is not there")]
    Interface(#[source] EstablishError),
    /// Rank 0 cannot use the file of the plan; the same on all ranks.
    #[error("rank 0 cannot {fault} the plan {what}")]
    Plan {
        /// What it cannot do.
        fault: PlanFault,
        /// Which file, and why not.
        what: String,
    },
    /// The ranks' data could not be exchanged.
    #[error("cannot exchange addresses with the other ranks")]
    Store(#[from] StoreError),
    /// Ranks have not come in time: they did not make a context, or got stuck while they did.
    #[error("{} did not connect within {:.1} s", ranks(.missing), .waited.as_secs_f64())]
    Absent {
        /// Which ranks, the first few of them.
        missing: Vec<u32>,
        /// How long this rank waited.
        waited: Duration,
    },
    /// The connections could not be made.
    #[error("cannot connect the ranks over {transport}")]
    Establish {
        /// The transport.
        transport: &'static str,
        /// Why not.
        #[source]
        source: EstablishError,
    },
    /// The control connection failed.
    #[error("lost the job's coordinator")]
    Control(#[from] ControlError),
    /// The ranks did not meet in the next epoch.
    #[error("the next epoch did not begin: {abort}")]
    NextEpoch {
        /// Why, and who is to blame. The ranks are still in the epoch that it names.
        abort: Abort,
    },
    /// What another rank published cannot be understood.
    #[error("rank {peer} published something unusable: {what}")]
    Peer {
        /// Which rank.
        peer: u32,
        /// What is wrong.
        what: String,
    },
    /// The ranks do not agree on the plan, or one of them is lost already.
    #[error("the ranks cannot agree on a plan")]
    Agreement(#[source] Box<CollectiveError>),
    /// The exchange that forms groups failed.
    #[error("the ranks cannot form groups")]
    Split(#[source] Box<CollectiveError>),
    /// Memory cannot be had.
    #[error("no memory for staging")]
    Memory(#[from] RegionError),
    /// The timeline cannot be written.
    #[error("cannot write the timeline {}", path.display())]
    Timeline {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl SetupError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bootstrap(error) => error.hint(),
            Self::Split(error) => error.hint(),
            Self::Establish { source, .. } | Self::Interface(source) => source.hint(),
            Self::Setting { variable, .. } => {
                env::find(variable).map(|known| format!("{variable}: {}", known.summary()))
            }
            Self::Plan { fault, .. } => Some(fault.hint().to_owned()),
            Self::Timeline { .. } => Some(
                "--timeline (PACELINE_TIMELINE) names a file in a directory that exists and that the \
                 ranks may write to"
                    .to_owned(),
            ),
            Self::Absent { .. } => Some(
                "see whether these ranks started and what they do; --start-timeout \
                 (PACELINE_START_TIMEOUT) gives them longer"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

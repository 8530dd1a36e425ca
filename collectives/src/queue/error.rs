use std::fmt;
use std::time::Duration;

use crate::error::CollectiveError;

/// Why a queued operation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The arguments make no sense; nothing was submitted.
    #[error("cannot submit {name}")]
    Submit {
        /// The tensor.
        name: String,
        /// What is wrong.
        #[source]
        source: Box<CollectiveError>,
    },
    /// A tensor of the same name is still under way on this rank.
    #[error("cannot submit {name}: the one submitted before is not complete")]
    Duplicate {
        /// The tensor.
        name: String,
    },
    /// This rank has said that it has no more data, and not all others have.
    #[error("cannot submit {name}: this rank has joined, and waits for the others to join")]
    Joined {
        /// The tensor, or `join`.
        name: String,
    },
    /// Ranks submitted different things under one name. Other tensors are not affected.
    #[error("the ranks disagree on {name}: {sides}")]
    Mismatch {
        /// The tensor.
        name: String,
        /// Who submitted what.
        sides: String,
    },
    /// Some ranks have not submitted the tensor in time. Other tensors are not affected; a rank that
    /// submits it later gets the same error, once.
    #[error("{name} was not submitted by {} within {:.1} s", name_ranks(.missing), .waited.as_secs_f64())]
    Stalled {
        /// The tensor.
        name: String,
        /// Who did not submit it.
        missing: Vec<u32>,
        /// How long the first rank that did has waited.
        waited: Duration,
    },
    /// A rank has joined whose part in the operation nothing can stand in for.
    #[error("{name} cannot be completed: {} joined, {reason}", name_ranks(.joined))]
    Unjoinable {
        /// The tensor.
        name: String,
        /// Who has joined.
        joined: Vec<u32>,
        /// Why that matters.
        reason: &'static str,
    },
    /// These ranks have dropped their queues: nothing can be completed any more.
    #[error("{} closed the queue", name_ranks(.ranks))]
    Closed {
        /// Which ranks.
        ranks: Vec<u32>,
    },
    /// The communicator failed, and with it the queue.
    #[error("the queue failed{}", .during.as_ref().map(|during| format!(" {during}")).unwrap_or_default())]
    Communicator {
        /// What it was doing, with the names of tensors; `None` if it had nothing to do.
        during: Option<String>,
        /// How it failed.
        #[source]
        source: Box<CollectiveError>,
    },
    /// Another rank said something that makes no sense.
    #[error("rank {rank} of the queue announced something unusable: {what}")]
    Announcement {
        /// Which rank.
        rank: u32,
        /// What is wrong with it.
        what: String,
    },
    /// The thread of the queue panicked: a bug, or an operator of the user's.
    #[error("the queue panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The queue's thread cannot be started.
    #[error("cannot start the thread of the queue: {message}")]
    Thread {
        /// What the system said.
        message: String,
    },
}

pub(super) fn name_ranks(ranks: &[u32]) -> String {
    let names: Vec<String> = ranks.iter().map(u32::to_string).collect();
    format!("rank{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

impl QueueError {
    /// Whether the queue takes no further operations.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Submit { .. }
            | Self::Duplicate { .. }
            | Self::Joined { .. }
            | Self::Mismatch { .. }
            | Self::Stalled { .. }
            | Self::Unjoinable { .. } => false,
            Self::Closed { .. }
            | Self::Communicator { .. }
            | Self::Announcement { .. }
            | Self::Panicked { .. }
            | Self::Thread { .. } => true,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Submit { source, .. } | Self::Communicator { source, .. } => source.hint(),
            Self::Duplicate { .. } => {
                Some("give every tensor that is under way a name of its own".to_owned())
            }
            Self::Mismatch { .. } => Some(
                "all ranks must submit a tensor with equal collective, type, operator, counts, root, \
                 compression and priority"
                    .to_owned(),
            ),
            Self::Stalled { .. } => Some(
                "see what these ranks do; --op-timeout (PACELINE_TIMEOUT) gives them longer, and \
                 a rank without data can join()"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// A queued operation that failed, with what was submitted.
pub struct Failed<B> {
    /// Why.
    pub error: QueueError,
    /// What was submitted, its contents unspecified unless it was refused at once. `None` for what
    /// has no buffer.
    pub buffer: Option<B>,
}

impl<B> fmt::Debug for Failed<B> {
    /// Without the buffer, which may be long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<B> fmt::Display for Failed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> std::error::Error for Failed<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl<B> From<Failed<B>> for QueueError {
    fn from(failed: Failed<B>) -> Self {
        failed.error
    }
}

//! What a context has moved, done and waited for, as plain numbers.

use std::time::Duration;

use paceline_transports::{TransportKind, TwoWay};
use serde::Serialize;

use crate::signature::Collective;

/// What the communicators of one context have moved and done on this rank since it was made, and
/// what they are in. To be had by [`Context::counters`](crate::Context::counters) at any time, from
/// any thread: also while operations run, or do not end.
///
/// All counts are of this rank alone. Where nothing is under way, what one rank counts as sent to
/// another the other counts as received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// What has crossed the connection to each peer. The ranks of a node that work in memory which
    /// they share send each other nothing.
    pub peers: Vec<PeerCounters>,
    /// What was completed.
    pub totals: Vec<OperationCounters>,
    /// What is in progress: at most one operation for each communicator.
    pub operations: Vec<OperationInProgress>,
    /// How long operations have waited while nothing moved, together. Waits too short for a look at
    /// the clock, below some microseconds, are not in it.
    pub waited: Duration,
}

/// What has crossed the connection to one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeerCounters {
    /// The rank, in the world.
    pub peer: u32,
    /// What carries the bytes.
    pub transport: TransportKind,
    /// Everything.
    pub total: TwoWay,
    /// The same for each socket or ring.
    pub channels: Vec<TwoWay>,
    /// How long ago a look found that something had moved; `None` if none ever has. Known to within
    /// the time between two looks: in a job with other ranks there is one each second.
    pub idle: Option<Duration>,
}

/// What was completed of one collective, in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OperationCounters {
    /// The collective, as [named](Collective::name).
    #[serde(serialize_with = "name")]
    pub collective: Collective,
    /// Whether in memory that the ranks of a node share, rather than by messages.
    pub shared_memory: bool,
    /// How many operations. A fused one counts once for each operation that it becomes.
    pub operations: u64,
    /// Bytes of their vectors; of messages, those sent or received.
    pub bytes: u64,
}

/// An operation that this rank has entered and not left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OperationInProgress {
    /// The number of its communicator.
    pub communicator: u32,
    /// Its number there.
    pub op_seq: u64,
    /// What it is.
    #[serde(serialize_with = "name")]
    pub collective: Collective,
    /// Bytes of its vector.
    pub bytes: u64,
    /// How long ago a look found the rank in it: at least so long it takes already.
    pub known_for: Duration,
}

fn name<S: serde::Serializer>(collective: &Collective, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(collective.name())
}

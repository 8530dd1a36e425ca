//! What ranks tell each other about the tensors that were submitted to them.

use std::fmt;

use paceline_devices::{DType, ReduceOp};
use serde::{Deserialize, Serialize};

use crate::reduction::Scale;
use crate::signature::Collective;

/// Everything about a submission, but its name, that all ranks must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) verb: Verb,
    /// The code of the element type.
    dtype: u8,
    /// How many elements each of its tensors has.
    pub(super) counts: Vec<u64>,
    /// Higher goes first.
    pub(super) priority: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verb {
    /// With the code of the type on the wire, if that is another than in memory.
    AllReduce(Operator, Option<u8>),
    Adasum,
    ReduceScatter(Operator),
    Broadcast {
        root: u32,
    },
    AllGather,
    AllGatherV,
    AllToAll,
    AllToAllV,
    Barrier,
}

impl Verb {
    fn name(&self) -> &'static str {
        let collective = match self {
            Self::AllReduce(..) => Collective::AllReduce,
            Self::Adasum => Collective::Adasum,
            Self::ReduceScatter(_) => Collective::ReduceScatter,
            Self::Broadcast { .. } => Collective::Broadcast,
            Self::AllGather => Collective::AllGather,
            Self::AllGatherV => Collective::AllGatherV,
            Self::AllToAll => Collective::AllToAll,
            Self::AllToAllV => Collective::AllToAllV,
            Self::Barrier => Collective::Barrier,
        };
        collective.name()
    }

    /// Whether all ranks must have vectors of the same lengths.
    pub(super) fn shares_counts(&self) -> bool {
        !matches!(self, Self::AllGatherV | Self::AllToAllV)
    }
}

/// How vectors are reduced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Operator {
    /// The code of a built-in operator.
    op: Option<u8>,
    /// The name of a user's.
    user: Option<String>,
    /// The factors, bit by bit.
    scale: [u64; 2],
}

impl Operator {
    pub(super) fn new(op: Option<ReduceOp>, user: Option<&str>, scale: Scale) -> Self {
        let scale = [scale.before.to_bits(), scale.after.to_bits()];
        Self { op: op.map(|op| op as u8), user: user.map(str::to_owned), scale }
    }

    /// `None` for a user's.
    pub(super) fn built_in(&self) -> Option<ReduceOp> {
        self.op.and_then(ReduceOp::from_code)
    }

    pub(super) fn scale(&self) -> Scale {
        let [before, after] = self.scale.map(f64::from_bits);
        Scale { before, after }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.built_in().map(ReduceOp::name);
        f.write_str(name.or(self.user.as_deref()).unwrap_or("unknown"))?;
        let scale = self.scale();
        if scale != Scale::default() {
            write!(f, ", factors {} and {}", scale.before, scale.after)?;
        }
        Ok(())
    }
}

impl Request {
    pub(super) fn new(verb: Verb, dtype: DType, counts: Vec<u64>, priority: i32) -> Self {
        Self { verb, dtype: dtype as u8, counts, priority }
    }

    /// The element type, if it is one that we know.
    pub(super) fn dtype(&self) -> Option<DType> {
        DType::from_code(self.dtype)
    }

    /// Bytes of all tensors, as the threshold of fusion counts them.
    pub(super) fn bytes(&self) -> u64 {
        let element_bytes = self.dtype().map_or(0, DType::size) as u64;
        self.counts
            .iter()
            .fold(0, |sum: u64, count| sum.saturating_add(count.saturating_mul(element_bytes)))
    }

    /// Whether the two can be one operation.
    pub(super) fn fuses_with(&self, other: &Self) -> bool {
        matches!(self.verb, Verb::AllReduce(..) | Verb::Adasum)
            && self.verb == other.verb
            && self.dtype == other.dtype
            && self.priority == other.priority
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = self.verb.name();
        let dtype = self.dtype().map_or("unknown elements", DType::name);
        match (&self.verb, &self.counts[..]) {
            (Verb::Barrier, _) => f.write_str(verb)?,
            (verb_of_any_lengths, _) if !verb_of_any_lengths.shares_counts() => {
                write!(f, "{verb} of {dtype}")?;
            }
            (_, [count]) => write!(f, "{verb} of {count} {dtype}")?,
            (_, counts) => write!(f, "{verb} of tensors of {counts:?} {dtype}")?,
        }
        match &self.verb {
            Verb::AllReduce(operator, wire) => {
                if let Some(wire) = wire {
                    let wire = DType::from_code(*wire).map_or("something else", DType::name);
                    write!(f, " as {wire}")?;
                }
                write!(f, " ({operator})")?;
            }
            Verb::ReduceScatter(operator) => write!(f, " ({operator})")?,
            Verb::Broadcast { root } => write!(f, " from rank {root}")?,
            _ => {}
        }
        if self.priority != 0 {
            write!(f, " with priority {}", self.priority)?;
        }
        Ok(())
    }
}

/// What a rank has to say in an exchange.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Announcement {
    /// What is submitted and not complete.
    pub(super) entries: Vec<Entry>,
    /// In which round the rank has said that it has no more data.
    pub(super) joined_in: Option<u64>,
    /// This is its last round.
    pub(super) leaves: bool,
    /// Equal on all ranks, or they would cut batches differently.
    pub(super) settings: Settings,
}

/// The options that all ranks must share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) fusion_threshold: u64,
    pub(super) cache_capacity: u64,
}

/// One submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) tensor: Tensor,
    pub(super) waited_ms: u64,
    /// Whether it has waited for longer than it may.
    pub(super) is_expired: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Tensor {
    /// The slot of the response cache that holds all about it.
    Cached(u32),
    Named(String, Request),
}

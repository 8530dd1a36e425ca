use std::fmt;
use std::str::FromStr;

use crate::node::Manner;
use crate::signature::Collective;

/// How a collective is carried out.
///
/// The discriminants are part of the wire format: never renumber, only add.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Algorithm {
    /// Pipelined ring.
    Ring = 1,
    /// Everybody sends everything to everybody, who reduce for themselves.
    OneShot = 2,
    /// Every chunk straight to its owner, every result straight to everybody.
    TwoShot = 3,
    /// Whole vectors, or what has been gathered of them, are exchanged at doubling distances.
    RecursiveDoubling = 4,
    /// Halves are exchanged at halving, then doubling distances.
    HalvingDoubling = 5,
    /// Down a binomial tree.
    BinomialTree = 6,
    /// Along a chain.
    Chain = 7,
    /// Rounds of telling a rank twice as far away all that one knows.
    Dissemination = 8,
    /// A block to and from every other rank, some ranks at a time.
    Pairwise = 16,
    /// Straight to the root, or from it.
    Direct = 17,
    /// Everything to rank 0, the result (for a barrier: the word) back to everybody.
    Star = 11,
    /// On each node in shared memory, and between nodes one stream for each of a node's ranks.
    TwoLevel = 18,
    /// Shared memory: read from each other's slots, one hand-over.
    NodeOneShot = 9,
    /// Shared memory: chunks are reduced by their owners in cache-sized blocks.
    NodeTwoShot = 10,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 14] = [
        Self::Ring,
        Self::OneShot,
        Self::Star,
        Self::TwoShot,
        Self::RecursiveDoubling,
        Self::HalvingDoubling,
        Self::BinomialTree,
        Self::Chain,
        Self::Dissemination,
        Self::Pairwise,
        Self::Direct,
        Self::TwoLevel,
        Self::NodeOneShot,
        Self::NodeTwoShot,
    ];

    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::OneShot => "one-shot",
            Self::Star => "star",
            Self::TwoShot => "two-shot",
            Self::RecursiveDoubling => "recursive-doubling",
            Self::HalvingDoubling => "halving-doubling",
            Self::BinomialTree => "binomial",
            Self::Chain => "chain",
            Self::Dissemination => "dissemination",
            Self::Pairwise => "pairwise",
            Self::Direct => "direct",
            Self::TwoLevel => "two-level",
            Self::NodeOneShot => "node-one-shot",
            Self::NodeTwoShot => "node-two-shot",
        }
    }

    /// Whether a collective can be carried out this way.
    pub const fn supports(self, collective: Collective) -> bool {
        match self {
            // The others' places in shared memory follow from what all ranks know.
            Self::NodeOneShot => {
                use Collective::{Agreement, Receive, Send, Shift};
                collective.shares_counts()
                    && !matches!(collective, Shift | Agreement | Send | Receive)
            }
            Self::NodeTwoShot => {
                Self::NodeOneShot.supports(collective) && !matches!(collective, Collective::Barrier)
            }
            Self::TwoLevel => matches!(
                collective,
                Collective::AllReduce
                    | Collective::ReduceScatter
                    | Collective::ReduceScatterV
                    | Collective::AllGather
                    | Collective::AllGatherV
                    | Collective::Broadcast
                    | Collective::Reduce
                    | Collective::Barrier
            ),
            Self::Pairwise => matches!(collective, Collective::AllToAll | Collective::AllToAllV),
            Self::Direct => matches!(
                collective,
                Collective::Broadcast
                    | Collective::Reduce
                    | Collective::Gather
                    | Collective::GatherV
                    | Collective::Scatter
                    | Collective::ScatterV
            ),
            Self::Ring => matches!(
                collective,
                Collective::AllReduce
                    | Collective::ReduceScatter
                    | Collective::ReduceScatterV
                    | Collective::AllGather
                    | Collective::AllGatherV
                    | Collective::Reduce
                    | Collective::Shift
            ),
            Self::TwoShot => matches!(
                collective,
                Collective::AllReduce
                    | Collective::ReduceScatter
                    | Collective::ReduceScatterV
                    | Collective::AllGather
                    | Collective::AllGatherV
                    | Collective::Reduce
            ),
            Self::Star => matches!(
                collective,
                Collective::AllReduce
                    | Collective::AllGather
                    | Collective::AllGatherV
                    | Collective::Barrier
            ),
            Self::RecursiveDoubling => matches!(
                collective,
                Collective::AllReduce | Collective::AllGather | Collective::AllGatherV
            ),
            Self::OneShot | Self::HalvingDoubling => matches!(collective, Collective::AllReduce),
            Self::BinomialTree | Self::Chain => matches!(collective, Collective::Broadcast),
            Self::Dissemination => {
                use Collective::{Agreement, AllReduce, Barrier};
                matches!(collective, Barrier | Agreement | AllReduce)
            }
        }
    }

    /// Whether what one rank has for another is always one message.
    pub(super) const fn sends_whole_blocks(self) -> bool {
        matches!(self, Self::Pairwise | Self::Direct)
    }

    /// How it works in memory shared by the ranks of one node, without messages, if it does.
    pub const fn node_manner(self) -> Option<Manner> {
        match self {
            Self::NodeOneShot => Some(Manner::OneShot),
            Self::NodeTwoShot => Some(Manner::TwoShot),
            _ => None,
        }
    }

    /// The algorithm with this wire code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| *algorithm as u8 == code)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no algorithm.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown algorithm {0:?}; expected auto or one of {known}", known = known())]
pub struct ParseAlgorithmError(pub String);

fn known() -> String {
    Algorithm::ALL.map(Algorithm::name).join(", ")
}

impl FromStr for Algorithm {
    type Err = ParseAlgorithmError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| ParseAlgorithmError(name.to_owned()))
    }
}

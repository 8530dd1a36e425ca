use paceline_devices::DType;
use paceline_transports::Signature;

use crate::kernels::Kernel;
use crate::schedule::Partition;

/// What the members of a node do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    /// Everybody gets the reduction of all inputs.
    AllReduce,
    /// Member c gets chunk c of the reduction.
    ReduceScatter,
    /// Member c contributes chunk c; everybody gets all chunks.
    AllGather,
    /// Everybody gets the root's elements.
    Broadcast {
        /// The member that has them.
        root: u32,
    },
    /// The root gets the reduction of all inputs.
    Reduce {
        /// The member that gets it.
        root: u32,
    },
    /// Everybody gets its chunk of everybody's elements; all chunks have one length.
    AllToAll,
    /// The root gets everybody's chunk.
    Gather {
        /// The member that gets them.
        root: u32,
    },
    /// Everybody gets its chunk of the root's elements.
    Scatter {
        /// The member that has them.
        root: u32,
    },
    /// Nobody goes on before everybody has come.
    Barrier,
}

/// How the members go about it. The results have the same bits either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Everybody shows its contribution to all, and each makes of them what it needs.
    OneShot,
    /// Chunks are reduced by their owners, in cache-sized blocks, round by round.
    TwoShot,
}

/// One operation, as one member calls it.
#[derive(Clone, Copy, Debug)]
pub struct NodeRequest<'a> {
    /// What to do.
    pub kind: NodeKind,
    /// How. It must [allow](Manner::allows) the tensor's size.
    pub manner: Manner,
    /// The type of the elements.
    pub dtype: DType,
    /// How to reduce elements of the type; ignored by operations that do not.
    pub kernel: Option<&'a Kernel>,
    /// Elements of the whole tensor.
    pub count: usize,
    /// How the tensor falls to its owners where that is not in even chunks.
    pub cut: Option<&'a Partition>,
    /// What all members' calls must agree on.
    pub signature: Signature,
    /// This member's contribution: the whole tensor, or its chunk for [`NodeKind::AllGather`] and
    /// [`NodeKind::Gather`]. Members that contribute nothing (a broadcast's or scatter's others, a
    /// barrier) may pass null.
    pub input: *const u8,
    /// Where the result goes: the whole tensor, or the own chunk for [`NodeKind::ReduceScatter`] and
    /// [`NodeKind::Scatter`]. Members that get nothing may pass null. May equal `input`, but not for
    /// [`NodeKind::AllToAll`]; where `input` is a chunk it may be the own chunk of `output`, where
    /// `output` is one it may be the own chunk of `input`. Otherwise the two do not overlap.
    pub output: *mut u8,
}

impl NodeRequest<'_> {
    /// Whether elements are combined.
    pub(super) fn reduces(&self) -> bool {
        matches!(self.kind, NodeKind::AllReduce | NodeKind::ReduceScatter | NodeKind::Reduce { .. })
    }

    /// How the tensor falls to owners; a broadcast's root owns it all.
    pub(super) fn partition(&self, members: usize) -> Partition {
        let parts = if matches!(self.kind, NodeKind::Broadcast { .. }) { 1 } else { members };
        self.cut.cloned().unwrap_or_else(|| Partition::new(self.count, parts))
    }

    /// Bytes of the whole tensor. It lies in memory, so this cannot overflow.
    pub(super) fn bytes(&self) -> usize {
        self.count * self.dtype.size()
    }
}

//! The memory that ranks of a communicator share on their nodes.

use std::sync::Arc;

use crate::drive::Neighbours;
use crate::fusion::FusionBuffer;
use crate::levels::Shape;
use crate::members::Members;
use crate::node::NodeGroup;
use crate::plan::PlanFacts;

/// What this rank shares with others of its communicator.
#[derive(Debug)]
pub(super) enum Shared {
    /// Nothing: all exchange messages.
    Nothing,
    /// All ranks are on one node and share memory.
    ByAll(NodeGroup),
    /// Several nodes, on each of which the ranks share memory.
    OnNodes(Box<Levels>),
}

/// What an operation in two levels works with.
#[derive(Debug)]
pub(super) struct Levels {
    pub(super) shape: Shape,
    /// The ranks on this node, by place.
    pub(super) neighbours: Members,
    /// Their memory; none where this rank is alone.
    pub(super) node: Option<NodeGroup>,
    /// The ranks of this rank's stream, by node, if it has one.
    pub(super) stream: Option<Members>,
    /// What the plans among them follow from.
    pub(super) stream_facts: PlanFacts,
    /// Partial results that fit into nobody's output.
    pub(super) staging: FusionBuffer,
    /// Where the parts of vectors lie in an operation: memory that is used again.
    pub(super) cuts: Cuts,
}

/// Places of parts, one list for each way in which an operation cuts its vector.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// On the node, by place.
    pub(super) places: Arc<[usize]>,
    /// A stream's part across nodes, by node.
    pub(super) nodes: Arc<[usize]>,
    /// The whole vector, by node.
    pub(super) blocks: Arc<[usize]>,
}

impl Shared {
    /// The ranks that this one shares memory with, of a communicator of `members`.
    pub(super) fn neighbours<'a>(&'a self, members: &'a Members) -> Option<Neighbours<'a>> {
        match self {
            Self::Nothing => None,
            Self::ByAll(group) => Some(Neighbours { group, members }),
            Self::OnNodes(levels) => levels.neighbours(),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::ByAll(group) => group.memory_bytes(),
            Self::OnNodes(levels) => {
                let node = levels.node.as_ref().map_or(0, NodeGroup::memory_bytes);
                node + levels.staging.memory_bytes()
            }
        }
    }

    /// Ends what the ranks share: the others' operations in it fail.
    pub(super) fn abort(&self) {
        match self {
            Self::Nothing => {}
            Self::ByAll(group) => group.abort(),
            Self::OnNodes(levels) => {
                if let Some(group) = &levels.node {
                    group.abort();
                }
            }
        }
    }
}

impl Levels {
    pub(super) fn neighbours(&self) -> Option<Neighbours<'_>> {
        let group = self.node.as_ref()?;
        Some(Neighbours { group, members: &self.neighbours })
    }
}

//! Operations in two levels: in shared memory on each node, by messages between nodes.
//!
//! Let there be N nodes, and k ranks on the smallest of them. The ranks in places 0 to k−1 of all nodes
//! form k *streams*: stream j is the rank in place j of every node. Each stream takes one kth of what
//! has to cross between nodes, so that each byte crosses once and all the ranks take part in it.
//!
//! | collective | on each node | in stream j | on each node |
//! |---|---|---|---|
//! | all-reduce | reduce-scatter, part j to place j | all-reduce of part j | all-gather of the parts |
//! | reduce-scatter | the same, block by block | reduce-scatter, block b to node b | all-gather of the block |
//! | all-gather | all-gather of the node's block | all-gather of part j of each block | all-gather of each other block |
//! | broadcast | from the root, on its node | broadcast of part j | all-gather of the parts, on the others |
//! | reduce | reduce-scatter | reduce of part j to the root's node | gather, on that |
//! | barrier | barrier | barrier, in stream 0 | barrier |
//!
//! A *block* is what belongs to a node's ranks. Bytes that a node sends to others: 2(N−1)/N of the
//! vector for an all-reduce (by ring or two-shot), (N−1)/N for a reduce-scatter or all-gather.
//!
//! # Bands
//! An all-reduce cuts vectors of 2 MiB and more into bands of 1 to 4 MiB, each of which goes through all
//! three stages: while one band crosses, the node gathers the one before and reduces the next.
//!
//! # Order of reduction
//! An all-reduce cuts its band into kN chunks; chunk jN+a is reduced on each node in the canonical
//! order of the node with place j last, and then over the nodes in that of the nodes with node a last.
//! Packed tensors are cut chunk by chunk as ever, and together are shorter than what has bands, so that
//! fusion changes no bit.
//!
//! # Memory
//! Reduce-scatter and reduce stage partial results, piece by piece, in at most some megabytes that are kept.

mod division;
mod steps;

use std::cell::Cell;
use std::ops::Range;
use std::ptr::NonNull;
use std::time::Instant;

use paceline_devices::{Buffer, Memory};

use self::division::Division;
use self::steps::{Across, OnNode, Whole};
use super::Communicator;
use super::shared::Levels;
use crate::call::{Call, Stage};
use crate::engine::Workspace;
use crate::error::{CollectiveError, OperationName};
use crate::fusion::FusionBuffer;
use crate::levels::Shape;
use crate::schedule::Partition;
use crate::signature::Collective;

/// Bytes of one block, or of one part of the vector, that are staged at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of partial results that are staged at a time, as far as pieces of [`PIECE_BYTES_MIN`] allow.
const STAGING_BYTES: usize = 4 << 20;

/// Shorter pieces cost more in crossings than memory is worth.
const PIECE_BYTES_MIN: usize = 64 << 10;

/// One operation in two levels, as one rank carries it out.
pub(super) struct Stages<'a> {
    call: &'a Call<'a>,
    rank: usize,
    shape: &'a Shape,
    division: Division<'a>,
    node: OnNode<'a>,
    across: Across<'a>,
    staging: &'a mut FusionBuffer,
}

impl<'a> Stages<'a> {
    /// `since` is when the operation began.
    pub(super) fn new(
        communicator: &'a Communicator,
        levels: &'a mut Levels,
        workspace: &'a mut Workspace,
        (operation, call): (OperationName, &'a Call<'a>),
        since: &'a Cell<Instant>,
    ) -> Self {
        let whole = Whole { communicator, operation, call, since };
        let Levels { shape, neighbours, node, stream, stream_facts, staging, cuts } = levels;
        let shape = &*shape;
        Self {
            call,
            rank: communicator.rank() as usize,
            shape,
            division: Division::new(call, shape, cuts),
            node: OnNode::new(whole, shape.place(), neighbours, node.as_mut()),
            across: Across::new(whole, shape, stream.as_ref(), stream_facts, workspace),
            staging,
        }
    }

    pub(super) fn carry_out(mut self) -> Result<(), CollectiveError> {
        match self.call.collective {
            Collective::AllReduce => self.all_reduce(),
            Collective::ReduceScatter | Collective::ReduceScatterV => self.reduce_scatter(),
            Collective::AllGather | Collective::AllGatherV => self.all_gather(),
            Collective::Broadcast => self.broadcast(),
            Collective::Reduce => self.reduce(),
            _ => self.barrier(),
        }
    }

    /// While one band crosses, the node gathers the one before and reduces the next.
    fn all_reduce(&mut self) -> Result<(), CollectiveError> {
        let Self { division, node, across, .. } = self;
        let bands = division.bands();
        let mut band = division.band(0);
        node.run(division.reduction(&band))?;
        let mut before = None;
        for nth in 0..bands {
            let leg = division.crossing(&band).and_then(|stage| across.leg(stage));
            let mut crossing = leg.as_ref().map(|leg| across.begin(leg)).transpose()?;
            let next = (nth + 1 < bands).then(|| division.band(nth + 1));
            if let Some(next) = &next {
                node.run_beside(division.reduction(next), crossing.as_mut())?;
            }
            if let Some(before) = &before {
                node.run_beside(division.gathering(before), crossing.as_mut())?;
            }
            if let Some(crossing) = crossing {
                crossing.finish(node.neighbours())?;
            }
            let Some(next) = next else { break };
            before = Some(std::mem::replace(&mut band, next));
        }
        node.run(division.gathering(&band))
    }

    fn reduce_scatter(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let (nodes, streams) = (self.shape.nodes(), self.shape.streams());
        let (node, place) = (self.shape.node(), self.shape.place());
        let blocks = self.division.blocks();
        let longest = blocks.longest();
        let length = self.piece_elements(nodes.div_ceil(streams) + 1);
        // Partial results of this rank's part of a piece of each block; then the piece of our own.
        let part_max = length.min(longest).div_ceil(streams);
        let staged = self.stage(part_max * nodes + length.min(longest))?;
        let (parts, whole) = (staged.part(0..part_max * nodes), part_max * nodes);
        let mut start = 0;
        loop {
            let piece = |node: usize| {
                let block = blocks.range(node);
                let at = |offset: usize| (block.start + offset).min(block.end);
                at(start)..at(start + length)
            };
            let part = |node: usize, place: usize| match place < streams {
                true => Partition::new(piece(node).len(), streams).range(place),
                false => 0..0,
            };
            let mut end = 0;
            for other in 0..nodes {
                let own = parts.part(end..end + part(other, place).len());
                end += own.count;
                let partition = self.division.by_place(|place| part(other, place).len());
                let input = call.input().part(piece(other));
                let collective = Collective::ReduceScatterV;
                self.node.run(Stage { collective, root: None, input, output: own, partition })?;
            }
            let input = parts.part(0..end);
            let before: usize = (0..node).map(|other| part(other, place).len()).sum();
            let own = input.part(before..before + part(node, place).len());
            if let Some(partition) = self.division.by_node(|node| part(node, place).len()) {
                let collective = Collective::ReduceScatterV;
                self.cross(Stage { collective, root: None, input, output: own, partition })?;
            }
            let ours = piece(node);
            let block = staged.part(whole..whole + ours.len());
            let cut = self.division.by_place(|place| part(node, place).len());
            self.gather_from(own, block, &cut)?;
            self.keep_own(block, &ours);
            start += length;
            if start >= longest {
                return Ok(());
            }
        }
    }

    /// Takes what of a piece of the node's block is this rank's own to the output.
    fn keep_own(&self, block: Buffer, piece: &Range<usize>) {
        let own = self.call.partition.range(self.rank);
        let (start, end) = (own.start.max(piece.start), own.end.min(piece.end));
        if start < end {
            let from = block.part(start - piece.start..end - piece.start);
            Call::copy(from, self.call.output().part(start - own.start..end - own.start));
        }
    }

    fn all_gather(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let (nodes, streams) = (self.shape.nodes(), self.shape.streams());
        let (node, place) = (self.shape.node(), self.shape.place());
        let output = call.output();
        let blocks = self.division.blocks();
        let first = self.shape.block(node).start;
        let cut = self.division.by_place(|place| call.partition.range(first + place).len());
        self.node.run(Stage {
            collective: Collective::AllGatherV,
            root: None,
            input: call.input(),
            output: output.part(blocks.range(node)),
            partition: cut,
        })?;
        if self.shape.has_stream() {
            let partition = blocks.clone().portion(place, streams);
            let input = output.part(partition.range(node));
            let collective = Collective::AllGatherV;
            self.cross(Stage { collective, root: None, input, output, partition })?;
        }
        for other in (0..nodes).filter(|other| *other != node) {
            let block = blocks.range(other);
            let cut = self.division.evenly(block.len());
            self.gather_parts(output.part(block), &cut)?;
        }
        Ok(())
    }

    fn broadcast(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let (root_node, root_place) = self.shape.find(call.root.unwrap_or(0));
        let output = call.output();
        let on_root_node = self.shape.node() == root_node;
        if on_root_node {
            let count = output.count;
            self.node.run(Stage {
                collective: Collective::Broadcast,
                root: Some(to_u32(root_place)),
                input: call.input(),
                output,
                partition: Partition::new(count, self.shape.neighbours().len()),
            })?;
        }
        let cut = self.division.evenly(output.count);
        let own = output.part(cut.range(self.shape.place()));
        if self.shape.has_stream() {
            let (collective, nodes) = (Collective::Broadcast, self.shape.nodes());
            let partition = Partition::new(own.count, nodes);
            let root = Some(to_u32(root_node));
            self.cross(Stage { collective, root, input: own, output: own, partition })?;
        }
        if on_root_node { Ok(()) } else { self.gather_parts(output, &cut) }
    }

    fn reduce(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let shape = &self.shape;
        let (root_node, root_place) = shape.find(call.root.unwrap_or(0));
        let (nodes, streams, place) = (shape.nodes(), shape.streams(), shape.place());
        let on_root_node = shape.node() == root_node;
        let is_root = on_root_node && place == root_place;
        let (count, length) = (call.input().count, self.piece_elements(1) * streams);
        let staged = self.stage(length.min(count).div_ceil(streams))?;
        let mut start = 0;
        loop {
            let piece = start..(start + length).min(count);
            let cut = self.division.evenly(piece.len());
            let own = staged.part(0..cut.range(place).len());
            self.node.run(Stage {
                collective: Collective::ReduceScatterV,
                root: None,
                input: call.input().part(piece.clone()),
                output: own,
                partition: cut.clone(),
            })?;
            if self.shape.has_stream() {
                let output = if on_root_node { own } else { Buffer::empty(own.dtype) };
                let (collective, root) = (Collective::Reduce, Some(to_u32(root_node)));
                let partition = Partition::new(own.count, nodes);
                self.cross(Stage { collective, root, input: own, output, partition })?;
            }
            if on_root_node {
                let output =
                    if is_root { call.output().part(piece) } else { Buffer::empty(own.dtype) };
                self.node.run(Stage {
                    collective: Collective::Gather,
                    root: Some(to_u32(root_place)),
                    input: own,
                    output,
                    partition: cut,
                })?;
            }
            start += length;
            if start >= count {
                return Ok(());
            }
        }
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let nothing = Buffer::empty(self.call.output().dtype);
        let stage = |ranks: usize| Stage {
            collective: Collective::Barrier,
            root: None,
            input: nothing,
            output: nothing,
            partition: Partition::new(0, ranks),
        };
        let neighbours = self.shape.neighbours().len();
        self.node.run(stage(neighbours))?;
        if self.shape.has_stream() {
            self.cross(stage(self.shape.nodes()))?;
        }
        self.node.run(stage(neighbours))
    }

    /// Everybody on the node gets the parts of `output` that the places have.
    fn gather_parts(&mut self, output: Buffer, cut: &Partition) -> Result<(), CollectiveError> {
        let own = output.part(cut.range(self.shape.place()));
        self.gather_from(own, output, cut)
    }

    fn gather_from(
        &mut self,
        own: Buffer,
        output: Buffer,
        cut: &Partition,
    ) -> Result<(), CollectiveError> {
        self.node.run(Stage {
            collective: Collective::AllGatherV,
            root: None,
            input: own,
            output,
            partition: cut.clone(),
        })
    }

    /// Carries out a stage among the ranks of this rank's stream.
    fn cross(&mut self, stage: Stage) -> Result<(), CollectiveError> {
        match self.across.leg(stage) {
            Some(leg) => self.across.begin(&leg)?.finish(self.node.neighbours()),
            None => Ok(()),
        }
    }

    /// Elements of the pieces that are staged, where that takes so many times as much.
    fn piece_elements(&self, times: usize) -> usize {
        let bytes = (STAGING_BYTES / times).clamp(PIECE_BYTES_MIN, PIECE_BYTES);
        bytes / self.call.element_bytes()
    }

    /// Memory for so many elements.
    fn stage(&mut self, elements: usize) -> Result<Buffer, CollectiveError> {
        let bytes = elements * self.call.element_bytes();
        let words = self.staging.grow(bytes, self.call.collective.name())?;
        let memory = Memory::Host(NonNull::from(words).cast());
        Ok(Buffer { memory, offset: 0, count: elements, dtype: self.call.input().dtype })
    }
}

/// Nodes and places as they travel.
fn to_u32(place: usize) -> u32 {
    u32::try_from(place).expect("ranks are counted in u32")
}

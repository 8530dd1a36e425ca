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
//! # Order of reduction
//! An all-reduce cuts its vector into kN chunks; chunk jN+a is reduced on each node in the canonical
//! order of the node with place j last, and then over the nodes in that of the nodes with node a last.
//! Fused tensors are cut chunk by chunk as ever, so that fusion changes no bit.
//!
//! # Memory
//! Reduce-scatter and reduce stage partial results, piece by piece, in at most some megabytes that are kept.

use std::ops::Range;
use std::ptr::NonNull;

use paceline_devices::{Buffer, Memory};

use super::Communicator;
use super::shared::Levels;
use crate::call::{Call, Stage};
use crate::drive::{self, Parties, Run};
use crate::engine::Workspace;
use crate::error::{CollectiveError, OperationName};
use crate::kernels::Kernel;
use crate::node::{Manner, NodeRequest};
use crate::program::Program;
use crate::schedule::Partition;
use crate::signature::Collective;

/// Bytes of one block, or of one part of the vector, that are staged at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of partial results that are staged at a time, as far as pieces of [`PIECE_BYTES_MIN`] allow.
const STAGING_BYTES: usize = 4 << 20;

/// Shorter pieces cost more in crossings than memory is worth.
const PIECE_BYTES_MIN: usize = 64 << 10;

/// Tags of each stage between nodes, if there are several: more messages than that in one direction
/// none of them has.
const TAGS_PER_STAGE: u32 = 1 << 20;

/// After so many stages their tags are used again. Who is in a stage has seen everybody else enter the
/// one before.
const STAGES_TOLD_APART: u32 = 16;

/// One operation in two levels, as one rank carries it out.
pub(super) struct Stages<'a> {
    communicator: &'a Communicator,
    levels: &'a mut Levels,
    workspace: &'a mut Workspace,
    operation: OperationName,
    call: &'a Call<'a>,
    /// Reduces on the node, where no result is complete.
    partial: Option<Kernel>,
    /// Stages between nodes so far.
    crossings: u32,
}

impl<'a> Stages<'a> {
    pub(super) fn new(
        communicator: &'a Communicator,
        levels: &'a mut Levels,
        workspace: &'a mut Workspace,
        operation: OperationName,
        call: &'a Call<'a>,
    ) -> Self {
        let partial = call.kernel().map(Kernel::partial);
        Self { communicator, levels, workspace, operation, call, partial, crossings: 0 }
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

    fn all_reduce(&mut self) -> Result<(), CollectiveError> {
        let (call, shape) = (self.call, &self.levels.shape);
        let (nodes, streams, place) = (shape.nodes(), shape.streams(), shape.place());
        let chunks = match call.partition.is_explicit() {
            true => call.partition.clone(),
            false => Partition::new(call.partition.count(), nodes * streams),
        };
        let part = |place: usize| match place < streams {
            true => chunks.range(place * nodes).start..chunks.range((place + 1) * nodes - 1).end,
            false => chunks.count()..chunks.count(),
        };
        let own = call.output().part(part(place));
        let cut = self.cut_by_place(|place| part(place).len());
        self.on_node_or_alone(Stage {
            collective: Collective::ReduceScatterV,
            root: None,
            input: call.input(),
            output: own,
            partition: cut.clone(),
        })?;
        let partition = self.cut_by_node(|node| chunks.range(place * nodes + node).len());
        if let Some(partition) = partition.filter(|_| self.crosses(own.count)) {
            let collective = Collective::AllReduce;
            self.across(Stage { collective, root: None, input: own, output: own, partition })?;
        }
        self.gather_parts(call.output(), &cut)
    }

    fn reduce_scatter(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let (nodes, streams) = (self.levels.shape.nodes(), self.levels.shape.streams());
        let (node, place) = (self.levels.shape.node(), self.levels.shape.place());
        let blocks = self.blocks();
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
                let partition = self.cut_by_place(|place| part(other, place).len());
                let input = call.input().part(piece(other));
                let collective = Collective::ReduceScatterV;
                self.on_node_or_alone(Stage {
                    collective,
                    root: None,
                    input,
                    output: own,
                    partition,
                })?;
            }
            let input = parts.part(0..end);
            let before: usize = (0..node).map(|other| part(other, place).len()).sum();
            let own = input.part(before..before + part(node, place).len());
            if let Some(partition) = self.cut_by_node(|node| part(node, place).len())
                && self.crosses(end)
            {
                let collective = Collective::ReduceScatterV;
                self.across(Stage { collective, root: None, input, output: own, partition })?;
            }
            let ours = piece(node);
            let block = staged.part(whole..whole + ours.len());
            let cut = self.cut_by_place(|place| part(node, place).len());
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
        let own = self.call.partition.range(self.communicator.rank() as usize);
        let (start, end) = (own.start.max(piece.start), own.end.min(piece.end));
        if start < end {
            let from = block.part(start - piece.start..end - piece.start);
            Call::copy(from, self.call.output().part(start - own.start..end - own.start));
        }
    }

    fn all_gather(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let (nodes, streams) = (self.levels.shape.nodes(), self.levels.shape.streams());
        let (node, place) = (self.levels.shape.node(), self.levels.shape.place());
        let output = call.output();
        let blocks = self.blocks();
        let first = self.levels.shape.block(node).start;
        let cut = self.cut_by_place(|place| call.partition.range(first + place).len());
        self.on_node_or_alone(Stage {
            collective: Collective::AllGatherV,
            root: None,
            input: call.input(),
            output: output.part(blocks.range(node)),
            partition: cut,
        })?;
        if self.levels.shape.has_stream() && self.crosses(output.count) {
            let partition = blocks.clone().portion(place, streams);
            let input = output.part(partition.range(node));
            let collective = Collective::AllGatherV;
            self.across(Stage { collective, root: None, input, output, partition })?;
        }
        for other in (0..nodes).filter(|other| *other != node) {
            let block = blocks.range(other);
            let cut = self.cut_evenly(block.len());
            self.gather_parts(output.part(block), &cut)?;
        }
        Ok(())
    }

    fn broadcast(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let (root_node, root_place) = self.levels.shape.find(call.root.unwrap_or(0));
        let output = call.output();
        let on_root_node = self.levels.shape.node() == root_node;
        if on_root_node {
            let count = output.count;
            self.on_node_or_alone(Stage {
                collective: Collective::Broadcast,
                root: Some(to_u32(root_place)),
                input: call.input(),
                output,
                partition: Partition::new(count, self.levels.shape.neighbours().len()),
            })?;
        }
        let cut = self.cut_evenly(output.count);
        let own = output.part(cut.range(self.levels.shape.place()));
        if self.crosses(own.count) {
            let (collective, nodes) = (Collective::Broadcast, self.levels.shape.nodes());
            let partition = Partition::new(own.count, nodes);
            let root = Some(to_u32(root_node));
            self.across(Stage { collective, root, input: own, output: own, partition })?;
        }
        if on_root_node { Ok(()) } else { self.gather_parts(output, &cut) }
    }

    fn reduce(&mut self) -> Result<(), CollectiveError> {
        let call = self.call;
        let shape = &self.levels.shape;
        let (root_node, root_place) = shape.find(call.root.unwrap_or(0));
        let (nodes, streams, place) = (shape.nodes(), shape.streams(), shape.place());
        let on_root_node = shape.node() == root_node;
        let is_root = on_root_node && place == root_place;
        let (count, length) = (call.input().count, self.piece_elements(1) * streams);
        let staged = self.stage(length.min(count).div_ceil(streams))?;
        let mut start = 0;
        loop {
            let piece = start..(start + length).min(count);
            let cut = self.cut_evenly(piece.len());
            let own = staged.part(0..cut.range(place).len());
            self.on_node_or_alone(Stage {
                collective: Collective::ReduceScatterV,
                root: None,
                input: call.input().part(piece.clone()),
                output: own,
                partition: cut.clone(),
            })?;
            if self.crosses(own.count) {
                let output = if on_root_node { own } else { Buffer::empty(own.dtype) };
                let (collective, root) = (Collective::Reduce, Some(to_u32(root_node)));
                let partition = Partition::new(own.count, nodes);
                self.across(Stage { collective, root, input: own, output, partition })?;
            }
            if on_root_node {
                let output =
                    if is_root { call.output().part(piece) } else { Buffer::empty(own.dtype) };
                self.on_node_or_alone(Stage {
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
        let neighbours = self.levels.shape.neighbours().len();
        self.on_node_or_alone(stage(neighbours))?;
        if self.crosses(0) {
            self.across(stage(self.levels.shape.nodes()))?;
        }
        self.on_node_or_alone(stage(neighbours))
    }

    /// Everybody on the node gets the parts of `output` that the places have.
    fn gather_parts(&mut self, output: Buffer, cut: &Partition) -> Result<(), CollectiveError> {
        let own = output.part(cut.range(self.levels.shape.place()));
        self.gather_from(own, output, cut)
    }

    fn gather_from(
        &mut self,
        own: Buffer,
        output: Buffer,
        cut: &Partition,
    ) -> Result<(), CollectiveError> {
        self.on_node_or_alone(Stage {
            collective: Collective::AllGatherV,
            root: None,
            input: own,
            output,
            partition: cut.clone(),
        })
    }

    /// Carries out a stage among the ranks of this node.
    fn on_node_or_alone(&mut self, stage: Stage) -> Result<(), CollectiveError> {
        let Levels { shape, neighbours, node, .. } = &mut *self.levels;
        let Some(group) = node else {
            if stage.output.count > 0 {
                Call::copy(stage.input, stage.output);
            }
            return Ok(());
        };
        let call = self.call.stage(stage, shape.place());
        let ranks = neighbours.world_size;
        let manner = Manner::preferred(ranks, call.agreed_bytes());
        let request = call.node_request(&self.operation.kind, manner);
        let kernel = request.kernel.and(self.partial.as_ref());
        let request = NodeRequest { kernel, ..request };
        let Communicator { context, .. } = self.communicator;
        let parties = Parties { among: neighbours, ..self.communicator.parties() };
        // SAFETY: a call lends its buffers for as long as it is borrowed, and what is staged is ours.
        unsafe { drive::run_node(context, parties, self.operation, group, request) }
    }

    /// Whether this rank's stream takes part with so many elements of its own: stream 0 always does, so
    /// that all nodes hear of each other in every operation.
    fn crosses(&self, count: usize) -> bool {
        self.levels.shape.has_stream() && (count > 0 || self.levels.shape.place() == 0)
    }

    /// Carries out a stage among the ranks of this rank's stream.
    fn across(&mut self, stage: Stage) -> Result<(), CollectiveError> {
        let levels = &*self.levels;
        let among = levels.stream.as_ref().expect("only ranks with a stream get here");
        let call = self.call.stage(stage, levels.shape.node());
        let choice = levels.stream_facts.choose_across(call.collective, call.agreed_bytes());
        let first_tag = self.crossings % STAGES_TOLD_APART * TAGS_PER_STAGE;
        self.crossings += 1;
        call.place_own();
        let program = Program::new(&call, choice, levels.shape.node(), levels.shape.nodes());
        let run = Run {
            context: &self.communicator.context,
            parties: Parties { among, ..self.communicator.parties() },
            operation: self.operation,
            first_tag,
            node: levels.neighbours(),
            schedule: program.as_schedule(),
            kernel: call.kernel().cloned(),
            partition: call.partition.clone(),
            operands: call.operands(),
        };
        // SAFETY: as for `on_node_or_alone`; this returns only after the stage is done or given up.
        unsafe { drive::run(run, self.workspace) }
    }

    /// How a vector falls to the places of this node, in parts of these lengths.
    fn cut_by_place(&mut self, length: impl Fn(usize) -> usize) -> Partition {
        let ranks = self.levels.shape.neighbours().len();
        Partition::of_lengths_in(ranks, length, &mut self.levels.cuts.places)
    }

    /// The same, where each place that has a stream gets as much.
    fn cut_evenly(&mut self, count: usize) -> Partition {
        let streams = self.levels.shape.streams();
        let even = Partition::new(count, streams);
        self.cut_by_place(|place| if place < streams { even.range(place).len() } else { 0 })
    }

    /// How this rank's stream's part falls to the nodes, if it has a stream.
    fn cut_by_node(&mut self, length: impl Fn(usize) -> usize) -> Option<Partition> {
        let Levels { shape, cuts, .. } = &mut *self.levels;
        let cut = || Partition::of_lengths_in(shape.nodes(), length, &mut cuts.nodes);
        shape.has_stream().then(cut)
    }

    /// How the call's vector falls to the nodes: what belongs to a node's ranks is its block.
    fn blocks(&mut self) -> Partition {
        let Levels { shape, cuts, .. } = &mut *self.levels;
        let chunks = &self.call.partition;
        let length = |node| shape.block(node).map(|rank| chunks.range(rank).len()).sum();
        Partition::of_lengths_in(shape.nodes(), length, &mut cuts.blocks)
    }

    /// Elements of the pieces that are staged, where that takes so many times as much.
    fn piece_elements(&self, times: usize) -> usize {
        let bytes = (STAGING_BYTES / times).clamp(PIECE_BYTES_MIN, PIECE_BYTES);
        bytes / self.call.element_bytes()
    }

    /// Memory for so many elements.
    fn stage(&mut self, elements: usize) -> Result<Buffer, CollectiveError> {
        let bytes = elements * self.call.element_bytes();
        let words = self.levels.staging.grow(bytes, self.call.collective.name())?;
        let memory = Memory::Host(NonNull::from(words).cast());
        Ok(Buffer { memory, offset: 0, count: elements, dtype: self.call.input().dtype })
    }
}

/// Nodes and places as they travel.
fn to_u32(place: usize) -> u32 {
    u32::try_from(place).expect("ranks are counted in u32")
}

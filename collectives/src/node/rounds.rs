//! Large operations, block by block through the rings.

use std::ops::Range;

use paceline_transports::shm::{Arena, Counter};
use paceline_transports::{stream_bytes, stream_fence};

use super::chain::fold_chain;
use super::copy::{Stores, copy, streamed};
use super::group::{Call, NodeGroup, Progress, Wait};
use super::plan::{self, LINE, PIECE_BYTES};
use super::request::{NodeKind, NodeRequest};
use crate::schedule::Partition;

/// Rounds by which staging is ahead of reducing, and reducing ahead of draining.
const LEAD: usize = 2;

/// The two-shot algorithm in rounds. Every chunk is cut into blocks, and round b is about block b
/// of every chunk. In each round a member
///
/// 1. *stages*: copies its blocks of the chunks that others own into its input ring;
/// 2. *reduces*: folds the peers' staged blocks of its own chunk and its own input into its result
///    ring and its output, in one pass;
/// 3. *drains*: copies the others' results into its output.
///
/// Operations that have less to do skip the copying, never the counting.
///
/// # Who may write where
/// Rounds are numbered across operations; `depth` of them fit into the rings. All members compute
/// the same places.
/// - Round b is staged where round b−depth was. Everybody has reduced that: we saw so when we
///   drained b−depth, which comes first.
/// - Round b's result is written where that of b−depth was. We have seen everybody stage round b,
///   which everybody does after draining b−depth.
/// - Places that an earlier operation used: its inputs were reduced by all before we ended it, and
///   its results drained by all who have staged anything in this one. After a one-shot operation
///   peers may still be reading our contribution to it; round 0 is staged behind it (if its slot is
///   the first one again, the slots reach at least two beyond the contribution's length), and later
///   rounds after everybody has entered this operation.
#[derive(Debug)]
pub(super) struct Rounds {
    partition: Partition,
    /// Elements per block.
    block: usize,
    /// Bytes from one block to the next in a ring.
    block_stride: usize,
    rounds: usize,
    depth: usize,
    first_input_slot: usize,
    first_result_slot: usize,
    /// Rounds before this operation.
    base: u64,
    staged: usize,
    reduced: usize,
    drained: usize,
    /// Peers whose result of round `drained` has been copied.
    drained_peers: usize,
    /// Rounds of this operation that every peer has staged, as far as we have looked.
    staged_by_all: usize,
    stores: Stores,
}

impl Rounds {
    /// Starts: stages round 0 and announces the operation.
    pub(super) fn enter(group: &mut NodeGroup, call: &Call<'_>, block: usize) -> Self {
        let (request, layout) = (&call.request, group.arena.layout());
        let members = group.members();
        let partition = request.partition(members);
        let block_stride = (block * request.dtype.size()).next_multiple_of(LINE);
        let round_stride = block_stride * (members - 1).max(1);
        let rounds = partition.slices(block);
        let fitting =
            (layout.input_ring_bytes / round_stride).min(layout.result_ring_bytes / block_stride);
        // Slots that start over must not reach back to what peers may still be reading.
        let shown = std::mem::take(&mut group.shown_before).div_ceil(round_stride);
        let depth = plan::depth(fitting, rounds).max(shown + 2).min(fitting).max(1);
        let slot_after = |cursor: usize, stride: usize| cursor.div_ceil(stride) % depth;
        let first_input_slot = slot_after(group.input_cursor, round_stride);
        let first_result_slot = slot_after(group.result_cursor, block_stride);
        let base = group.rounds_before;
        group.rounds_before += rounds as u64;
        group.input_cursor = ((first_input_slot + rounds - 1) % depth + 1) * round_stride;
        group.result_cursor = ((first_result_slot + rounds - 1) % depth + 1) * block_stride;
        let streams = request.bytes() >= group.tuning.streaming_bytes_min;
        let mut entered = Self {
            partition,
            block,
            block_stride,
            rounds,
            depth,
            first_input_slot,
            first_result_slot,
            base,
            staged: 0,
            reduced: 0,
            drained: 0,
            drained_peers: 0,
            staged_by_all: 0,
            stores: if streams { Stores::Streaming } else { Stores::Cached },
        };
        group.arena.announce(call.op_seq, request.signature);
        entered.stage(group, call);
        entered
    }

    /// Does the next thing that can be done, or says what is waited for.
    ///
    /// In the steady state: stage round t, reduce t−1, drain t−2. Each then finds what it needs
    /// ready, and still in a cache. Who has to wait stages ahead.
    pub(super) fn step(
        &mut self,
        group: &mut NodeGroup,
        call: &Call<'_>,
    ) -> Result<Progress, Wait> {
        let undrained = self.reduced - self.drained;
        if undrained >= LEAD
            && let Ok(progress) = self.drain(group, call)
        {
            return Ok(progress);
        }
        if self.staged < self.reduced + LEAD && self.can_stage() {
            self.stage(group, call);
            return Ok(Progress::Moved);
        }
        let mut wait = None;
        if self.reduced < self.staged {
            match self.peers_staged(&group.arena) {
                Ok(()) => {
                    self.reduce(group, call);
                    return Ok(Progress::Moved);
                }
                Err(member) => wait = Some(self.wait_for(member, Counter::Staged, self.reduced)),
            }
        }
        if undrained > 0 {
            match self.drain(group, call) {
                Ok(progress) => return Ok(progress),
                Err(member) => {
                    let results = self.wait_for(member, Counter::Reduced, self.drained);
                    wait = wait.or(Some(results));
                }
            }
        }
        if self.can_stage() {
            self.stage(group, call);
            return Ok(Progress::Moved);
        }
        Err(wait.expect("a round that is not over waits for something"))
    }

    fn wait_for(&self, member: usize, counter: Counter, round: usize) -> Wait {
        Wait::Count { member, counter, at_least: self.base + round as u64 + 1 }
    }

    fn can_stage(&self) -> bool {
        self.staged < self.rounds && self.staged < self.drained + self.depth
    }

    /// Copies what others own of our input into the input ring.
    fn stage(&mut self, group: &mut NodeGroup, call: &Call<'_>) {
        let NodeGroup { arena, writer, .. } = group;
        let (member, members) = (arena.member(), arena.members());
        if stages(&call.request, member) {
            for distance in 1..members {
                let owner = (member + distance) % members;
                let block = self.partition.slice(owner, self.staged, self.block);
                let (start, bytes) = extent(&block, call);
                let to = self.staged_block(arena, member, owner, self.staged);
                // SAFETY: the slot is free as argued on `Rounds`; the caller lends the input.
                unsafe { writer.copy(to, call.request.input.wrapping_add(start), bytes) };
            }
        }
        self.staged += 1;
        arena.publish(Counter::Staged, self.base + self.staged as u64);
    }

    /// Where `member` stages its block of the chunk of `owner` in a round.
    fn staged_block(&self, arena: &Arena, member: usize, owner: usize, round: usize) -> *mut u8 {
        let peers = arena.members() - 1;
        let slot = (self.first_input_slot + round) % self.depth;
        let index = slot * peers + (owner + peers - member) % arena.members();
        arena.input_ring(member).as_ptr().wrapping_add(index * self.block_stride)
    }

    /// Where `member` puts its result of a round.
    fn result_block(&self, arena: &Arena, member: usize, round: usize) -> *mut u8 {
        let slot = (self.first_result_slot + round) % self.depth;
        arena.result_ring(member).as_ptr().wrapping_add(slot * self.block_stride)
    }

    /// Whether everybody has staged the round that is to be reduced, or who has not.
    fn peers_staged(&mut self, arena: &Arena) -> Result<(), usize> {
        if self.staged_by_all > self.reduced {
            return Ok(());
        }
        let mut least = usize::MAX;
        for distance in 1..arena.members() {
            let member = (arena.member() + distance) % arena.members();
            let rounds = arena.published(member, Counter::Staged).saturating_sub(self.base);
            let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
            if rounds <= self.reduced {
                return Err(member);
            }
            least = least.min(rounds);
        }
        self.staged_by_all = least;
        Ok(())
    }

    /// Makes our result of the next round.
    fn reduce(&mut self, group: &mut NodeGroup, call: &Call<'_>) {
        let member = group.member();
        match call.request.kind {
            NodeKind::Broadcast { root } if root as usize == member => {
                let block = self.partition.slice(0, self.reduced, self.block);
                let at = extent(&block, call).0;
                self.show(group, call, &block, at);
                self.keep(call, &block, at);
            }
            NodeKind::Broadcast { .. } | NodeKind::Barrier => {}
            NodeKind::AllGather => {
                let block = self.partition.slice(member, self.reduced, self.block);
                let own = self.partition.range(member).start;
                let at = extent(&(own..block.start), call).1;
                self.show(group, call, &block, at);
                self.keep(call, &block, at);
            }
            NodeKind::Gather { root } => {
                let block = self.partition.slice(member, self.reduced, self.block);
                let own = self.partition.range(member).start;
                let at = extent(&(own..block.start), call).1;
                if root as usize == member {
                    self.keep(call, &block, at);
                } else {
                    self.show(group, call, &block, at);
                }
            }
            NodeKind::AllToAll => {
                (0..group.members()).for_each(|owner| {
                    let to = self.partition.slice(owner, self.reduced, self.block).start;
                    self.take(group, call, owner, to);
                });
            }
            NodeKind::Scatter { root } => {
                let block = self.partition.slice(member, self.reduced, self.block);
                let to = block.start - self.partition.range(member).start;
                self.take(group, call, root as usize, to);
            }
            NodeKind::AllReduce | NodeKind::ReduceScatter | NodeKind::Reduce { .. } => {
                self.fold(group, call);
            }
        }
        self.reduced += 1;
        group.arena.publish(Counter::Reduced, self.base + self.reduced as u64);
    }

    /// Puts elements as they are, found at byte `at` of the input, into the result ring.
    fn show(&self, group: &mut NodeGroup, call: &Call<'_>, block: &Range<usize>, at: usize) {
        let (_, bytes) = extent(block, call);
        let from = call.request.input.wrapping_add(at);
        let shown = self.result_block(&group.arena, group.member(), self.reduced);
        // SAFETY: the slot is free as argued on `Rounds`; the caller lends the input.
        unsafe { group.writer.copy(shown, from, bytes) };
    }

    /// Puts elements as they are, found at byte `at` of the input, into the output.
    fn keep(&self, call: &Call<'_>, block: &Range<usize>, at: usize) {
        let (start, bytes) = extent(block, call);
        let from = call.request.input.wrapping_add(at);
        let to = call.request.output.wrapping_add(start);
        if !std::ptr::eq(to, from) {
            // SAFETY: the caller lends the output, which is not the input here.
            unsafe { copy(to, from, bytes, self.stores) };
        }
    }

    /// Copies our block of what `owner` has for us to the output, to element `to` of it.
    fn take(&self, group: &NodeGroup, call: &Call<'_>, owner: usize, to: usize) {
        let member = group.member();
        let block = self.partition.slice(member, self.reduced, self.block);
        let (start, bytes) = extent(&block, call);
        let from = if owner == member {
            call.request.input.wrapping_add(start).cast_mut()
        } else {
            self.staged_block(&group.arena, owner, member, self.reduced)
        };
        let to = call.request.output.wrapping_add(to * call.request.dtype.size());
        if !std::ptr::eq(to, from) {
            // SAFETY: the owner has staged this round and leaves it alone until we publish it as
            // reduced; the caller lends input and output.
            unsafe { copy(to, from, bytes, self.stores) };
        }
    }

    /// Folds the block of our own chunk.
    fn fold(&self, group: &mut NodeGroup, call: &Call<'_>) {
        let request = &call.request;
        let (member, members, size) = (group.member(), group.members(), request.dtype.size());
        let block = self.partition.slice(member, self.reduced, self.block);
        let Some(kernel) = call.kernel else { return };
        let result = self.result_block(&group.arena, member, self.reduced);
        let own_start = self.partition.range(member).start;
        let to = match request.kind {
            NodeKind::AllReduce => Some(request.output.wrapping_add(block.start * size)),
            NodeKind::Reduce { root } if root as usize == member => {
                Some(request.output.wrapping_add(block.start * size))
            }
            NodeKind::ReduceScatter => {
                Some(request.output.wrapping_add((block.start - own_start) * size))
            }
            _ => None,
        };
        // Stores of the fold would wait for each line like all others.
        let is_taken = (1..members)
            .any(|distance| takes_result(request.kind, (member + distance) % members, member));
        let streams = is_taken && group.writer.streams(block.len() * size);
        let piece = PIECE_BYTES / size;
        let mut done = 0;
        while done < block.len() {
            let count = piece.min(block.len() - done);
            group.operands.clear();
            for distance in 1..members {
                let peer = (member + distance) % members;
                let staged = self.staged_block(&group.arena, peer, member, self.reduced);
                group.operands.push(staged.wrapping_add(done * size));
            }
            group.operands.push(request.input.wrapping_add((block.start + done) * size));
            let shown = result.wrapping_add(done * size);
            let reduced = if streams { group.scratch.as_mut_ptr().cast() } else { shown };
            // SAFETY: the peers have staged this round and leave it alone until we publish it as
            // reduced; the result's slot is free as argued on `Rounds`, and the scratch ours; the
            // caller lends the input.
            unsafe { fold_chain(kernel, reduced, reduced, &group.operands, count) };
            if streams {
                // SAFETY: the slot is free, and another place than the scratch.
                unsafe { stream_bytes(shown, reduced, count * size) };
            }
            if let Some(to) = to {
                // SAFETY: the caller lends the output; the own input there was just read.
                unsafe { copy(to.wrapping_add(done * size), reduced, count * size, self.stores) };
            }
            done += count;
        }
        if streams {
            stream_fence();
        }
    }

    /// Copies the results of others, as far as they are there; says who is missing.
    fn drain(&mut self, group: &NodeGroup, call: &Call<'_>) -> Result<Progress, usize> {
        let arena = &group.arena;
        let (member, members) = (arena.member(), arena.members());
        let target = self.base + self.drained as u64 + 1;
        while self.drained_peers + 1 < members {
            let owner = (member + 1 + self.drained_peers) % members;
            if arena.published(owner, Counter::Reduced) < target {
                return Err(owner);
            }
            if takes_result(call.request.kind, member, owner) {
                let broadcast = matches!(call.request.kind, NodeKind::Broadcast { .. });
                let part = if broadcast { 0 } else { owner };
                let block = self.partition.slice(part, self.drained, self.block);
                let (start, bytes) = extent(&block, call);
                let from = self.result_block(arena, owner, self.drained);
                let to = call.request.output.wrapping_add(start);
                // SAFETY: the owner has published the block and leaves it alone until we stage
                // round `drained + depth`; the caller lends the output.
                unsafe { copy(to, from, bytes, self.stores) };
            }
            self.drained_peers += 1;
        }
        self.drained += 1;
        self.drained_peers = 0;
        if self.drained < self.rounds {
            return Ok(Progress::Moved);
        }
        streamed(self.stores);
        Ok(Progress::Done)
    }
}

/// Whether `member` has something for each of the others.
fn stages(request: &NodeRequest<'_>, member: usize) -> bool {
    match request.kind {
        NodeKind::AllToAll => true,
        NodeKind::Scatter { root } => root as usize == member,
        _ => request.reduces(),
    }
}

/// Whether `member` wants what `owner` shows.
fn takes_result(kind: NodeKind, member: usize, owner: usize) -> bool {
    match kind {
        NodeKind::AllReduce | NodeKind::AllGather => true,
        NodeKind::Reduce { root } | NodeKind::Gather { root } => root as usize == member,
        NodeKind::Broadcast { root } => root as usize == owner,
        NodeKind::ReduceScatter
        | NodeKind::AllToAll
        | NodeKind::Scatter { .. }
        | NodeKind::Barrier => false,
    }
}

/// First byte and number of bytes of a range of elements.
fn extent(range: &Range<usize>, call: &Call<'_>) -> (usize, usize) {
    let size = call.request.dtype.size();
    (range.start * size, range.len() * size)
}

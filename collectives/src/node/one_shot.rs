//! Everybody shows its contribution to everybody.

use paceline_transports::shm::Arena;

use super::chain::fold_chain;
use super::copy::{Stores, copy};
use super::group::{Call, NodeGroup};
use super::plan::{LINE, PIECE_BYTES};
use super::request::{NodeKind, NodeRequest};

/// One-shot: one crossing per operation.
///
/// Contributions lie in the announcement or at a place of the input ring that no member can still be
/// reading: see [`OneShot::enter`].
#[derive(Debug)]
pub(super) struct OneShot {
    /// Where in every member's input ring the contributions lie, or in the announcements if `None`.
    ring_offset: Option<usize>,
}

impl OneShot {
    /// Shows this member's contribution of `bytes` bytes.
    ///
    /// When a member enters operation k it has seen all announcements of k−1, so all members have
    /// ended k−2; some may still be reading the contributions to k−1. Announcements alternate
    /// between two generations, so k uses that of k−2. In the ring, k's slot follows that of k−1 and
    /// starts over at 0 when it would not fit before the end; a slot is at most a quarter of the
    /// ring, so that two neighbours never overlap.
    pub(super) fn enter(
        group: &mut NodeGroup,
        call: &Call<'_>,
        bytes: usize,
        inline: bool,
    ) -> Self {
        let NodeGroup { arena, writer, .. } = group;
        let member = arena.member();
        group.shown_before = if inline { 0 } else { bytes.next_multiple_of(LINE) };
        let (place, ring_offset) = if inline {
            (arena.inline_bytes(member, call.op_seq).as_ptr(), None)
        } else {
            let needed = group.shown_before;
            if group.input_cursor + needed > arena.layout().input_ring_bytes {
                group.input_cursor = 0;
            }
            let offset = group.input_cursor;
            group.input_cursor += needed;
            // SAFETY: `offset + needed` lies within the ring.
            (unsafe { arena.input_ring(member).add(offset) }.as_ptr(), Some(offset))
        };
        let shown = shown_bytes(&call.request, member, arena.members());
        if shown > 0 {
            // SAFETY: the plan reserved room for the longest contribution, which nobody reads as
            // argued above; the caller lends the input.
            unsafe { writer.copy(place, call.request.input, shown) };
        }
        arena.announce(call.op_seq, call.request.signature);
        Self { ring_offset }
    }

    /// What `member` shows; for ourselves the input itself.
    #[inline]
    fn contribution(&self, arena: &Arena, call: &Call<'_>, member: usize) -> *const u8 {
        if member == arena.member() {
            return call.request.input;
        }
        match self.ring_offset {
            None => arena.inline_bytes(member, call.op_seq).as_ptr(),
            Some(offset) => arena.input_ring(member).as_ptr().wrapping_add(offset),
        }
    }

    /// Makes the results, once everybody has entered.
    #[inline]
    pub(super) fn finish(&self, group: &mut NodeGroup, call: &Call<'_>) {
        let request = &call.request;
        let (members, member) = (group.members(), group.member());
        match request.kind {
            NodeKind::AllReduce => self.fold_all(group, call),
            NodeKind::ReduceScatter => self.fold(group, call, member),
            NodeKind::Reduce { root } if root as usize == member => self.fold_all(group, call),
            NodeKind::AllGather => {
                (0..members).for_each(|owner| self.take_chunk(group, call, owner));
            }
            NodeKind::Broadcast { root } => {
                let from = self.contribution(&group.arena, call, root as usize);
                // SAFETY: the root shows the whole tensor, and the caller lends as much room.
                unsafe { take(request.output, from, request.bytes()) };
            }
            NodeKind::AllToAll => {
                (0..members).for_each(|owner| self.take_block(group, call, owner, owner));
            }
            NodeKind::Scatter { root } => self.take_block(group, call, root as usize, 0),
            NodeKind::Gather { root } if root as usize == member => {
                (0..members).for_each(|owner| self.take_chunk(group, call, owner));
            }
            NodeKind::Reduce { .. } | NodeKind::Gather { .. } | NodeKind::Barrier => {}
        }
    }

    /// Reduces everything that all members contributed.
    #[inline]
    fn fold_all(&self, group: &mut NodeGroup, call: &Call<'_>) {
        let (request, arena) = (&call.request, &group.arena);
        let commutative = call.kernel.filter(|kernel| kernel.is_commutative());
        let Some(kernel) = commutative.filter(|_| arena.members() == 2) else {
            return (0..arena.members()).for_each(|owner| self.fold(group, call, owner));
        };
        // Commutative to the bit: for two operands the order of both chunks is one and the same.
        let theirs = self.contribution(arena, call, 1 - arena.member());
        let (output, count) = (request.output, request.count);
        // SAFETY: as in `fold`.
        unsafe { kernel.reduce(output, request.input, theirs, count) };
        // SAFETY: the output is lent by the caller and holds `count` elements.
        unsafe { kernel.finish(output, count, 2) };
    }

    /// Reduces chunk `owner`, in the order of the schedule: the owner's own input comes last.
    fn fold(&self, group: &mut NodeGroup, call: &Call<'_>, owner: usize) {
        let request = &call.request;
        let members = group.members();
        let chunk = request.partition(members).range(owner);
        let Some(kernel) = call.kernel.filter(|_| !chunk.is_empty()) else { return };
        let size = request.dtype.size();
        let own_start = if request.kind == NodeKind::ReduceScatter { chunk.start } else { 0 };
        // In place the output is the own contribution, which may be needed in the middle of the
        // chain. Our result ring is free: everybody who has entered this operation has drained it.
        let scratch = group.arena.result_ring(group.arena.member()).as_ptr();
        let piece = PIECE_BYTES / size;
        for start in chunk.clone().step_by(piece) {
            let count = piece.min(chunk.end - start);
            group.operands.clear();
            for place in 1..=members {
                let from = self.contribution(&group.arena, call, (owner + place) % members);
                group.operands.push(from.wrapping_add(start * size));
            }
            let output = request.output.wrapping_add((start - own_start) * size);
            // SAFETY: every contribution holds the piece at `start`, was announced, and stays until
            // this member announces the operation after the next; the ring has room for a piece; the
            // output is lent by the caller and is either the own contribution or apart from all.
            unsafe { fold_chain(kernel, output, scratch, &group.operands, count) };
        }
    }

    /// Takes our chunk of what `owner` shows to where chunk `place` of the output begins.
    fn take_block(&self, group: &NodeGroup, call: &Call<'_>, owner: usize, place: usize) {
        let request = &call.request;
        let size = request.dtype.size();
        let partition = request.partition(group.members());
        let chunk = partition.range(group.member());
        let from = self.contribution(&group.arena, call, owner).wrapping_add(chunk.start * size);
        let to = request.output.wrapping_add(partition.range(place).start * size);
        // SAFETY: the owner shows all chunks; the caller lends room for one, or for one from each
        // member, and those of an exchange have one length.
        unsafe { take(to, from, chunk.len() * size) };
    }

    fn take_chunk(&self, group: &NodeGroup, call: &Call<'_>, owner: usize) {
        let request = &call.request;
        let size = request.dtype.size();
        let chunk = request.partition(group.members()).range(owner);
        let from = self.contribution(&group.arena, call, owner);
        let to = request.output.wrapping_add(chunk.start * size);
        // SAFETY: the owner shows its chunk, and the caller lends room for all chunks.
        unsafe { take(to, from, chunk.len() * size) };
    }
}

/// Copies unless the bytes are in place already.
///
/// # Safety
/// As for [`copy`], except that the two may be equal.
unsafe fn take(to: *mut u8, from: *const u8, bytes: usize) {
    if bytes > 0 && !std::ptr::eq(to, from) {
        // SAFETY: the conditions are those of this function.
        unsafe { copy(to, from, bytes, Stores::Cached) }
    }
}

/// Bytes that `member` contributes.
#[inline]
fn shown_bytes(request: &NodeRequest<'_>, member: usize, members: usize) -> usize {
    match request.kind {
        NodeKind::AllReduce | NodeKind::ReduceScatter | NodeKind::AllToAll => request.bytes(),
        // The root folds all others' inputs with its own and shows nothing.
        NodeKind::Reduce { root } if root as usize != member => request.bytes(),
        NodeKind::Broadcast { root } | NodeKind::Scatter { root } if root as usize == member => {
            request.bytes()
        }
        NodeKind::Gather { root } if root as usize == member => 0,
        NodeKind::AllGather | NodeKind::Gather { .. } => {
            request.partition(members).range(member).len() * request.dtype.size()
        }
        _ => 0,
    }
}

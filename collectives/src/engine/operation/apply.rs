//! What becomes of the messages that have arrived: they stay, or are reduced.

use std::ops::Range;
use std::time::Instant;

use super::super::board::WINDOW_MAX;
use super::super::wire::Wire;
use super::Operation;
use crate::schedule::{Action, RecvStep, Target};
use crate::timeline::{Track, What};

impl Operation<'_> {
    /// Applies what has arrived, in the order of the schedule. Returns whether there was anything.
    pub(super) fn apply(&mut self, wire: &mut Wire) -> bool {
        let mut any = false;
        while wire.board(self.board).next_has_arrived() {
            let board = wire.board(self.board);
            let (index, sent) = (board.applied(), board.sent());
            let step = self.schedule.recv(index);
            if step.after_sends > sent {
                break;
            }
            let started = wire.trace.as_ref().map(|_| Instant::now());
            self.carry_out(&step, index);
            if let (Some(started), Some(trace)) = (started, &wire.trace)
                && !matches!(step.action, Action::Store | Action::Hold | Action::Gather)
            {
                let bytes = (step.range.len() * self.element_bytes) as u64;
                let what = What::Kernel { label: self.label(), bytes };
                trace.timeline().record(Track::Kernels(self.id.communicator), started, what);
            }
            wire.board(self.board).apply();
            any = true;
        }
        any
    }

    /// Does what a receive is for.
    fn carry_out(&mut self, step: &RecvStep, index: usize) {
        let first = step.range.start;
        match step.action {
            Action::Store | Action::Hold | Action::Gather => {}
            Action::Reduce { last, target } => {
                let (out, received) = (self.target_at(target, first, index), self.slot_at(index));
                self.combine(out, received, self.input_at(first), step.range.len(), last);
                self.free_slots(index, 0, target);
            }
            Action::Combine { received_first, first: is_first, last } => {
                let out = self.output_at(first);
                let own = if is_first { self.input_at(first) } else { out.cast_const() };
                let received = self.slot_at(index);
                let (a, b) = if received_first { (received, own) } else { (own, received) };
                self.combine(out, a, b, step.range.len(), last);
                self.free_slots(index, 0, Target::Output);
            }
            Action::Fold { held, target } => {
                let out = self.target_at(target, first, index);
                let piece = |nth| self.slot_at(index - held + nth - 1);
                self.fold(out, step.range.clone(), held + 2, self.rank, piece);
                self.free_slots(index, held, target);
            }
            Action::FoldChunks { held } => {
                self.fold_chunks(&step.range, |nth| self.slot_at(index - held + nth - 1));
                self.free_slots(index, held, Target::Output);
            }
            Action::FoldGathered => {
                let gathered = self.workspace.scratch.as_ptr().as_ptr().cast_const();
                let bytes = self.operands.input.bytes();
                let all = 0..self.partition.count();
                self.fold_chunks(&all, |nth| gathered.wrapping_add(nth * bytes));
            }
        }
    }

    /// Frees the slots of a receive and the `held` before it; its own holds a result if that is the
    /// target.
    fn free_slots(&mut self, index: usize, held: usize, target: Target) {
        for receive in index - held..index {
            self.slots.free(self.slot_of(receive));
        }
        let own = self.slot_of(index);
        match target {
            Target::Output => self.slots.free(own),
            Target::Scratch => self.slots.keep(own),
        }
    }

    fn combine(&self, out: *mut u8, a: *const u8, b: *const u8, count: usize, last: bool) {
        let kernel = self.kernel.as_ref().expect("a reducing schedule comes with a kernel");
        // SAFETY: all three hold `count` elements: scratch slots by their size, input and output by
        // the contract of `new`. They are aligned (slots to cache lines), and the output is the
        // very memory of an operand or apart from both.
        unsafe { kernel.reduce(out, a, b, count) };
        if last {
            // SAFETY: as above.
            unsafe { kernel.finish(out, count, self.contributors) };
        }
    }

    /// Folds what `range` has of every chunk in its canonical order; `piece(k)` has that range of the input
    /// of rank r+k.
    fn fold_chunks(&self, range: &Range<usize>, piece: impl Fn(usize) -> *const u8) {
        for chunk in 0..self.world_size {
            let chunk_range = self.partition.range(chunk);
            let part = range.start.max(chunk_range.start)..range.end.min(chunk_range.end);
            let skip = part.start.saturating_sub(range.start) * self.element_bytes;
            let out = self.output_at(part.start);
            self.fold(out, part, self.world_size, chunk, |nth| piece(nth).wrapping_add(skip));
        }
    }

    /// Folds the inputs of all ranks over `range` in the canonical order of the owner `chunk`; `piece(k)`
    /// has that range of the input of rank r+k.
    fn fold(
        &self,
        out: *mut u8,
        range: Range<usize>,
        ranks: usize,
        chunk: usize,
        piece: impl Fn(usize) -> *const u8,
    ) {
        if range.is_empty() {
            return;
        }
        let mut inputs = [std::ptr::null(); WINDOW_MAX];
        for (place, input) in inputs[..ranks].iter_mut().enumerate() {
            let rank = (chunk + 1 + place) % self.world_size;
            let nth = (rank + self.world_size - self.rank) % self.world_size;
            *input = if nth == 0 { self.input_at(range.start) } else { piece(nth) };
        }
        let kernel = self.kernel.as_ref().expect("a reducing schedule comes with a kernel");
        // SAFETY: every input holds the range's elements, as in `combine`; the output is the memory
        // of one of them or apart from all.
        unsafe { kernel.fold_and_finish(out, &inputs[..ranks], range.len(), self.contributors) };
    }

    /// Copies the input to where those of the others are gathered.
    pub(super) fn gather_own(&self) {
        let bytes = self.operands.input.bytes();
        let own = self.workspace.scratch.as_ptr().as_ptr();
        // SAFETY: scratch has room for the inputs of all ranks and is not the caller's memory; what is
        // posted by now, if anything, are the places of the others' inputs.
        unsafe { std::ptr::copy_nonoverlapping(self.input_at(0), own, bytes) };
    }

    fn input_at(&self, element: usize) -> *const u8 {
        self.operands.input.host_address().cast_const().wrapping_add(element * self.element_bytes)
    }

    fn output_at(&self, element: usize) -> *mut u8 {
        self.operands.output.host_address().wrapping_add(self.output_offset(element))
    }

    fn target_at(&self, target: Target, element: usize, index: usize) -> *mut u8 {
        match target {
            Target::Output => self.output_at(element),
            Target::Scratch => self.slot_at(index).cast_mut(),
        }
    }

    fn slot_of(&self, index: usize) -> u32 {
        self.workspace.slots[index % (2 * WINDOW_MAX)]
    }

    fn slot_at(&self, index: usize) -> *const u8 {
        let offset = self.slot_of(index) as usize * self.slot_bytes;
        self.workspace.scratch.as_ptr().as_ptr().wrapping_add(offset)
    }
}

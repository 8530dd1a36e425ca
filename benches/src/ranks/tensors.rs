//! The tensors that a pass works on.

use super::collective::neutral;
use super::grow;
use crate::metrics::as_u64;
use crate::run::BoxError;
use crate::verify::{Pattern, Source, TestElement};
use paceline_devices::ReduceOp;

/// The buffers of a list of tensors, filled and checked as if they were one vector.
#[derive(Debug)]
pub(super) struct Tensors<'a, T> {
    pattern: &'a Pattern<T>,
    op: ReduceOp,
    counts: Vec<usize>,
    slots: Vec<Vec<Vec<T>>>,
}

impl<'a, T: TestElement> Tensors<'a, T> {
    /// Without buffers yet.
    pub(super) fn new(
        pattern: &'a Pattern<T>,
        op: ReduceOp,
        counts: &[u64],
    ) -> Result<Self, BoxError> {
        let counts = counts.iter().copied().map(usize::try_from).collect::<Result<_, _>>()?;
        Ok(Self { pattern, op, counts, slots: Vec::new() })
    }

    /// How many elements each tensor has.
    pub(super) fn counts(&self) -> &[usize] {
        &self.counts
    }

    pub(super) fn slot(&mut self, slot: usize) -> &mut [Vec<T>] {
        &mut self.slots[slot]
    }

    pub(super) fn slot_bytes(&self) -> u64 {
        self.counts.iter().map(|count| as_u64(*count) * as_u64(size_of::<T>())).sum()
    }

    pub(super) fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
        while self.slots.len() < count {
            let mut tensors = Vec::with_capacity(self.counts.len());
            for count in &self.counts {
                let mut tensor = Vec::new();
                grow(&mut tensor, *count, T::from_integer(1))?;
                tensors.push(tensor);
            }
            self.slots.push(tensors);
        }
        Ok(())
    }

    /// Fills a slot with what a rank contributes to an iteration.
    pub(super) fn fill(&mut self, rank: u32, slot: usize, iteration: u64) {
        self.for_each(slot, |pattern, first, tensor| {
            pattern.fill(Source::Rank(rank), iteration, first, tensor);
        });
    }

    /// How many elements of a slot are not the reduction of what all ranks contributed.
    pub(super) fn count_wrong(&mut self, slot: usize, iteration: u64) -> u64 {
        let mut wrong = 0;
        self.for_each(slot, |pattern, first, tensor| {
            wrong += pattern.count_wrong(Source::Reduced, iteration, first, tensor);
        });
        wrong
    }

    /// Fills a slot with what any number of operations leaves as it is.
    pub(super) fn settle(&mut self, slot: usize) {
        let neutral = neutral(self.op);
        self.slots[slot].iter_mut().for_each(|tensor| tensor.fill(neutral));
    }

    /// Visits the tensors of a slot with the index of their first element in the whole pass.
    fn for_each(&mut self, slot: usize, mut visit: impl FnMut(&Pattern<T>, usize, &mut [T])) {
        let mut first = 0;
        for tensor in &mut self.slots[slot] {
            visit(self.pattern, first, tensor);
            first += tensor.len();
        }
    }
}

//! The gradients of a whole backward pass as a workload.

use std::ops::Range;

use paceline_collectives::Communicator;
use paceline_devices::ReduceOp;

use super::collective::neutral;
use super::grow;
use crate::metrics::as_u64;
use crate::models::fuse;
use crate::run::{BoxError, Workload};
use crate::verify::{Pattern, Source, TestElement};

/// How the tensors of a model are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucketing {
    /// Each tensor for itself.
    Alone,
    /// Several tensors in one operation, as long as they are no larger together than so many bytes.
    Fused(u64),
}

/// All-reduces the gradient tensors of a model, in backward order: one operation of the workload
/// is one backward pass.
#[derive(Debug)]
pub struct GradientsWorkload<'a, T> {
    communicator: &'a Communicator,
    op: ReduceOp,
    pattern: &'a Pattern<T>,
    counts: Vec<usize>,
    buckets: Vec<Range<usize>>,
    /// The tensors of each slot: one, because a pass takes far longer than lining up.
    slots: Vec<Vec<Vec<T>>>,
}

impl<'a, T: TestElement> GradientsWorkload<'a, T> {
    /// A workload without buffers yet; `counts` are the elements of each tensor.
    ///
    /// # Errors
    /// When a tensor does not fit in the address space.
    pub fn new(
        communicator: &'a Communicator,
        op: ReduceOp,
        pattern: &'a Pattern<T>,
        counts: &[u64],
        bucketing: Bucketing,
    ) -> Result<Self, BoxError> {
        let threshold = match bucketing {
            Bucketing::Alone => 0,
            Bucketing::Fused(bytes) => bytes,
        };
        let buckets = fuse(counts, as_u64(size_of::<T>()), threshold);
        let counts = counts.iter().copied().map(usize::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { communicator, op, pattern, counts, buckets, slots: Vec::new() })
    }

    /// The algorithms of all operations of a pass, the one with the most bytes first.
    pub fn algorithms(&self) -> String {
        let mut by_name: Vec<(&str, u64)> = Vec::new();
        for bucket in &self.buckets {
            for (count, choice) in self.communicator.plan_fused::<T>(&self.counts[bucket.clone()]) {
                let name = choice.algorithm.name();
                match by_name.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, total)) => *total += as_u64(count),
                    None => by_name.push((name, as_u64(count))),
                }
            }
        }
        by_name.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        by_name.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+")
    }

    /// Visits the tensors of a slot with the index of their first element in the whole pass.
    fn for_each_tensor(
        &mut self,
        slot: usize,
        mut visit: impl FnMut(&Pattern<T>, usize, &mut [T]),
    ) {
        let mut first = 0;
        for tensor in &mut self.slots[slot] {
            visit(self.pattern, first, tensor);
            first += tensor.len();
        }
    }
}

impl<T: TestElement> Workload for GradientsWorkload<'_, T> {
    fn slot_bytes(&self) -> u64 {
        self.counts.iter().map(|count| as_u64(*count) * as_u64(size_of::<T>())).sum()
    }

    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
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

    fn prepare(&mut self, slot: usize, iteration: u64) {
        let mine = Source::Rank(self.communicator.rank());
        self.for_each_tensor(slot, |pattern, first, tensor| {
            pattern.fill(mine, iteration, first, tensor);
        });
    }

    fn run(&mut self, slot: usize) -> Result<(), BoxError> {
        let tensors = &mut self.slots[slot];
        for bucket in &self.buckets {
            match &mut tensors[bucket.clone()] {
                // A copy into the staging buffer and back would buy nothing.
                [tensor] => self.communicator.all_reduce(tensor, self.op)?,
                several => {
                    let mut slices: Vec<&mut [T]> =
                        several.iter_mut().map(Vec::as_mut_slice).collect();
                    self.communicator.all_reduce_fused(&mut slices, self.op)?;
                }
            }
        }
        Ok(())
    }

    fn count_wrong(&mut self, slot: usize, iteration: u64) -> u64 {
        let mut wrong = 0;
        self.for_each_tensor(slot, |pattern, first, tensor| {
            wrong += pattern.count_wrong(Source::Reduced, iteration, first, tensor);
        });
        wrong
    }

    fn settle(&mut self, slot: usize) {
        let neutral = neutral(self.op);
        self.slots[slot].iter_mut().for_each(|tensor| tensor.fill(neutral));
    }
}

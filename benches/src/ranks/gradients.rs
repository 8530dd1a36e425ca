//! The gradients of a whole backward pass as a workload.

use std::ops::Range;

use paceline_collectives::Communicator;
use paceline_devices::ReduceOp;

use super::tensors::Tensors;
use crate::metrics::as_u64;
use crate::models::fuse;
use crate::run::{BoxError, Workload};
use crate::verify::{Pattern, TestElement};

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
    buckets: Vec<Range<usize>>,
    /// One slot, because a pass takes far longer than lining up.
    tensors: Tensors<'a, T>,
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
        Ok(Self { communicator, op, buckets, tensors: Tensors::new(pattern, op, counts)? })
    }

    /// The algorithms of all operations of a pass, the one with the most bytes first.
    pub fn algorithms(&self) -> String {
        let counts = self.tensors.counts();
        let plan = |bucket: &Range<usize>| {
            self.communicator.plan_fused::<T>(&counts[bucket.clone()]).into_iter()
        };
        let operations = self.buckets.iter().flat_map(plan);
        name_algorithms(operations.map(|(count, choice)| (count, choice.algorithm.name())))
    }
}

/// Algorithms by the number of elements that they are used for, most first.
pub(super) fn name_algorithms(operations: impl Iterator<Item = (usize, &'static str)>) -> String {
    let mut by_name: Vec<(&str, u64)> = Vec::new();
    for (count, name) in operations {
        match by_name.iter_mut().find(|(known, _)| *known == name) {
            Some((_, total)) => *total += as_u64(count),
            None => by_name.push((name, as_u64(count))),
        }
    }
    by_name.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    by_name.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+")
}

impl<T: TestElement> Workload for GradientsWorkload<'_, T> {
    fn slot_bytes(&self) -> u64 {
        self.tensors.slot_bytes()
    }

    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
        self.tensors.reserve_slots(count)
    }

    fn prepare(&mut self, slot: usize, iteration: u64) {
        self.tensors.fill(self.communicator.rank(), slot, iteration);
    }

    fn run(&mut self, slot: usize) -> Result<(), BoxError> {
        let tensors = self.tensors.slot(slot);
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
        self.tensors.count_wrong(slot, iteration)
    }

    fn settle(&mut self, slot: usize) {
        self.tensors.settle(slot);
    }
}

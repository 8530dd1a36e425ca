//! All-reduces that are submitted to a queue.

use std::sync::Arc;

use paceline_collectives::queue::{Handle, Queue, QueueError};
use paceline_devices::ReduceOp;

use super::tensors::Tensors;
use crate::run::{BoxError, Workload};
use crate::verify::{Pattern, TestElement};

/// Submits the all-reduces of some tensors in their order and waits for all of them: one operation
/// of the workload is one such pass.
#[derive(Debug)]
pub struct QueuedWorkload<'a, T> {
    queue: &'a Queue,
    op: ReduceOp,
    names: Vec<Arc<str>>,
    tensors: Tensors<'a, T>,
    handles: Vec<Handle<Vec<T>>>,
}

impl<'a, T: TestElement> QueuedWorkload<'a, T> {
    /// A workload without buffers yet. `tensors` are names, which differ, and numbers of elements.
    ///
    /// # Errors
    /// When a tensor does not fit in the address space.
    pub fn new(
        queue: &'a Queue,
        op: ReduceOp,
        pattern: &'a Pattern<T>,
        tensors: &[(&str, u64)],
    ) -> Result<Self, BoxError> {
        let names = tensors.iter().map(|(name, _)| Arc::from(*name)).collect();
        let counts: Vec<u64> = tensors.iter().map(|(_, count)| *count).collect();
        let tensors = Tensors::new(pattern, op, &counts)?;
        Ok(Self { queue, op, names, tensors, handles: Vec::new() })
    }
}

impl<T: TestElement> Workload for QueuedWorkload<'_, T> {
    fn slot_bytes(&self) -> u64 {
        self.tensors.slot_bytes()
    }

    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
        self.tensors.reserve_slots(count)
    }

    fn prepare(&mut self, slot: usize, iteration: u64) {
        self.tensors.fill(self.queue.rank(), slot, iteration);
    }

    fn run(&mut self, slot: usize) -> Result<(), BoxError> {
        let Self { queue, op, names, tensors, handles } = self;
        let tensors = tensors.slot(slot);
        for (name, tensor) in names.iter().zip(tensors.iter_mut()) {
            let data = std::mem::take(tensor);
            handles.push(queue.all_reduce(Arc::clone(name), data, *op));
        }
        for (handle, tensor) in handles.drain(..).zip(tensors) {
            *tensor = handle.wait().map_err(QueueError::from)?;
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

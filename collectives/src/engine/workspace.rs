use std::ptr::NonNull;
use std::sync::Arc;

use paceline_devices::Buffer;
use paceline_transports::Region;

use super::board::WINDOW_MAX;

/// What a communicator keeps between operations, so that none of them allocates.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(super) input: Arc<Region>,
    pub(super) output: Arc<Region>,
    pub(super) scratch: Arc<Region>,
    /// The slot of each receive that lands in scratch, by its number modulo the length: those posted
    /// and those held back, at most a window of each.
    pub(super) slots: [u32; 2 * WINDOW_MAX],
}

impl Workspace {
    pub(crate) fn new(scratch: Arc<Region>) -> Self {
        Self {
            input: Region::empty(),
            output: Region::empty(),
            scratch,
            slots: [0; 2 * WINDOW_MAX],
        }
    }

    pub(crate) fn scratch_bytes(&self) -> usize {
        self.scratch.len()
    }

    /// Slices that transports hold.
    #[cfg(test)]
    pub(crate) fn posted(&self) -> usize {
        [&self.input, &self.output, &self.scratch]
            .map(|region| Arc::strong_count(region) - 1)
            .iter()
            .sum()
    }

    pub(crate) fn replace_scratch(&mut self, scratch: Arc<Region>) {
        self.scratch = scratch;
    }

    /// Lets the regions stand for the buffers of an operation.
    ///
    /// # Safety
    /// The buffers are valid for as long as slices of the regions are posted.
    pub(super) unsafe fn lend(&mut self, input: &Buffer, output: &Buffer) {
        for (region, buffer) in [(&mut self.input, input), (&mut self.output, output)] {
            let start = NonNull::new(buffer.host_address()).expect("no buffer begins at address 0");
            // SAFETY: the contract of this function.
            let lent = unsafe { region.relend(start, buffer.bytes()) };
            lent.expect("the operation before this one left nothing posted");
        }
    }
}

//! One collective call as a workload.

use std::ops::Range;

use paceline_collectives::{CollectiveError, Communicator};
use paceline_devices::ReduceOp;

use super::{grow, index};
use crate::metrics::{Collective, Shape, as_u64};
use crate::run::{BoxError, Workload};
use crate::verify::{Pattern, Source, TestElement};
use crate::yardstick::Library;

/// The rank that others get their data from, or send it to.
const ROOT: u32 = 0;

/// One collective on buffers of one shape.
#[derive(Debug)]
pub struct CollectiveWorkload<'a, T> {
    communicator: &'a Communicator,
    collective: Collective,
    op: ReduceOp,
    pattern: &'a Pattern<T>,
    /// Elements of the smaller and of the larger buffer.
    count: usize,
    elements: usize,
    out_of_place: bool,
    /// Who carries it out instead of ours.
    library: Option<Box<dyn Library<T> + 'a>>,
    slots: Vec<Slot<T>>,
}

/// The buffers of one operation. In place there is only `data`, which else is the output.
#[derive(Debug)]
struct Slot<T> {
    input: Vec<T>,
    data: Vec<T>,
}

impl<'a, T: TestElement> CollectiveWorkload<'a, T> {
    /// A workload without buffers yet. `pattern` is for `op` and the world of `communicator`.
    ///
    /// # Errors
    /// When the shape does not fit in the address space.
    pub fn new(
        communicator: &'a Communicator,
        collective: Collective,
        op: ReduceOp,
        pattern: &'a Pattern<T>,
        shape: Shape,
        out_of_place: bool,
    ) -> Result<Self, BoxError> {
        Ok(Self {
            communicator,
            collective,
            op,
            pattern,
            count: usize::try_from(shape.count)?,
            elements: usize::try_from(shape.elements())?,
            out_of_place: out_of_place || !collective.works_in_place(),
            library: None,
            slots: Vec::new(),
        })
    }

    /// The same with another library's collective.
    #[must_use]
    pub fn with_library(mut self, library: impl Library<T> + 'a) -> Self {
        self.library = Some(Box::new(library));
        self
    }

    /// Elements of the input and of the output buffer; in place the output is all there is.
    fn lengths(&self) -> (usize, usize) {
        let is_root = self.communicator.rank() == ROOT;
        match (self.collective, self.out_of_place) {
            (Collective::Broadcast, true) if !is_root => (0, self.elements),
            (Collective::Gather, _) => (self.count, if is_root { self.elements } else { 0 }),
            (Collective::Scatter, _) => (if is_root { self.elements } else { 0 }, self.count),
            (Collective::Reduce, true) if !is_root => (self.elements, 0),
            (Collective::Barrier, _) => (0, 0),
            (Collective::ReduceScatter, true) => (self.elements, self.count),
            (Collective::AllGather, true) => (self.count, self.elements),
            (_, true) => (self.elements, self.elements),
            (_, false) => (0, self.elements),
        }
    }

    /// Where this rank's block lies among all.
    fn own_block(&self) -> Range<usize> {
        let start = index(self.communicator.rank()) * self.count;
        start..start + self.count
    }

    fn run_in_place(&self, data: &mut [T]) -> Result<(), CollectiveError> {
        let communicator = self.communicator;
        match self.collective {
            Collective::AllReduce => communicator.all_reduce(data, self.op),
            Collective::ReduceScatter => {
                communicator.reduce_scatter_in_place(data, self.op).map(drop)
            }
            Collective::AllGather => communicator.all_gather_in_place(data),
            Collective::Broadcast => communicator.broadcast(data, ROOT),
            Collective::Reduce => communicator.reduce(data, self.op, ROOT),
            Collective::Barrier => communicator.barrier(),
            Collective::AllToAll | Collective::Gather | Collective::Scatter => {
                unreachable!("it is always measured out of place")
            }
        }
    }

    fn run_apart(&self, input: &[T], output: &mut [T]) -> Result<(), CollectiveError> {
        let communicator = self.communicator;
        let is_root = communicator.rank() == ROOT;
        match self.collective {
            Collective::AllReduce => communicator.all_reduce_into(input, output, self.op),
            Collective::ReduceScatter => communicator.reduce_scatter(input, output, self.op),
            Collective::AllGather => communicator.all_gather(input, output),
            Collective::Broadcast => {
                communicator.broadcast_into(is_root.then_some(input), output, ROOT)
            }
            Collective::Reduce => {
                communicator.reduce_into(input, is_root.then_some(output), self.op, ROOT)
            }
            Collective::AllToAll => communicator.all_to_all(input, output),
            Collective::Gather => communicator.gather(input, is_root.then_some(output), ROOT),
            Collective::Scatter => communicator.scatter(is_root.then_some(input), output, ROOT),
            Collective::Barrier => communicator.barrier(),
        }
    }

    /// Wrong elements in all ranks' blocks: each has the data of the rank that it is from, from the
    /// element on that `first` says.
    fn wrong_in_blocks(&self, iteration: u64, data: &[T], first: impl Fn(usize) -> usize) -> u64 {
        let wrong_from = |rank: u32| {
            let start = index(rank) * self.count;
            let block = &data[start..start + self.count];
            self.pattern.count_wrong(Source::Rank(rank), iteration, first(index(rank)), block)
        };
        (0..self.communicator.world_size()).map(wrong_from).sum()
    }
}

impl<T: TestElement> Workload for CollectiveWorkload<'_, T> {
    fn slot_bytes(&self) -> u64 {
        let (input, data) = self.lengths();
        as_u64(input.saturating_add(data).saturating_mul(size_of::<T>()))
    }

    fn reserve_slots(&mut self, count: usize) -> Result<(), BoxError> {
        let (input_length, data_length) = self.lengths();
        while self.slots.len() < count {
            let mut slot = Slot { input: Vec::new(), data: Vec::new() };
            grow(&mut slot.input, input_length, T::from_integer(1))?;
            grow(&mut slot.data, data_length, T::from_integer(1))?;
            self.slots.push(slot);
        }
        Ok(())
    }

    fn prepare(&mut self, slot: usize, iteration: u64) {
        let (rank, block) = (self.communicator.rank(), self.own_block());
        let Slot { input, data } = &mut self.slots[slot];
        let mine = Source::Rank(rank);
        match (self.collective, self.out_of_place) {
            (Collective::Barrier, _) => {}
            (Collective::AllGather | Collective::Gather, true) => {
                self.pattern.fill(mine, iteration, block.start, input);
            }
            (Collective::AllGather, false) => {
                self.pattern.fill(mine, iteration, block.start, &mut data[block]);
            }
            (_, true) => self.pattern.fill(mine, iteration, 0, input),
            (_, false) => self.pattern.fill(mine, iteration, 0, data),
        }
    }

    fn run(&mut self, slot: usize) -> Result<(), BoxError> {
        // Taken out for the call, because `self` is needed as well; nothing is copied.
        let Slot { input, mut data } =
            std::mem::replace(&mut self.slots[slot], Slot { input: Vec::new(), data: Vec::new() });
        let outcome = match (&self.library, self.out_of_place) {
            (None, true) => self.run_apart(&input, &mut data).map_err(BoxError::from),
            (None, false) => self.run_in_place(&mut data).map_err(BoxError::from),
            (Some(library), true) => library.apart(&input, &mut data),
            (Some(library), false) => library.in_place(&mut data),
        };
        self.slots[slot] = Slot { input, data };
        outcome
    }

    fn count_wrong(&mut self, slot: usize, iteration: u64) -> u64 {
        let rank = self.communicator.rank();
        let data = &self.slots[slot].data;
        let reduced = |first: usize, data: &[T]| {
            self.pattern.count_wrong(Source::Reduced, iteration, first, data)
        };
        match self.collective {
            Collective::Barrier => 0,
            Collective::AllReduce => reduced(0, data),
            Collective::Reduce if rank == ROOT => reduced(0, data),
            Collective::Reduce => 0,
            Collective::ReduceScatter => {
                let block = self.own_block();
                let own = match (&self.library, self.out_of_place) {
                    (_, true) => data,
                    (None, false) => &data[block.clone()],
                    (Some(_), false) => &data[..self.count],
                };
                reduced(block.start, own)
            }
            Collective::Gather if rank != ROOT => 0,
            Collective::AllGather | Collective::Gather => {
                self.wrong_in_blocks(iteration, data, |rank| rank * self.count)
            }
            Collective::AllToAll => {
                let own = self.own_block().start;
                self.wrong_in_blocks(iteration, data, |_| own)
            }
            Collective::Scatter => {
                let first = self.own_block().start;
                self.pattern.count_wrong(Source::Rank(ROOT), iteration, first, data)
            }
            Collective::Broadcast => {
                self.pattern.count_wrong(Source::Rank(ROOT), iteration, 0, data)
            }
        }
    }

    fn settle(&mut self, slot: usize) {
        let neutral = neutral(self.op);
        let Slot { input, data } = &mut self.slots[slot];
        input.fill(neutral);
        data.fill(neutral);
    }
}

#[cfg(test)]
impl<T: TestElement> CollectiveWorkload<'_, T> {
    /// What an operation has left in a slot.
    pub(super) fn output(&self, slot: usize) -> &[T] {
        &self.slots[slot].data
    }

    /// Makes the last element that this rank is answerable for wrong.
    pub(super) fn spoil(&mut self, slot: usize) {
        let own_end = self.own_block().end;
        let data = &mut self.slots[slot].data;
        let last = match (self.collective, self.out_of_place) {
            (Collective::ReduceScatter, false) => data.get_mut(own_end - 1),
            _ => data.last_mut(),
        };
        if let Some(last) = last {
            *last = if last.bits() == 0 { T::from_integer(1) } else { T::from_integer(0) };
        }
    }
}

/// An element that an operator gives back however often it is combined with itself.
pub(super) fn neutral<T: TestElement>(op: ReduceOp) -> T {
    T::from_integer(i64::from(op == ReduceOp::Prod))
}

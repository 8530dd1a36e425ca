//! What one collective call is made of: its buffers, its place in the world, its schedule.

use std::ptr::NonNull;

use paceline_devices::{DType, Element, ReduceOp};

use crate::engine::Buffers;
use crate::node::{NodeKind, NodeRequest};
use crate::plan::{Algorithm, Choice};
use crate::schedule::{
    Barrier, Broadcast, HalvingDoubling, OneShot, Partition, Phases, RecursiveDoubling, Ring,
    Schedule, Shift, Star, TwoShot,
};
use crate::signature::{Collective, OperationKind};

/// Where a rank stands in an operation, and how the vector is cut.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    pub(crate) partition: Partition,
    pub(crate) choice: Choice,
    /// Elements of one slice at most.
    pub(crate) slice: usize,
}

impl Place {
    fn ring(self, phases: Phases) -> AnySchedule {
        let Self { rank, world_size, partition, choice, slice } = self;
        AnySchedule::Ring(Ring::new(rank, world_size, partition, phases, slice, choice.window))
    }

    fn two_shot(self, phases: Phases) -> AnySchedule {
        let Self { rank, world_size, partition, choice, slice } = self;
        let window = choice.window;
        AnySchedule::TwoShot(TwoShot::new(rank, world_size, partition, phases, slice, window))
    }

    /// Ring or two-shot, as the plan says.
    pub(crate) fn either(self, phases: Phases) -> AnySchedule {
        match self.choice.algorithm {
            Algorithm::TwoShot => self.two_shot(phases),
            _ => self.ring(phases),
        }
    }

    pub(crate) fn all_reduce(self) -> AnySchedule {
        let count = self.partition.count();
        let Self { rank, world_size, slice, .. } = self;
        match self.choice.algorithm {
            Algorithm::OneShot => AnySchedule::OneShot(OneShot::new(rank, world_size, count)),
            Algorithm::Star => AnySchedule::Star(Star::new(rank, world_size, count)),
            Algorithm::RecursiveDoubling => AnySchedule::RecursiveDoubling(RecursiveDoubling::new(
                rank, world_size, count, slice,
            )),
            Algorithm::HalvingDoubling => {
                AnySchedule::HalvingDoubling(HalvingDoubling::new(rank, world_size, count, slice))
            }
            _ => self.either(Phases::AllReduce),
        }
    }
}

/// The buffers of a call, as bytes.
pub(crate) struct Memory {
    pub(crate) buffers: Buffers,
}

impl Memory {
    pub(crate) fn in_place<T: Element>(data: &mut [T]) -> Self {
        let start = NonNull::from(&mut *data).cast();
        Self {
            buffers: Buffers {
                input: start,
                input_count: data.len(),
                output: start,
                output_start: 0,
                output_count: data.len(),
                element_bytes: size_of::<T>(),
            },
        }
    }

    /// `output` begins at element `output_start` of the vector.
    pub(crate) fn apart<T: Element>(input: &[T], output: &mut [T], output_start: usize) -> Self {
        Self {
            buffers: Buffers {
                // Never written through: the schedules store to the output only.
                input: NonNull::from(input).cast(),
                input_count: input.len(),
                output: NonNull::from(&mut *output).cast(),
                output_start,
                output_count: output.len(),
                element_bytes: size_of::<T>(),
            },
        }
    }

    /// The call as the members of one node carry it out.
    pub(crate) fn node_request(
        &self,
        kind: &OperationKind,
        partition: Partition,
        rank: usize,
    ) -> NodeRequest {
        let Buffers { input, output, output_start, element_bytes, .. } = self.buffers;
        let own = partition.range(rank).start;
        let (mut from, mut to) = (input.as_ptr().cast_const(), output.as_ptr());
        let root = kind.root.unwrap_or(0);
        let node_kind = match kind.collective {
            Collective::ReduceScatter => {
                to = to.wrapping_add((own - output_start) * element_bytes);
                NodeKind::ReduceScatter
            }
            Collective::AllGather => {
                from = from.wrapping_add(own * element_bytes);
                NodeKind::AllGather
            }
            Collective::Broadcast => NodeKind::Broadcast { root },
            Collective::Reduce => NodeKind::Reduce { root },
            Collective::Barrier => NodeKind::Barrier,
            _ => NodeKind::AllReduce,
        };
        NodeRequest {
            kind: node_kind,
            dtype: kind.dtype.unwrap_or(DType::U8),
            op: kind.op.unwrap_or(ReduceOp::Sum),
            count: partition.count(),
            fused: partition.is_fused().then_some(partition),
            signature: kind.signature(),
            input: from,
            output: to,
        }
    }

    /// A world of one: the result is the input.
    pub(crate) fn copy_input_to_output(&self) {
        let Buffers { input, output, output_count, element_bytes, .. } = self.buffers;
        // SAFETY: in a world of one both hold the same number of elements, the input is valid for
        // reads, the output for writes, and `copy` allows them to be the same.
        unsafe {
            std::ptr::copy(input.as_ptr(), output.as_ptr(), output_count * element_bytes);
        }
    }
}

/// Any of the schedules, by value: making one allocates nothing.
pub(crate) enum AnySchedule {
    Ring(Ring),
    OneShot(OneShot),
    Star(Star),
    TwoShot(TwoShot),
    RecursiveDoubling(RecursiveDoubling),
    HalvingDoubling(HalvingDoubling),
    Broadcast(Broadcast),
    Barrier(Barrier),
    Shift(Shift),
}

impl AnySchedule {
    pub(crate) fn as_dyn(&self) -> &dyn Schedule {
        match self {
            Self::Ring(schedule) => schedule,
            Self::OneShot(schedule) => schedule,
            Self::Star(schedule) => schedule,
            Self::TwoShot(schedule) => schedule,
            Self::RecursiveDoubling(schedule) => schedule,
            Self::HalvingDoubling(schedule) => schedule,
            Self::Broadcast(schedule) => schedule,
            Self::Barrier(schedule) => schedule,
            Self::Shift(schedule) => schedule,
        }
    }
}

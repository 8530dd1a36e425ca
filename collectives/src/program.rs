//! Which schedule carries out a call.

use crate::call::Call;
use crate::plan::{Algorithm, Choice};
use crate::schedule::{
    Barrier, Broadcast, Collect, Direct, DoublingGather, HalvingDoubling, OneShot, Pairwise,
    Partition, Phases, Rally, RecursiveDoubling, Ring, Schedule, Shift, Spread, Star, Tree,
    TwoShot, Way,
};
use crate::signature::Collective;

/// Any of the schedules, by value: making one allocates nothing.
pub(crate) enum Program {
    Ring(Ring),
    OneShot(OneShot),
    Spread(Spread),
    Star(Star),
    TwoShot(TwoShot),
    RecursiveDoubling(RecursiveDoubling),
    DoublingGather(DoublingGather),
    HalvingDoubling(HalvingDoubling),
    Broadcast(Broadcast),
    Barrier(Barrier),
    Shift(Shift),
    Pairwise(Pairwise),
    Direct(Direct),
    Rally(Rally),
    Collect(Collect),
}

impl Program {
    /// The program of rank `rank` of `world_size` ≥ 2; the choice is one that the plan made for the
    /// call's collective.
    pub(crate) fn new(call: &Call<'_>, choice: Choice, rank: usize, world_size: usize) -> Self {
        let root = call.root.map_or(0, |root| root as usize);
        let (count, slice) = (call.partition.count(), choice.slice_elements(call.element_bytes()));
        let phases = match call.collective {
            Collective::Barrier if choice.algorithm == Algorithm::Star => {
                return Self::Rally(Rally::new(rank, world_size, Partition::new(0, world_size)));
            }
            Collective::Barrier | Collective::Agreement => {
                return Self::Barrier(Barrier::new(rank, world_size));
            }
            Collective::Shift => return Self::Shift(Shift::new(rank, world_size, count, slice)),
            Collective::Broadcast => {
                let tree = match choice.algorithm {
                    Algorithm::Chain => Tree::Chain,
                    Algorithm::Direct => Tree::Flat,
                    _ => Tree::Binomial,
                };
                return Self::Broadcast(Broadcast::new(rank, root, world_size, count, slice, tree));
            }
            Collective::AllToAll | Collective::AllToAllV => {
                let (sends, receives) = (call.partition.clone(), call.received().clone());
                let window = choice.window;
                return Self::Pairwise(Pairwise::new(rank, world_size, sends, receives, window));
            }
            Collective::Gather | Collective::GatherV => {
                let partition = call.partition.clone();
                return Self::Direct(Direct::new(rank, root, world_size, partition, Way::ToRoot));
            }
            Collective::Scatter | Collective::ScatterV => {
                let partition = call.partition.clone();
                return Self::Direct(Direct::new(rank, root, world_size, partition, Way::FromRoot));
            }
            Collective::AllReduce => Phases::AllReduce,
            Collective::ReduceScatter | Collective::ReduceScatterV => Phases::ReduceScatter,
            Collective::AllGather | Collective::AllGatherV | Collective::Split => Phases::AllGather,
            Collective::Send | Collective::Receive => {
                unreachable!("messages between two ranks follow no program")
            }
            Collective::Adasum => unreachable!("adasum consists of other collectives"),
            Collective::Reduce if choice.algorithm == Algorithm::Direct => {
                return Self::Collect(Collect::new(rank, root, world_size, count, slice));
            }
            Collective::Reduce => Phases::Reduce { root },
        };
        let (partition, window) = (call.partition.clone(), choice.window);
        match choice.algorithm {
            Algorithm::OneShot => Self::OneShot(OneShot::new(rank, world_size, count)),
            Algorithm::Dissemination => Self::Spread(Spread::new(rank, world_size, count)),
            Algorithm::Star if phases == Phases::AllGather => {
                Self::Rally(Rally::new(rank, world_size, partition))
            }
            Algorithm::Star => Self::Star(Star::new(rank, world_size, count)),
            Algorithm::RecursiveDoubling if phases == Phases::AllGather => {
                Self::DoublingGather(DoublingGather::new(rank, world_size, &partition, slice))
            }
            Algorithm::RecursiveDoubling => {
                Self::RecursiveDoubling(RecursiveDoubling::new(rank, world_size, count, slice))
            }
            Algorithm::HalvingDoubling => {
                Self::HalvingDoubling(HalvingDoubling::new(rank, world_size, count, slice))
            }
            Algorithm::TwoShot => {
                Self::TwoShot(TwoShot::new(rank, world_size, partition, phases, slice, window))
            }
            _ => Self::Ring(Ring::new(rank, world_size, partition, phases, slice, window)),
        }
    }

    pub(crate) fn as_schedule(&self) -> &dyn Schedule {
        match self {
            Self::Ring(schedule) => schedule,
            Self::OneShot(schedule) => schedule,
            Self::Spread(schedule) => schedule,
            Self::Star(schedule) => schedule,
            Self::TwoShot(schedule) => schedule,
            Self::RecursiveDoubling(schedule) => schedule,
            Self::DoublingGather(schedule) => schedule,
            Self::HalvingDoubling(schedule) => schedule,
            Self::Broadcast(schedule) => schedule,
            Self::Barrier(schedule) => schedule,
            Self::Shift(schedule) => schedule,
            Self::Pairwise(schedule) => schedule,
            Self::Direct(schedule) => schedule,
            Self::Rally(schedule) => schedule,
            Self::Collect(schedule) => schedule,
        }
    }
}

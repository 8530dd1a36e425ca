//! What textbooks say that an algorithm costs, and the schedules that it stands for.

use paceline_collectives::Collective;
use paceline_collectives::plan::{Algorithm, PlanFacts};
use paceline_collectives::schedule::{
    Barrier, Broadcast, Collect, Direct, DoublingGather, HalvingDoubling, OneShot, Pairwise,
    Partition, Phases, Rally, RecursiveDoubling, Ring, Schedule, Spread, Star, Tree, TwoShot, Way,
};

use super::Cost;
use crate::metrics::{as_f64, as_u64};

/// One operation in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is done.
    pub collective: Collective,
    /// How.
    pub algorithm: Algorithm,
    /// By how many ranks, at least 2.
    pub ranks: usize,
    /// Elements of the whole vector.
    pub count: usize,
    /// Elements of a slice at most.
    pub slice: usize,
    /// Slices, or ranks, abreast.
    pub window: usize,
}

impl Case {
    /// As the plan chooses for `count` elements of `element_bytes`.
    pub fn planned(
        facts: &PlanFacts,
        collective: Collective,
        count: usize,
        element_bytes: usize,
    ) -> Self {
        let choice = facts.choose(collective, count * element_bytes);
        Self {
            collective,
            algorithm: choice.algorithm,
            ranks: usize::try_from(facts.world_size).expect("a world fits into memory"),
            count,
            slice: (choice.slice_bytes / element_bytes).max(1),
            window: choice.window,
        }
    }

    /// The schedules of all ranks, with rank 0 as the root.
    ///
    /// # Panics
    /// If the algorithm does not carry out the collective by messages.
    pub fn schedules(&self) -> Vec<Box<dyn Schedule>> {
        (0..self.ranks).map(|rank| self.schedule(rank)).collect()
    }

    fn schedule(&self, rank: usize) -> Box<dyn Schedule> {
        let Self { collective, algorithm, ranks, count, slice, window } = *self;
        let partition = || Partition::new(count, ranks);
        let phases = match collective {
            Collective::AllReduce => Phases::AllReduce,
            Collective::ReduceScatter => Phases::ReduceScatter,
            Collective::AllGather => Phases::AllGather,
            _ => Phases::Reduce { root: 0 },
        };
        let tree = |tree| Box::new(Broadcast::new(rank, 0, ranks, count, slice, tree));
        let straight = |way| Box::new(Direct::new(rank, 0, ranks, partition(), way));
        match (algorithm, collective) {
            (Algorithm::Ring, _) => {
                Box::new(Ring::new(rank, ranks, partition(), phases, slice, window))
            }
            (Algorithm::TwoShot, _) => {
                Box::new(TwoShot::new(rank, ranks, partition(), phases, slice, window))
            }
            (Algorithm::OneShot, _) => Box::new(OneShot::new(rank, ranks, count)),
            (Algorithm::Star, Collective::AllReduce) => Box::new(Star::new(rank, ranks, count)),
            (Algorithm::Star, Collective::Barrier) => {
                Box::new(Rally::new(rank, ranks, Partition::new(0, ranks)))
            }
            (Algorithm::Star, _) => Box::new(Rally::new(rank, ranks, partition())),
            (Algorithm::RecursiveDoubling, Collective::AllGather) => {
                Box::new(DoublingGather::new(rank, ranks, &partition(), slice))
            }
            (Algorithm::RecursiveDoubling, _) => {
                Box::new(RecursiveDoubling::new(rank, ranks, count, slice))
            }
            (Algorithm::HalvingDoubling, _) => {
                Box::new(HalvingDoubling::new(rank, ranks, count, slice))
            }
            (Algorithm::BinomialTree, _) => tree(Tree::Binomial),
            (Algorithm::Chain, _) => tree(Tree::Chain),
            (Algorithm::Direct, Collective::Broadcast) => tree(Tree::Flat),
            (Algorithm::Direct, Collective::Reduce) => {
                Box::new(Collect::new(rank, 0, ranks, count, slice))
            }
            (Algorithm::Direct, Collective::Gather) => straight(Way::ToRoot),
            (Algorithm::Direct, _) => straight(Way::FromRoot),
            (Algorithm::Dissemination, Collective::AllReduce) => {
                Box::new(Spread::new(rank, ranks, count))
            }
            (Algorithm::Dissemination, _) => Box::new(Barrier::new(rank, ranks)),
            (Algorithm::Pairwise, _) => {
                Box::new(Pairwise::new(rank, ranks, partition(), partition(), window))
            }
            _ => panic!("{algorithm} does not send messages"),
        }
    }
}

/// Messages that follow each other, bytes that pass the busiest ports and bytes that are folded, all
/// on the critical path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formula {
    /// Messages.
    pub steps: f64,
    /// Bytes on ports.
    pub bytes: f64,
    /// Bytes folded.
    pub reduced: f64,
}

impl Formula {
    /// Of an operation whose vector falls into equal chunks. Doubling algorithms: for powers of two.
    /// Slices count where pipelining is the point (a chain), and not where they only let one thing
    /// happen while another does.
    pub fn of(case: &Case, element_bytes: usize) -> Self {
        let number = |count: usize| as_f64(as_u64(count));
        let (p, n) = (number(case.ranks), number(case.count * element_bytes));
        let rounds = number(case.ranks.next_power_of_two().ilog2().try_into().unwrap_or(0));
        let (others, share) = (p - 1.0, (p - 1.0) / p * n);
        let new = |steps, bytes, reduced| Self { steps, bytes, reduced };
        let slices = number(case.count.div_ceil(case.slice).max(1));
        match (case.algorithm, case.collective) {
            (Algorithm::Ring, Collective::AllReduce) => new(2.0 * others, 2.0 * share, share),
            (Algorithm::Ring, Collective::AllGather) => new(others, share, 0.0),
            (Algorithm::Ring, Collective::ReduceScatter) => new(others, share, share),
            (Algorithm::Ring, _) => new(p, 2.0 * share, share),
            (Algorithm::TwoShot, Collective::AllGather) => new(1.0, share, 0.0),
            (Algorithm::TwoShot, Collective::ReduceScatter) => new(1.0, share, share),
            (Algorithm::TwoShot, _) => new(2.0, 2.0 * share, share),
            (Algorithm::OneShot, _) => new(1.0, others * n, others * n),
            (Algorithm::Star, Collective::AllReduce) => new(2.0, 2.0 * others * n, others * n),
            (Algorithm::Star, Collective::Barrier) => new(2.0, 0.0, 0.0),
            (Algorithm::Star, _) => new(2.0, share + others * n, 0.0),
            (Algorithm::RecursiveDoubling, Collective::AllGather) => new(rounds, share, 0.0),
            (Algorithm::RecursiveDoubling, _) => new(rounds, rounds * n, rounds * n),
            (Algorithm::HalvingDoubling, _) => new(2.0 * rounds, 2.0 * share, share),
            // The tree is one level less deep than its root has children, but for powers of two.
            (Algorithm::BinomialTree, _) => {
                let depth = case.ranks.ilog2().try_into().unwrap_or(0);
                new(number(depth), rounds * n, 0.0)
            }
            (Algorithm::Chain, _) => new(others, (p - 2.0 + slices) / slices * n, 0.0),
            (Algorithm::Direct, Collective::Broadcast) => new(1.0, others * n, 0.0),
            (Algorithm::Direct, Collective::Reduce) => new(1.0, others * n, others * n),
            (Algorithm::Dissemination, Collective::AllReduce) => {
                new(rounds, others * n, others * n)
            }
            (Algorithm::Dissemination, _) => new(rounds, 0.0, 0.0),
            (Algorithm::Pairwise, _) => {
                let window = case.window.max(1);
                new(number((case.ranks - 1).div_ceil(window)), share, 0.0)
            }
            _ => new(1.0, share, 0.0),
        }
    }

    /// The time that follows.
    pub fn seconds(&self, cost: Cost) -> f64 {
        self.steps * cost.latency + self.bytes * cost.byte + self.reduced * cost.reduced_byte
    }
}

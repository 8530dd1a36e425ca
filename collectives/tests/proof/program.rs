//! Random programs: the same calls on all ranks, in the world and in groups.

use paceline_collectives::DType;
use paceline_collectives::plan::Algorithm;

use super::dice::{Dice, task};
use super::task::Task;

/// A step of a program.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    World(DType, Task),
    /// The ranks fall into so many groups, and each does all of this.
    Groups(u32, Vec<(DType, Task)>),
}

/// A program for a world.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) ranks: u32,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) steps: Vec<Step>,
}

impl Program {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let ranks = 2 + dice.rank(7);
        let algorithm = if dice.one_in(2) { Some(dice.pick(&Algorithm::ALL)) } else { None };
        let steps = (0..=dice.below(8)).map(|_| {
            if dice.one_in(5) {
                // The smallest group has one rank less than this at the most.
                let groups = 1 + dice.rank(3);
                let tasks = (0..=dice.below(3)).map(|_| task(dice, 1)).collect();
                Step::Groups(groups, tasks)
            } else {
                let (dtype, task) = task(dice, ranks);
                Step::World(dtype, task)
            }
        });
        let steps = steps.collect();
        Self { ranks, algorithm, steps }
    }
}

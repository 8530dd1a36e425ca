//! Random numbers from a seed, and random tasks.

use paceline_collectives::{DType, ReduceOp};

use super::task::{Call, Task};
use super::value::hash;

/// Random numbers from a seed.
pub(crate) struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.thrown += 1;
        hash([self.seed, 4711, self.thrown]) % end
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    pub(crate) fn rank(&mut self, ranks: u32) -> u32 {
        self.below(ranks.into()) as u32
    }

    /// Two ranks.
    pub(crate) fn pair(&mut self, ranks: u32) -> (u32, u32) {
        let one = self.rank(ranks);
        (one, (one + 1 + self.rank(ranks - 1)) % ranks)
    }
}

/// A call of anything, for a world or group of so many ranks at least.
pub(crate) fn task(dice: &mut Dice, ranks: u32) -> (DType, Task) {
    let dtype = dice.pick(&DType::ALL);
    let op = dice.pick(&ReduceOp::defined_for(dtype).collect::<Vec<_>>());
    let calls = [&Call::REDUCE[..], &Call::MOVE].concat();
    let longest = dice.pick(&[8, 300, 300, 5000, 30_000]);
    let count = dice.below(longest) as usize;
    let (root, salt) = (dice.rank(ranks), dice.below(1 << 30));
    (dtype, Task { call: dice.pick(&calls), op, count, root, salt })
}

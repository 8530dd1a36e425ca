use std::ops::Range;

use super::{Action, RecvStep, Schedule, SendStep, Source, to_u32};

/// Spread: in round k every rank passes all inputs that it knows, its own and those of the ranks after
/// it, on to the rank 2^k before it. In the end it folds all of them itself.
///
/// ⌈lg p⌉ messages and the (p−1)·n bytes of one-shot out of each rank: for inputs so short that the
/// system calls for p−1 messages are what counts. The rounds are those of the all-gather of Bruck et al.
/// (IEEE Transactions on Parallel and Distributed Systems 8(11), 1997), for any number of ranks.
#[derive(Clone, Debug)]
pub struct Spread {
    rank: usize,
    world_size: usize,
    count: usize,
}

impl Spread {
    /// For rank `rank` of `world_size` ≥ 2.
    pub fn new(rank: usize, world_size: usize, count: usize) -> Self {
        assert!(world_size >= 2 && rank < world_size, "there are others to spread to");
        Self { rank, world_size, count }
    }

    fn rounds(&self) -> usize {
        self.world_size.next_power_of_two().ilog2() as usize
    }

    /// The elements of as many inputs as go out and come in in a round, from input `first` on.
    fn inputs(&self, round: usize, first: usize) -> Range<usize> {
        let distance = 1 << round;
        let inputs = distance.min(self.world_size - distance);
        first * self.count..(first + inputs) * self.count
    }
}

impl Schedule for Spread {
    fn send_count(&self) -> usize {
        self.rounds()
    }

    fn send(&self, index: usize) -> SendStep {
        SendStep {
            peer: to_u32((self.rank + self.world_size - (1 << index)) % self.world_size),
            tag: to_u32(index),
            source: Source::Gathered,
            range: self.inputs(index, 0),
            after: index,
        }
    }

    fn recv_count(&self) -> usize {
        self.rounds()
    }

    fn recv(&self, index: usize) -> RecvStep {
        let distance = 1 << index;
        let is_last = index + 1 == self.rounds();
        RecvStep {
            peer: to_u32((self.rank + distance) % self.world_size),
            tag: to_u32(index),
            range: self.inputs(index, distance),
            action: if is_last { Action::FoldGathered } else { Action::Gather },
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        self.world_size * self.count
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{Buffers, simulate};
    use super::*;

    #[test]
    fn spreading_gives_the_canonical_fold() {
        for world_size in 2..=17 {
            for count in [0, 1, 7, 17, 48] {
                for in_place in [false, true] {
                    let mut buffers = Buffers::new(world_size, count, in_place);
                    simulate(&mut buffers, |rank| Spread::new(rank, world_size, count));
                    buffers.assert_canonical();
                }
            }
        }
    }
}

use super::{Action, Partition, RecvStep, Schedule, SendStep, Source, to_u32};

/// Which halves of the ring run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingPhases {
    /// Reduce-scatter, then all-gather.
    AllReduce,
    /// Only the first half: rank r ends with chunk r.
    ReduceScatter,
    /// Only the second half: rank r starts with chunk r.
    AllGather,
}

/// The pipelined ring.
///
/// Rank r sends to r+1 and receives from r−1. In step s of the reduce-scatter it sends chunk
/// r−1−s and receives chunk r−2−s; in step t of the all-gather it sends chunk r−t and receives
/// chunk r−1−t (all modulo p). What a step receives is what the next one sends.
///
/// Chunks move in slices, `window` of them abreast: all steps of a group of `window` slices come
/// before the next group. Then one slice is under way while another is reduced, and the bytes of a
/// group stay in cache from their first step to their last.
#[derive(Clone, Debug)]
pub struct Ring {
    rank: usize,
    world_size: usize,
    partition: Partition,
    phases: RingPhases,
    slice: usize,
    slices: usize,
    window: usize,
}

/// Position of one message in the program.
struct Position {
    step: usize,
    slice: usize,
    /// Slices abreast in this group.
    width: usize,
}

impl Ring {
    /// The ring over a partitioned vector, for rank `rank` of `world_size` ≥ 2, in slices of at most
    /// `slice` ≥ 1 elements, `window` ≥ 1 abreast.
    pub fn new(
        rank: usize,
        world_size: usize,
        partition: Partition,
        phases: RingPhases,
        slice: usize,
        window: usize,
    ) -> Self {
        assert!(world_size >= 2 && rank < world_size, "a ring has at least two ranks");
        let slice = slice.clamp(1, partition.longest().max(1));
        Self {
            rank,
            world_size,
            slices: partition.slices(slice),
            partition,
            phases,
            slice,
            window: window.max(1),
        }
    }

    fn steps(&self) -> usize {
        match self.phases {
            RingPhases::AllReduce => 2 * (self.world_size - 1),
            RingPhases::ReduceScatter | RingPhases::AllGather => self.world_size - 1,
        }
    }

    fn messages(&self) -> usize {
        self.slices * self.steps()
    }

    fn position(&self, index: usize) -> Position {
        let per_group = self.window * self.steps();
        let group = index / per_group;
        let within = index % per_group;
        let first = group * self.window;
        let width = self.window.min(self.slices - first);
        Position { step: within / width, slice: first + within % width, width }
    }

    /// Whether a step belongs to the reducing half, and the step's number within its half.
    fn half(&self, step: usize) -> (bool, usize) {
        match self.phases {
            RingPhases::ReduceScatter => (true, step),
            RingPhases::AllGather => (false, step),
            RingPhases::AllReduce if step < self.world_size - 1 => (true, step),
            RingPhases::AllReduce => (false, step - (self.world_size - 1)),
        }
    }

    /// The chunk that rank `rank` sends in a step.
    fn sent_chunk(&self, rank: usize, step: usize) -> usize {
        let (reducing, step) = self.half(step);
        let behind = if reducing { step + 1 } else { step };
        (rank + 2 * self.world_size - behind) % self.world_size
    }

    fn previous(&self) -> usize {
        (self.rank + self.world_size - 1) % self.world_size
    }
}

impl Schedule for Ring {
    fn send_count(&self) -> usize {
        self.messages()
    }

    fn send(&self, index: usize) -> SendStep {
        let Position { step, slice, width } = self.position(index);
        let chunk = self.sent_chunk(self.rank, step);
        let fresh = step == 0 && self.phases != RingPhases::AllGather;
        SendStep {
            peer: to_u32((self.rank + 1) % self.world_size),
            tag: to_u32(index),
            source: if fresh { Source::Input } else { Source::Output },
            range: self.partition.slice(chunk, slice, self.slice),
            // The same slice was received `width` messages ago.
            after: if step == 0 { 0 } else { index - width + 1 },
        }
    }

    fn recv_count(&self) -> usize {
        self.messages()
    }

    fn recv(&self, index: usize) -> RecvStep {
        let Position { step, slice, .. } = self.position(index);
        let chunk = self.sent_chunk(self.previous(), step);
        let (reducing, number) = self.half(step);
        let last = number == self.world_size - 2;
        RecvStep {
            peer: to_u32(self.previous()),
            tag: to_u32(index),
            range: self.partition.slice(chunk, slice, self.slice),
            action: if reducing { Action::Reduce { last } } else { Action::Store },
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        if self.phases == RingPhases::AllGather { 0 } else { self.slice }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{Buffers, simulate};
    use super::*;

    #[test]
    fn every_world_and_raggedness_gives_the_canonical_fold() {
        for world_size in 2..=16 {
            for count in [0, 1, 2, 3, 7, 16, 17, 31, 48, 97] {
                for (slice, window) in [(1, 1), (2, 3), (5, 2), (64, 4)] {
                    let build = |rank, phases| {
                        Ring::new(
                            rank,
                            world_size,
                            Partition::new(count, world_size),
                            phases,
                            slice,
                            window,
                        )
                    };
                    let mut buffers = Buffers::new(world_size, count, false);
                    simulate(&mut buffers, |rank| build(rank, RingPhases::AllReduce));
                    buffers.assert_canonical();

                    let mut halves = Buffers::new(world_size, count, true);
                    simulate(&mut halves, |rank| build(rank, RingPhases::ReduceScatter));
                    halves.assert_owned_chunks();
                    simulate(&mut halves, |rank| build(rank, RingPhases::AllGather));
                    halves.assert_canonical();
                }
            }
        }
    }

    #[test]
    fn each_rank_sends_the_least_that_is_possible() {
        for world_size in 2..=16 {
            let partition = Partition::new(16 * world_size, world_size);
            let ring = Ring::new(0, world_size, partition, RingPhases::AllReduce, 5, 2);
            let sent: usize = (0..ring.send_count()).map(|i| ring.send(i).range.len()).sum();
            assert_eq!(sent, 2 * (world_size - 1) * 16);
        }
    }
}

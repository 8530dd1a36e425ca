use super::{Action, Partition, Phases, RecvStep, Schedule, SendStep, Source, Target, to_u32};

/// The pipelined ring.
///
/// Rank r sends to r+1 and receives from r−1. In step s of the reduce-scatter it sends chunk
/// r−1−s and receives chunk r−2−s; in step t of the all-gather it sends chunk r−t and receives
/// chunk r−1−t (all modulo p). What a step receives is what the next one sends.
///
/// Chunks move in slices, `window` of them abreast: all steps of a group of `window` slices come
/// before the next group. Then one slice is under way while another is reduced, and the bytes of a
/// group stay in cache from their first step to their last.
///
/// Partial results pass through the output where that gets all results in the end, and else stay
/// in scratch until they are sent. A rooted ring ends with one more step in which every rank sends its
/// chunk to the root: that costs the root's link what an all-gather would, and the others' less.
#[derive(Clone, Debug)]
pub struct Ring {
    rank: usize,
    world_size: usize,
    partition: Partition,
    phases: Phases,
    slice: usize,
    slices: usize,
    window: usize,
}

/// Position of one message in the program.
struct Position {
    group: usize,
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
        phases: Phases,
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

    /// Steps of each slice in which this rank sends.
    fn send_steps(&self) -> usize {
        let half = self.world_size - 1;
        match self.phases {
            Phases::AllReduce => 2 * half,
            Phases::ReduceScatter | Phases::AllGather => half,
            Phases::Reduce { root } => half + usize::from(root != self.rank),
        }
    }

    /// Steps of each slice in which this rank receives.
    fn recv_steps(&self) -> usize {
        let half = self.world_size - 1;
        match self.phases {
            Phases::Reduce { root } => half + if root == self.rank { half } else { 0 },
            _ => self.send_steps(),
        }
    }

    fn position(&self, index: usize, steps: usize) -> Position {
        let per_group = self.window * steps;
        let group = index / per_group;
        let within = index % per_group;
        let first = group * self.window;
        let width = self.window.min(self.slices - first);
        Position { group, step: within / width, slice: first + within % width, width }
    }

    /// The number of the receive that comes one step before a send and has the same chunk.
    fn recv_before(&self, send: &Position) -> usize {
        let Position { group, step, slice, width } = send;
        let nth = slice - group * self.window;
        group * self.window * self.recv_steps() + (step - 1) * width + nth
    }

    /// Unique among the messages from one rank to another: to its neighbour a rank sends a slice
    /// at most once in each step, to the root in one step only.
    fn tag(&self, slice: usize, step: usize) -> u32 {
        to_u32(slice * 2 * (self.world_size - 1) + step)
    }

    /// Whether a step belongs to the reducing half, and the step's number within its half.
    fn half(&self, step: usize) -> (bool, usize) {
        match self.phases {
            Phases::AllGather => (false, step),
            _ if step < self.world_size - 1 => (true, step),
            _ => (false, step - (self.world_size - 1)),
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
        self.slices * self.send_steps()
    }

    fn send(&self, index: usize) -> SendStep {
        let at = self.position(index, self.send_steps());
        let Position { step, slice, .. } = at;
        let chunk = self.sent_chunk(self.rank, step);
        let peer = match self.phases {
            Phases::Reduce { root } if step == self.world_size - 1 => root,
            _ => (self.rank + 1) % self.world_size,
        };
        let (source, after) = match self.phases {
            Phases::AllGather if step == 0 => (Source::Output, 0),
            _ if step == 0 => (Source::Input, 0),
            Phases::AllReduce | Phases::AllGather => (Source::Output, self.recv_before(&at) + 1),
            Phases::ReduceScatter | Phases::Reduce { .. } => {
                (Source::Scratch, self.recv_before(&at) + 1)
            }
        };
        SendStep {
            peer: to_u32(peer),
            tag: self.tag(slice, step),
            source,
            range: self.partition.slice(chunk, slice, self.slice),
            after,
        }
    }

    fn recv_count(&self) -> usize {
        self.slices * self.recv_steps()
    }

    fn recv(&self, index: usize) -> RecvStep {
        let Position { step, slice, .. } = self.position(index, self.recv_steps());
        let half = self.world_size - 1;
        if step >= half && matches!(self.phases, Phases::Reduce { .. }) {
            let peer = (self.rank + 1 + step - half) % self.world_size;
            return RecvStep {
                peer: to_u32(peer),
                tag: self.tag(slice, half),
                range: self.partition.slice(peer, slice, self.slice),
                action: Action::Store,
                after_sends: 0,
            };
        }
        let chunk = self.sent_chunk(self.previous(), step);
        let (reducing, number) = self.half(step);
        let last = number + 1 == half;
        let target = match self.phases {
            Phases::ReduceScatter | Phases::Reduce { .. } if !last => Target::Scratch,
            phases => phases.target(self.rank),
        };
        RecvStep {
            peer: to_u32(self.previous()),
            tag: self.tag(slice, step),
            range: self.partition.slice(chunk, slice, self.slice),
            action: if reducing { Action::Reduce { last, target } } else { Action::Store },
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        if self.phases == Phases::AllGather { 0 } else { self.slice }
    }

    fn held_max(&self) -> usize {
        match self.phases {
            Phases::AllReduce | Phases::AllGather => 0,
            Phases::ReduceScatter | Phases::Reduce { .. } => self.window,
        }
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
                    simulate(&mut buffers, |rank| build(rank, Phases::AllReduce));
                    buffers.assert_canonical();

                    for in_place in [false, true] {
                        let mut halves = Buffers::new(world_size, count, in_place);
                        simulate(&mut halves, |rank| build(rank, Phases::ReduceScatter));
                        halves.assert_owned_chunks();
                        simulate(&mut halves, |rank| build(rank, Phases::AllGather));
                        halves.assert_canonical();

                        let root = count % world_size;
                        let mut rooted = Buffers::new(world_size, count, in_place);
                        simulate(&mut rooted, |rank| build(rank, Phases::Reduce { root }));
                        rooted.assert_canonical_only_at(root);
                    }
                }
            }
        }
    }

    #[test]
    fn each_rank_sends_the_least_that_is_possible() {
        for world_size in 2..=16 {
            let partition = Partition::new(16 * world_size, world_size);
            let ring = Ring::new(0, world_size, partition, Phases::AllReduce, 5, 2);
            let sent: usize = (0..ring.send_count()).map(|i| ring.send(i).range.len()).sum();
            assert_eq!(sent, 2 * (world_size - 1) * 16);
        }
    }
}

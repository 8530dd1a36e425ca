use super::{Action, Partition, RecvStep, Schedule, SendStep, Source, to_u32};

/// Everybody's chunk to rank 0, then the whole vector back to everybody. Without a vector it is a
/// barrier: nobody hears of rank 0 before rank 0 has heard of all.
///
/// Two crossings but only 2(p−1) messages in all, where exchanging chunks directly takes p(p−1) and
/// dissemination p·lg p: for little data where ranks outnumber cores, so that every message costs
/// somebody else's time.
#[derive(Clone, Debug)]
pub struct Rally {
    rank: usize,
    world_size: usize,
    partition: Partition,
}

impl Rally {
    /// For rank `rank` of `world_size` ≥ 2, whose chunk of the output holds what it contributes.
    pub fn new(rank: usize, world_size: usize, partition: Partition) -> Self {
        assert!(world_size >= 2 && rank < world_size, "a rally has at least two ranks");
        assert!(partition.is_whole(), "what comes back is the whole vector");
        Self { rank, world_size, partition }
    }

    fn is_centre(&self) -> bool {
        self.rank == 0
    }

    fn messages(&self) -> usize {
        if self.is_centre() { self.world_size - 1 } else { 1 }
    }

    fn partner(&self, index: usize) -> usize {
        if self.is_centre() { index + 1 } else { 0 }
    }
}

impl Schedule for Rally {
    fn send_count(&self) -> usize {
        self.messages()
    }

    fn send(&self, index: usize) -> SendStep {
        let (range, after) = if self.is_centre() {
            (0..self.partition.count(), self.messages())
        } else {
            (self.partition.range(self.rank), 0)
        };
        let peer = to_u32(self.partner(index));
        SendStep { peer, tag: 0, source: Source::Output, range, after }
    }

    fn recv_count(&self) -> usize {
        self.messages()
    }

    fn recv(&self, index: usize) -> RecvStep {
        let partner = self.partner(index);
        // What comes back holds the own chunk too, as it was sent.
        let range = if self.is_centre() {
            self.partition.range(partner)
        } else {
            0..self.partition.count()
        };
        RecvStep { peer: to_u32(partner), tag: 0, range, action: Action::Store, after_sends: 0 }
    }

    fn scratch_elements(&self) -> usize {
        0
    }
}

/// Reduce straight: everybody sends its input to the root, in slices, which folds all of them.
///
/// One crossing and (p−1)·n bytes into the root: for two ranks never more than what any other way
/// moves, for more ranks where the crossing is what counts.
#[derive(Clone, Debug)]
pub struct Collect {
    rank: usize,
    root: usize,
    world_size: usize,
    count: usize,
    slice: usize,
    slices: usize,
}

impl Collect {
    /// To rank `root`, for rank `rank` of `world_size` ≥ 2, in slices of at most `slice` elements.
    pub fn new(rank: usize, root: usize, world_size: usize, count: usize, slice: usize) -> Self {
        assert!(world_size >= 2 && rank < world_size && root < world_size, "ranks in the world");
        let slice = slice.clamp(1, count.max(1));
        Self { rank, root, world_size, count, slice, slices: count.div_ceil(slice).max(1) }
    }

    fn others(&self) -> usize {
        self.world_size - 1
    }

    fn is_root(&self) -> bool {
        self.rank == self.root
    }

    fn range(&self, slice: usize) -> std::ops::Range<usize> {
        let start = (slice * self.slice).min(self.count);
        start..(start + self.slice).min(self.count)
    }
}

impl Schedule for Collect {
    fn send_count(&self) -> usize {
        if self.is_root() { 0 } else { self.slices }
    }

    fn send(&self, index: usize) -> SendStep {
        SendStep {
            peer: to_u32(self.root),
            tag: to_u32(index),
            source: Source::Input,
            range: self.range(index),
            after: 0,
        }
    }

    fn recv_count(&self) -> usize {
        if self.is_root() { self.slices * self.others() } else { 0 }
    }

    fn recv(&self, index: usize) -> RecvStep {
        let (slice, nth) = (index / self.others(), index % self.others());
        let last = nth + 1 == self.others();
        RecvStep {
            peer: to_u32((self.root + 1 + nth) % self.world_size),
            tag: to_u32(slice),
            range: self.range(slice),
            action: if last { Action::FoldChunks { held: nth } } else { Action::Hold },
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        if self.is_root() { self.slice.min(self.count) } else { 0 }
    }

    fn held_max(&self) -> usize {
        if self.is_root() { self.others() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{Buffers, simulate};
    use super::super::{Phases, TwoShot};
    use super::*;

    #[test]
    fn a_rally_brings_all_chunks_to_everybody() {
        for world_size in 2..=16 {
            for count in [0, 1, 7, 16, 17, 48] {
                let partition = || Partition::new(count, world_size);
                let reduce_scatter = |rank| {
                    TwoShot::new(rank, world_size, partition(), Phases::ReduceScatter, 64, 2)
                };
                for in_place in [false, true] {
                    let mut buffers = Buffers::new(world_size, count, in_place);
                    simulate(&mut buffers, reduce_scatter);
                    simulate(&mut buffers, |rank| Rally::new(rank, world_size, partition()));
                    buffers.assert_canonical();
                }
            }
        }
    }

    #[test]
    fn who_leaves_a_rally_has_heard_of_all() {
        for world_size in 2..=16 {
            let partition = Partition::new(0, world_size);
            let centre = Rally::new(0, world_size, partition.clone());
            let heard: Vec<u32> = (0..centre.recv_count()).map(|at| centre.recv(at).peer).collect();
            assert!(heard.iter().copied().eq(1..to_u32(world_size)));
            for index in 0..centre.send_count() {
                assert_eq!(centre.send(index).after, heard.len(), "after all have come");
            }
            for rank in 1..world_size {
                let other = Rally::new(rank, world_size, partition.clone());
                assert_eq!((other.recv_count(), other.recv(0).peer), (1, 0));
            }
        }
    }

    #[test]
    fn a_straight_reduction_gives_the_canonical_fold_at_the_root_alone() {
        for world_size in 2..=16 {
            for count in [0, 1, 2, 7, 17, 48] {
                for slice in [1, 3, 16, 100] {
                    for in_place in [false, true] {
                        let root = count % world_size;
                        let mut buffers = Buffers::new(world_size, count, in_place);
                        simulate(&mut buffers, |rank| {
                            Collect::new(rank, root, world_size, count, slice)
                        });
                        buffers.assert_canonical_only_at(root);
                    }
                }
            }
        }
    }
}

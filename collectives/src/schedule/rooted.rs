use super::{Action, RecvStep, Schedule, SendStep, Source, to_u32};

/// Broadcast down a tree, in slices, so that a rank passes on what it has while the rest arrives.
#[derive(Clone, Debug)]
pub struct Broadcast {
    rank: usize,
    root: usize,
    world_size: usize,
    count: usize,
    slice: usize,
    slices: usize,
    tree: Tree,
}

/// The shape of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Rank v gets from v with its lowest set bit cleared: ⌈lg p⌉ crossings.
    Binomial,
    /// Each rank passes on to the next: every link carries the data once, p−1 crossings deep.
    Chain,
    /// The root sends to everybody, and nobody waits for anybody else.
    Flat,
}

impl Broadcast {
    /// From rank `root`, for rank `rank` of `world_size`, in slices of at most `slice` elements.
    pub fn new(
        rank: usize,
        root: usize,
        world_size: usize,
        count: usize,
        slice: usize,
        tree: Tree,
    ) -> Self {
        assert!(rank < world_size && root < world_size, "ranks lie in the world");
        let slice = slice.clamp(1, count.max(1));
        Self { rank, root, world_size, count, slice, slices: count.div_ceil(slice).max(1), tree }
    }

    /// This rank counted from the root.
    fn place(&self) -> usize {
        (self.rank + self.world_size - self.root) % self.world_size
    }

    fn rank_at(&self, place: usize) -> u32 {
        to_u32((place + self.root) % self.world_size)
    }

    fn parent(&self) -> Option<usize> {
        let place = self.place();
        (place > 0).then(|| match self.tree {
            Tree::Binomial => place & (place - 1),
            Tree::Chain => place - 1,
            Tree::Flat => 0,
        })
    }

    fn children(&self) -> usize {
        let place = self.place();
        match self.tree {
            Tree::Chain => usize::from(place + 1 < self.world_size),
            Tree::Flat if place == 0 => self.world_size - 1,
            Tree::Flat => 0,
            Tree::Binomial => {
                let own = if place == 0 { usize::BITS } else { place.trailing_zeros() };
                (0..own).take_while(|bit| place + (1 << bit) < self.world_size).count()
            }
        }
    }

    /// The nth child; the one with the largest subtree first.
    fn child(&self, nth: usize) -> usize {
        match self.tree {
            Tree::Chain => self.place() + 1,
            Tree::Flat => nth + 1,
            Tree::Binomial => self.place() + (1 << (self.children() - 1 - nth)),
        }
    }

    fn range(&self, slice: usize) -> std::ops::Range<usize> {
        let start = (slice * self.slice).min(self.count);
        start..(start + self.slice).min(self.count)
    }
}

impl Schedule for Broadcast {
    fn send_count(&self) -> usize {
        self.slices * self.children()
    }

    fn send(&self, index: usize) -> SendStep {
        let slice = index / self.children();
        SendStep {
            peer: self.rank_at(self.child(index % self.children())),
            tag: to_u32(slice),
            source: Source::Output,
            range: self.range(slice),
            after: if self.parent().is_some() { slice + 1 } else { 0 },
        }
    }

    fn recv_count(&self) -> usize {
        if self.parent().is_some() { self.slices } else { 0 }
    }

    fn recv(&self, index: usize) -> RecvStep {
        RecvStep {
            peer: self.rank_at(self.parent().expect("the root receives nothing")),
            tag: to_u32(index),
            range: self.range(index),
            action: Action::Store,
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        0
    }
}

/// Everybody sends its vector to the next rank and gets that of the rank before, in slices: the
/// plainest use of every link in both directions at once, and the floor of what a ring can do.
#[derive(Clone, Debug)]
pub struct Shift {
    rank: usize,
    world_size: usize,
    count: usize,
    slice: usize,
}

impl Shift {
    /// For rank `rank` of `world_size` ≥ 2, in slices of at most `slice` elements.
    pub fn new(rank: usize, world_size: usize, count: usize, slice: usize) -> Self {
        assert!(world_size >= 2 && rank < world_size, "a shift has at least two ranks");
        Self { rank, world_size, count, slice: slice.clamp(1, count.max(1)) }
    }

    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let start = (index * self.slice).min(self.count);
        start..(start + self.slice).min(self.count)
    }
}

impl Schedule for Shift {
    fn send_count(&self) -> usize {
        self.count.div_ceil(self.slice)
    }

    fn send(&self, index: usize) -> SendStep {
        SendStep {
            peer: to_u32((self.rank + 1) % self.world_size),
            tag: to_u32(index),
            source: Source::Input,
            range: self.range(index),
            after: 0,
        }
    }

    fn recv_count(&self) -> usize {
        self.send_count()
    }

    fn recv(&self, index: usize) -> RecvStep {
        RecvStep {
            peer: to_u32((self.rank + self.world_size - 1) % self.world_size),
            tag: to_u32(index),
            range: self.range(index),
            action: Action::Store,
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        0
    }
}

/// Dissemination barrier: in round k every rank tells the one 2^k further on; after ⌈lg p⌉ rounds
/// everybody has heard of everybody.
#[derive(Clone, Debug)]
pub struct Barrier {
    rank: usize,
    world_size: usize,
}

impl Barrier {
    /// For rank `rank` of `world_size`.
    pub fn new(rank: usize, world_size: usize) -> Self {
        assert!(rank < world_size, "ranks lie in the world");
        Self { rank, world_size }
    }
}

impl Schedule for Barrier {
    fn send_count(&self) -> usize {
        self.world_size.next_power_of_two().ilog2() as usize
    }

    fn send(&self, index: usize) -> SendStep {
        SendStep {
            peer: to_u32((self.rank + (1 << index)) % self.world_size),
            tag: to_u32(index),
            source: Source::Output,
            range: 0..0,
            after: index,
        }
    }

    fn recv_count(&self) -> usize {
        self.send_count()
    }

    fn recv(&self, index: usize) -> RecvStep {
        let behind = (1 << index) % self.world_size;
        RecvStep {
            peer: to_u32((self.rank + self.world_size - behind) % self.world_size),
            tag: to_u32(index),
            range: 0..0,
            action: Action::Store,
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{Buffers, simulate};
    use super::*;

    #[test]
    fn broadcast_reaches_everybody_from_every_root() {
        for world_size in 1..=16 {
            for root in [0, world_size / 2, world_size - 1] {
                for tree in [Tree::Binomial, Tree::Chain, Tree::Flat] {
                    for count in [0, 1, 5, 17] {
                        let mut buffers = Buffers::new(world_size, count, true);
                        simulate(&mut buffers, |rank| {
                            Broadcast::new(rank, root, world_size, count, 4, tree)
                        });
                        for rank in 0..world_size {
                            let element = vec![root];
                            assert!(buffers.output(rank).iter().all(|found| *found == element));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_shift_brings_the_vector_of_the_rank_before() {
        for world_size in 2..=5 {
            for (count, slice) in [(0, 4), (7, 3), (8, 4), (5, 100)] {
                let mut buffers = Buffers::new(world_size, count, false);
                simulate(&mut buffers, |rank| Shift::new(rank, world_size, count, slice));
                for rank in 0..world_size {
                    let from = (rank + world_size - 1) % world_size;
                    assert!(buffers.output(rank).iter().all(|found| *found == [from]));
                }
            }
        }
    }

    #[test]
    fn nobody_leaves_a_barrier_before_all_have_come() {
        // Everybody's completion must depend, through messages, on everybody's entry.
        for world_size in 1..=16 {
            let mut known: Vec<u32> = (0..world_size).map(|rank| 1 << rank).collect();
            let rounds = Barrier::new(0, world_size).send_count();
            for round in 0..rounds {
                let before = known.clone();
                for (rank, known) in known.iter_mut().enumerate() {
                    let barrier = Barrier::new(rank, world_size);
                    let from = barrier.recv(round).peer as usize;
                    assert_eq!(Barrier::new(from, world_size).send(round).peer as usize, rank);
                    *known |= before[from];
                }
            }
            assert!(known.iter().all(|known| known.count_ones() as usize == world_size));
        }
    }
}

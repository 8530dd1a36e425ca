use super::{Action, Partition, RecvStep, Schedule, SendStep, Source, to_u32};

/// Every rank sends a block to every other, straight: in step k to the one k ranks further on, while
/// it gets that of the rank k before it.
///
/// Each pair exchanges one message in each direction, of whatever length, also of none: who expects
/// another length than is sent notices. A rank is at most `window` steps ahead of what it has
/// received, so that not everybody sends to the same rank at once.
#[derive(Clone, Debug)]
pub struct Pairwise {
    rank: usize,
    world_size: usize,
    sends: Partition,
    receives: Partition,
    window: usize,
}

impl Pairwise {
    /// For rank `rank` of `world_size` ≥ 1: chunk r of `sends`, a cut of the input, goes to rank r;
    /// what comes from rank r is chunk r of `receives`, a cut of the output. `window` ≥ 1.
    pub fn new(
        rank: usize,
        world_size: usize,
        sends: Partition,
        receives: Partition,
        window: usize,
    ) -> Self {
        assert!(rank < world_size, "ranks lie in the world");
        Self { rank, world_size, sends, receives, window: window.max(1) }
    }
}

impl Schedule for Pairwise {
    fn send_count(&self) -> usize {
        self.world_size - 1
    }

    fn send(&self, index: usize) -> SendStep {
        let peer = (self.rank + 1 + index) % self.world_size;
        SendStep {
            peer: to_u32(peer),
            tag: 0,
            source: Source::Input,
            range: self.sends.range(peer),
            after: (index + 1).saturating_sub(self.window),
        }
    }

    fn recv_count(&self) -> usize {
        self.world_size - 1
    }

    fn recv(&self, index: usize) -> RecvStep {
        let peer = (self.rank + self.world_size - 1 - index) % self.world_size;
        RecvStep {
            peer: to_u32(peer),
            tag: 0,
            range: self.receives.range(peer),
            action: Action::Store,
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        0
    }
}

/// The ranks' blocks go straight to the root, or straight from it: one message each, also of an empty
/// block, so that who expects another length notices.
#[derive(Clone, Debug)]
pub struct Direct {
    rank: usize,
    root: usize,
    world_size: usize,
    partition: Partition,
    way: Way,
}

/// Which way blocks travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From every rank's input into the root's output.
    ToRoot,
    /// From the root's input into every rank's output.
    FromRoot,
}

impl Direct {
    /// For rank `rank` of `world_size` ≥ 1. `partition` is how the root's vector is cut; the other
    /// ranks, whose buffers begin with their chunk, need only know the length of that.
    pub fn new(
        rank: usize,
        root: usize,
        world_size: usize,
        partition: Partition,
        way: Way,
    ) -> Self {
        assert!(rank < world_size && root < world_size, "ranks lie in the world");
        Self { rank, root, world_size, partition, way }
    }

    fn messages(&self, way: Way) -> usize {
        match (self.way == way, self.rank == self.root) {
            (true, true) => self.world_size - 1,
            (false, false) => 1,
            _ => 0,
        }
    }

    /// The other end of message `index`, and its elements here.
    fn message(&self, index: usize) -> (u32, std::ops::Range<usize>) {
        if self.rank != self.root {
            return (to_u32(self.root), 0..self.partition.range(self.rank).len());
        }
        let peer = (self.root + 1 + index) % self.world_size;
        (to_u32(peer), self.partition.range(peer))
    }
}

impl Schedule for Direct {
    fn send_count(&self) -> usize {
        self.messages(Way::FromRoot)
    }

    fn send(&self, index: usize) -> SendStep {
        let (peer, range) = self.message(index);
        SendStep { peer, tag: 0, source: Source::Input, range, after: 0 }
    }

    fn recv_count(&self) -> usize {
        self.messages(Way::ToRoot)
    }

    fn recv(&self, index: usize) -> RecvStep {
        let (peer, range) = self.message(index);
        RecvStep { peer, tag: 0, range, action: Action::Store, after_sends: 0 }
    }

    fn scratch_elements(&self) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::simulate::{Buffers, Element, simulate};
    use super::super::{Phases, Ring, TwoShot};
    use super::*;

    /// Lengths of blocks, some of them 0.
    fn ragged(of: usize, world_size: usize) -> Vec<usize> {
        (0..world_size).map(|with| (of * 7 + with * 5 + 3) % 6).collect()
    }

    fn transposed(lengths: &[Vec<usize>], of: usize) -> Vec<usize> {
        lengths.iter().map(|row| row[of]).collect()
    }

    /// Element `nth` of what `from` has for `to`.
    fn element(from: usize, to: usize, nth: usize) -> Element {
        vec![from, to, nth]
    }

    fn blocks(from: usize, lengths: &[usize]) -> Vec<Element> {
        let block = |(to, length): (usize, &usize)| {
            (0..*length).map(move |nth| element(from, to, nth)).collect::<Vec<_>>()
        };
        lengths.iter().enumerate().flat_map(block).collect()
    }

    /// That no element of a rank's input is sent twice, and each of them but its own block.
    fn assert_sent_once(program: &impl Schedule, elements: usize, own: usize) {
        let mut sent = HashSet::new();
        for index in 0..program.send_count() {
            assert!(program.send(index).range.all(|element| sent.insert(element)));
        }
        assert_eq!(sent.len(), elements - own);
    }

    #[test]
    fn all_to_all_brings_every_block_where_it_belongs() {
        for world_size in 1..=16 {
            let even = |length| vec![vec![length; world_size]; world_size];
            let uneven = (0..world_size).map(|rank| ragged(rank, world_size)).collect();
            for (lengths, window) in [(even(0), 1), (even(3), 1), (even(2), 4), (uneven, 3)] {
                let build = |rank: usize| {
                    let sends = Partition::explicit(&lengths[rank]);
                    let receives = Partition::explicit(&transposed(&lengths, rank));
                    Pairwise::new(rank, world_size, sends, receives, window)
                };
                let inputs = lengths.iter().enumerate().map(|(rank, row)| blocks(rank, row));
                let outputs: Vec<usize> =
                    (0..world_size).map(|rank| transposed(&lengths, rank).iter().sum()).collect();
                let mut buffers = Buffers::of(inputs.collect(), &outputs);
                simulate(&mut buffers, build);
                for rank in 0..world_size {
                    let own = lengths[rank][rank];
                    assert_sent_once(&build(rank), lengths[rank].iter().sum(), own);
                    let receives = Partition::explicit(&transposed(&lengths, rank));
                    for from in (0..world_size).filter(|from| *from != rank) {
                        for (nth, at) in receives.range(from).enumerate() {
                            assert_eq!(buffers.output(rank)[at], element(from, rank, nth));
                        }
                    }
                    let own = &buffers.output(rank)[receives.range(rank)];
                    assert!(own.iter().all(Vec::is_empty), "the own block is not the schedule's");
                }
            }
        }
    }

    #[test]
    fn nobody_is_further_ahead_than_the_window() {
        let sends = Partition::new(16, 16);
        for window in [1, 3, 100] {
            let program = Pairwise::new(5, 16, sends.clone(), sends.clone(), window);
            for index in 0..program.send_count() {
                assert!(index - program.send(index).after < window);
            }
        }
    }

    #[test]
    fn the_root_gets_every_block() {
        for world_size in 1..=16 {
            for root in [0, world_size / 2, world_size - 1] {
                for lengths in [vec![0; world_size], vec![4; world_size], ragged(root, world_size)]
                {
                    let whole = Partition::explicit(&lengths);
                    let build = |rank: usize| {
                        let known = if rank == root {
                            whole.clone()
                        } else {
                            Partition::only(rank, lengths[rank], world_size)
                        };
                        Direct::new(rank, root, world_size, known, Way::ToRoot)
                    };
                    let inputs = (0..world_size)
                        .map(|rank| (0..lengths[rank]).map(|nth| vec![rank, nth]).collect());
                    let mut outputs = vec![0; world_size];
                    outputs[root] = whole.count();
                    let mut buffers = Buffers::of(inputs.collect(), &outputs);
                    simulate(&mut buffers, build);
                    for rank in (0..world_size).filter(|rank| *rank != root) {
                        assert_sent_once(&build(rank), lengths[rank], 0);
                        for (nth, at) in whole.range(rank).enumerate() {
                            assert_eq!(buffers.output(root)[at], [rank, nth]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_rank_gets_its_block_of_the_root() {
        for world_size in 1..=16 {
            for root in [0, world_size / 2, world_size - 1] {
                for lengths in [vec![0; world_size], vec![4; world_size], ragged(root, world_size)]
                {
                    let whole = Partition::explicit(&lengths);
                    let build = |rank: usize| {
                        let known = if rank == root {
                            whole.clone()
                        } else {
                            Partition::only(rank, lengths[rank], world_size)
                        };
                        Direct::new(rank, root, world_size, known, Way::FromRoot)
                    };
                    let mut inputs = vec![Vec::new(); world_size];
                    inputs[root] = blocks(root, &lengths);
                    let mut buffers = Buffers::of(inputs, &lengths);
                    simulate(&mut buffers, build);
                    assert_sent_once(&build(root), whole.count(), lengths[root]);
                    for rank in (0..world_size).filter(|rank| *rank != root) {
                        for (nth, found) in buffers.output(rank).iter().enumerate() {
                            assert_eq!(*found, element(root, rank, nth));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn ring_and_two_shot_keep_the_canonical_order_in_chunks_of_any_lengths() {
        fn check<S: Schedule>(lengths: &[usize], build: impl Fn(usize, Phases) -> S) {
            let partition = Partition::explicit(lengths);
            for in_place in [false, true] {
                let buffers = Buffers::new(lengths.len(), partition.count(), in_place);
                let mut buffers = buffers.cut(partition.clone());
                simulate(&mut buffers, |rank| build(rank, Phases::ReduceScatter));
                buffers.assert_owned_chunks();
                simulate(&mut buffers, |rank| build(rank, Phases::AllGather));
                buffers.assert_canonical();
            }
        }
        for world_size in 2..=16 {
            let one_has_all = (0..world_size).map(|rank| if rank == 1 { 9 } else { 0 }).collect();
            for lengths in [vec![0; world_size], ragged(world_size, world_size), one_has_all] {
                for (slice, window) in [(1, 1), (2, 3), (64, 4)] {
                    let cut = || Partition::explicit(&lengths);
                    check(&lengths, |rank, phases| {
                        Ring::new(rank, world_size, cut(), phases, slice, window)
                    });
                    check(&lengths, |rank, phases| {
                        TwoShot::new(rank, world_size, cut(), phases, slice, window)
                    });
                }
            }
        }
    }
}

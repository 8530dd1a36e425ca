use super::{Action, Partition, Phases, RecvStep, Schedule, SendStep, Source, Target, to_u32};

/// One-shot: every rank sends its whole input to every other and folds all of them itself.
///
/// One crossing, (p−1)·n bytes out of each rank: for messages so short that the crossing is all
/// that counts.
#[derive(Clone, Debug)]
pub struct OneShot {
    rank: usize,
    world_size: usize,
    count: usize,
}

impl OneShot {
    /// For rank `rank` of `world_size` ≥ 2.
    pub fn new(rank: usize, world_size: usize, count: usize) -> Self {
        assert!(world_size >= 2 && rank < world_size, "one-shot has at least two ranks");
        Self { rank, world_size, count }
    }
}

impl Schedule for OneShot {
    fn send_count(&self) -> usize {
        self.world_size - 1
    }

    fn send(&self, index: usize) -> SendStep {
        SendStep {
            peer: peer(self.rank, index, self.world_size),
            tag: 0,
            source: Source::Input,
            range: 0..self.count,
            after: 0,
        }
    }

    fn recv_count(&self) -> usize {
        self.world_size - 1
    }

    fn recv(&self, index: usize) -> RecvStep {
        let last = index == self.world_size - 2;
        RecvStep {
            peer: peer(self.rank, index, self.world_size),
            tag: 0,
            range: 0..self.count,
            action: if last { Action::FoldChunks { held: index } } else { Action::Hold },
            // In place the fold overwrites what the sends read.
            after_sends: if last { self.world_size - 1 } else { 0 },
        }
    }

    fn scratch_elements(&self) -> usize {
        self.count
    }

    fn held_max(&self) -> usize {
        self.world_size - 1
    }
}

/// Star: everybody sends its input to rank 0, which folds all of them and sends the result back.
///
/// Two crossings but only 2(p−1) messages in all, where one-shot has p(p−1): for short vectors where
/// ranks outnumber cores, so that every message costs somebody else's time.
#[derive(Clone, Debug)]
pub struct Star {
    rank: usize,
    world_size: usize,
    count: usize,
}

impl Star {
    /// For rank `rank` of `world_size` ≥ 2.
    pub fn new(rank: usize, world_size: usize, count: usize) -> Self {
        assert!(world_size >= 2 && rank < world_size, "a star has at least two ranks");
        Self { rank, world_size, count }
    }

    fn is_centre(&self) -> bool {
        self.rank == 0
    }

    fn messages(&self) -> usize {
        if self.is_centre() { self.world_size - 1 } else { 1 }
    }

    fn partner(&self, index: usize) -> u32 {
        if self.is_centre() { peer(0, index, self.world_size) } else { 0 }
    }
}

impl Schedule for Star {
    fn send_count(&self) -> usize {
        self.messages()
    }

    fn send(&self, index: usize) -> SendStep {
        let (source, after) =
            if self.is_centre() { (Source::Output, self.messages()) } else { (Source::Input, 0) };
        SendStep { peer: self.partner(index), tag: 0, source, range: 0..self.count, after }
    }

    fn recv_count(&self) -> usize {
        self.messages()
    }

    fn recv(&self, index: usize) -> RecvStep {
        let action = if !self.is_centre() {
            Action::Store
        } else if index + 1 < self.messages() {
            Action::Hold
        } else {
            Action::FoldChunks { held: index }
        };
        let peer = self.partner(index);
        RecvStep { peer, tag: 0, range: 0..self.count, action, after_sends: 0 }
    }

    fn scratch_elements(&self) -> usize {
        if self.is_centre() { self.count } else { 0 }
    }

    fn held_max(&self) -> usize {
        if self.is_centre() { self.world_size - 1 } else { 0 }
    }
}

/// Two-shot: every chunk goes straight to its owner, who folds all inputs and sends the result
/// straight to everybody (or to one root).
///
/// Two crossings and, like the ring, 2(p−1)/p·n bytes out of each rank; it wants every pair of
/// ranks to be equally near.
#[derive(Clone, Debug)]
pub struct TwoShot {
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
    gathering: bool,
    slice: usize,
    nth_peer: usize,
    /// Receives of the reducing half that precede the end of this slice.
    reduced_before: usize,
}

impl TwoShot {
    /// For rank `rank` of `world_size` ≥ 2, slices of at most `slice` ≥ 1 elements, `window` ≥ 1 of
    /// them abreast.
    pub fn new(
        rank: usize,
        world_size: usize,
        partition: Partition,
        phases: Phases,
        slice: usize,
        window: usize,
    ) -> Self {
        assert!(world_size >= 2 && rank < world_size, "two-shot has at least two ranks");
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

    fn reduces(&self) -> bool {
        self.phases != Phases::AllGather
    }

    /// Messages per slice in the reducing half.
    fn scatters(&self) -> usize {
        if self.reduces() { self.world_size - 1 } else { 0 }
    }

    /// Messages per slice in the gathering half, for the sender or the receiver.
    fn gathers(&self, sending: bool) -> usize {
        match self.phases {
            Phases::ReduceScatter => 0,
            Phases::Reduce { root } if (root == self.rank) == sending => 0,
            Phases::Reduce { .. } if sending => 1,
            _ => self.world_size - 1,
        }
    }

    fn position(&self, index: usize, sending: bool) -> Position {
        let (scatters, gathers) = (self.scatters(), self.gathers(sending));
        let per_group = self.window * (scatters + gathers);
        let group = index / per_group;
        let first = group * self.window;
        let width = self.window.min(self.slices - first);
        let within = index % per_group;
        let gathering = within >= width * scatters;
        let (within, per_slice) =
            if gathering { (within - width * scatters, gathers) } else { (within, scatters) };
        let slice = first + within / per_slice;
        // Receives come in the same groups, but a root's senders have other counts than it.
        let received = self.window * (scatters + self.gathers(false));
        let reduced_before =
            if scatters == 0 { 0 } else { group * received + (slice - first + 1) * scatters };
        Position { gathering, slice, nth_peer: within % per_slice, reduced_before }
    }

    fn tag(slice: usize, gathering: bool) -> u32 {
        to_u32(2 * slice + usize::from(gathering))
    }
}

impl Schedule for TwoShot {
    fn send_count(&self) -> usize {
        self.slices * (self.scatters() + self.gathers(true))
    }

    fn send(&self, index: usize) -> SendStep {
        let Position { gathering, slice, nth_peer, reduced_before } = self.position(index, true);
        let to = match self.phases {
            Phases::Reduce { root } if gathering => to_u32(root),
            _ => peer(self.rank, nth_peer, self.world_size),
        };
        let chunk = if gathering { self.rank } else { to as usize };
        SendStep {
            peer: to,
            tag: Self::tag(slice, gathering),
            source: match self.phases.target(self.rank) {
                _ if !gathering => Source::Input,
                Target::Output => Source::Output,
                Target::Scratch => Source::Scratch,
            },
            range: self.partition.slice(chunk, slice, self.slice),
            after: if gathering { reduced_before } else { 0 },
        }
    }

    fn recv_count(&self) -> usize {
        self.slices * (self.scatters() + self.gathers(false))
    }

    fn recv(&self, index: usize) -> RecvStep {
        let Position { gathering, slice, nth_peer, .. } = self.position(index, false);
        let from = peer(self.rank, nth_peer, self.world_size);
        let chunk = if gathering { from as usize } else { self.rank };
        let action = if gathering {
            Action::Store
        } else if nth_peer == self.world_size - 2 {
            Action::Fold { held: nth_peer, target: self.phases.target(self.rank) }
        } else {
            Action::Hold
        };
        RecvStep {
            peer: from,
            tag: Self::tag(slice, gathering),
            range: self.partition.slice(chunk, slice, self.slice),
            action,
            after_sends: 0,
        }
    }

    fn scratch_elements(&self) -> usize {
        if self.reduces() { self.slice } else { 0 }
    }

    fn held_max(&self) -> usize {
        match self.phases.target(self.rank) {
            Target::Output => self.scatters(),
            Target::Scratch => self.scatters() + self.window,
        }
    }
}

/// The `nth` other rank after `rank`, cyclically: the canonical order of inputs.
fn peer(rank: usize, nth: usize, world_size: usize) -> u32 {
    to_u32((rank + 1 + nth) % world_size)
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{Buffers, simulate};
    use super::*;

    const COUNTS: [usize; 9] = [0, 1, 2, 3, 7, 16, 17, 31, 48];

    #[test]
    fn one_shot_gives_the_canonical_fold() {
        for world_size in 2..=16 {
            for count in COUNTS {
                for in_place in [false, true] {
                    let mut buffers = Buffers::new(world_size, count, in_place);
                    simulate(&mut buffers, |rank| OneShot::new(rank, world_size, count));
                    buffers.assert_canonical();
                }
            }
        }
    }

    #[test]
    fn a_star_gives_the_canonical_fold() {
        for world_size in 2..=16 {
            for count in COUNTS {
                for in_place in [false, true] {
                    let mut buffers = Buffers::new(world_size, count, in_place);
                    simulate(&mut buffers, |rank| Star::new(rank, world_size, count));
                    buffers.assert_canonical();
                }
            }
        }
    }

    #[test]
    fn two_shot_gives_the_canonical_fold_in_all_phases() {
        for world_size in 2..=16 {
            for count in COUNTS {
                for (slice, window) in [(1, 1), (2, 3), (64, 4)] {
                    let build = |rank, phases| {
                        let partition = Partition::new(count, world_size);
                        TwoShot::new(rank, world_size, partition, phases, slice, window)
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
}

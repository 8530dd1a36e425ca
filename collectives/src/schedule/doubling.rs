use std::ops::Range;

use super::{Action, Partition, RecvStep, Schedule, SendStep, Source};

/// Steps of the longest program: fold in, 2·31 exchanges, fold out.
const STEPS_MAX: usize = 64;

/// A rank's place among the largest power of two of ranks: pairs of the surplus ranks fold into
/// one before and are told the result after.
#[derive(Clone, Copy, Debug)]
struct Core {
    rank: usize,
    /// Ranks beyond the power of two.
    surplus: usize,
    /// The power of two.
    size: usize,
}

impl Core {
    fn new(rank: usize, world_size: usize) -> Self {
        let size = 1 << world_size.ilog2();
        Self { rank, surplus: world_size - size, size }
    }

    /// The number of this rank in the core; `None` for one that folds into its left neighbour.
    fn number(&self) -> Option<usize> {
        if self.rank >= 2 * self.surplus {
            Some(self.rank - self.surplus)
        } else {
            self.rank.is_multiple_of(2).then_some(self.rank / 2)
        }
    }

    /// The rank with a number in the core.
    fn rank_of(&self, number: usize) -> usize {
        if number < self.surplus { 2 * number } else { number + self.surplus }
    }

    /// Whether this rank takes in its right neighbour first.
    fn folds_in(&self) -> bool {
        self.rank < 2 * self.surplus && self.rank.is_multiple_of(2)
    }
}

/// One exchange with one partner.
#[derive(Clone, Debug, Default)]
struct Exchange {
    partner: usize,
    send: Range<usize>,
    recv: Range<usize>,
    /// `None`: the received range is final.
    combine: Option<Combine>,
    sends_input: bool,
    has_send: bool,
    has_recv: bool,
}

#[derive(Clone, Copy, Debug)]
struct Combine {
    received_first: bool,
    first: bool,
    last: bool,
}

/// A program of exchanges, each cut into slices.
///
/// All doubling schedules are such programs; they differ in the list. The list lives in the
/// value itself, so that making one allocates nothing.
#[derive(Clone, Debug)]
struct Program {
    exchanges: [Exchange; STEPS_MAX],
    len: usize,
    slice: usize,
}

/// Which exchange and which slice of it a message number means.
struct Found {
    exchange: usize,
    slice: usize,
}

impl Program {
    fn new(slice: usize) -> Self {
        Self {
            exchanges: std::array::from_fn(|_| Exchange::default()),
            len: 0,
            slice: slice.max(1),
        }
    }

    fn push(&mut self, exchange: Exchange) {
        self.exchanges[self.len] = exchange;
        self.len += 1;
    }

    fn slices(&self, range: &Range<usize>) -> usize {
        range.len().div_ceil(self.slice).max(1)
    }

    fn sends(&self, exchange: &Exchange) -> usize {
        if exchange.has_send { self.slices(&exchange.send) } else { 0 }
    }

    fn recvs(&self, exchange: &Exchange) -> usize {
        if exchange.has_recv { self.slices(&exchange.recv) } else { 0 }
    }

    fn count(&self, messages: impl Fn(&Exchange) -> usize) -> usize {
        self.exchanges[..self.len].iter().map(messages).sum()
    }

    fn find(&self, mut index: usize, messages: impl Fn(&Exchange) -> usize) -> Found {
        let mut exchange = 0;
        while index >= messages(&self.exchanges[exchange]) {
            index -= messages(&self.exchanges[exchange]);
            exchange += 1;
        }
        Found { exchange, slice: index }
    }

    fn piece(&self, range: &Range<usize>, slice: usize) -> Range<usize> {
        let start = (range.start + slice * self.slice).min(range.end);
        start..(start + self.slice).min(range.end)
    }

    fn tag(exchange: usize, slice: usize) -> u32 {
        u32::try_from(exchange + STEPS_MAX * slice).expect("message numbers are below 2^32")
    }

    fn send(&self, index: usize) -> SendStep {
        let found = self.find(index, |exchange| self.sends(exchange));
        let exchange = &self.exchanges[found.exchange];
        let before: usize =
            self.exchanges[..found.exchange].iter().map(|exchange| self.recvs(exchange)).sum();
        SendStep {
            peer: u32::try_from(exchange.partner).expect("ranks are below 2^32"),
            tag: Self::tag(self.number(found.exchange), found.slice),
            source: if exchange.sends_input { Source::Input } else { Source::Output },
            range: self.piece(&exchange.send, found.slice),
            after: if exchange.sends_input { 0 } else { before },
        }
    }

    fn recv(&self, index: usize) -> RecvStep {
        let found = self.find(index, |exchange| self.recvs(exchange));
        let exchange = &self.exchanges[found.exchange];
        let sent: usize =
            self.exchanges[..found.exchange].iter().map(|exchange| self.sends(exchange)).sum();
        let action = exchange.combine.map_or(Action::Store, |combine| Action::Combine {
            received_first: combine.received_first,
            first: combine.first,
            last: combine.last,
        });
        // What is combined here may be what an earlier exchange still sends, or this one in its
        // own slice. It must not wait for later slices: they may wait for our scratch.
        let same = exchange.has_send && exchange.send == exchange.recv;
        let own = if same { found.slice + 1 } else { 0 };
        let after_sends = if exchange.combine.is_some() { sent + own } else { 0 };
        RecvStep {
            peer: u32::try_from(exchange.partner).expect("ranks are below 2^32"),
            tag: Self::tag(self.number(found.exchange), found.slice),
            range: self.piece(&exchange.recv, found.slice),
            action,
            after_sends,
        }
    }

    /// Two ranks that meet more than once do so in the same order on both sides, so the number of
    /// the meeting names the message.
    fn number(&self, exchange: usize) -> usize {
        let partner = self.exchanges[exchange].partner;
        self.exchanges[..exchange].iter().filter(|earlier| earlier.partner == partner).count()
    }

    fn scratch_elements(&self) -> usize {
        let longest = |exchange: &Exchange| {
            if exchange.combine.is_some() { exchange.recv.len().min(self.slice) } else { 0 }
        };
        self.exchanges[..self.len].iter().map(longest).max().unwrap_or(0)
    }

    /// Surplus ranks: those that fold into a neighbour do only this, and the program is complete.
    fn fold_in(&mut self, core: Core, count: usize) -> bool {
        let all = || 0..count;
        if core.folds_in() {
            let combine = Combine { received_first: false, first: true, last: false };
            self.push(Exchange {
                partner: core.rank + 1,
                recv: all(),
                combine: Some(combine),
                has_recv: true,
                ..Exchange::default()
            });
        } else if core.number().is_none() {
            let partner = core.rank - 1;
            self.push(Exchange {
                partner,
                send: all(),
                sends_input: true,
                has_send: true,
                ..Exchange::default()
            });
            self.push(Exchange { partner, recv: all(), has_recv: true, ..Exchange::default() });
            return true;
        }
        false
    }

    fn fold_out(&mut self, core: Core, count: usize) {
        if core.folds_in() {
            self.push(Exchange {
                partner: core.rank + 1,
                send: 0..count,
                has_send: true,
                ..Exchange::default()
            });
        }
    }
}

macro_rules! schedule_of_program {
    ($schedule:ty) => {
        impl Schedule for $schedule {
            fn send_count(&self) -> usize {
                self.0.count(|exchange| self.0.sends(exchange))
            }

            fn send(&self, index: usize) -> SendStep {
                self.0.send(index)
            }

            fn recv_count(&self) -> usize {
                self.0.count(|exchange| self.0.recvs(exchange))
            }

            fn recv(&self, index: usize) -> RecvStep {
                self.0.recv(index)
            }

            fn scratch_elements(&self) -> usize {
                self.0.scratch_elements()
            }
        }
    };
}

/// Recursive doubling: in each of lg p steps the whole vector is exchanged with a partner twice as
/// far away. Fewest crossings after one-shot, lg p·n bytes.
#[derive(Clone, Debug)]
pub struct RecursiveDoubling(Program);

impl RecursiveDoubling {
    /// For rank `rank` of `world_size` ≥ 2, messages of at most `slice` elements.
    pub fn new(rank: usize, world_size: usize, count: usize, slice: usize) -> Self {
        let core = Core::new(rank, world_size);
        let mut program = Program::new(slice);
        if program.fold_in(core, count) {
            return Self(program);
        }
        let number = core.number().expect("the others are done");
        let mut distance = 1;
        while distance < core.size {
            let partner = number ^ distance;
            let first = program.len == 0;
            program.push(Exchange {
                partner: core.rank_of(partner),
                send: 0..count,
                recv: 0..count,
                combine: Some(Combine {
                    received_first: partner < number,
                    first,
                    last: 2 * distance == core.size,
                }),
                sends_input: first,
                has_send: true,
                has_recv: true,
            });
            distance *= 2;
        }
        program.fold_out(core, count);
        Self(program)
    }
}

schedule_of_program!(RecursiveDoubling);

/// Recursive halving, then doubling (Rabenseifner): the halves of a shrinking range are exchanged
/// and reduced until each rank holds one chunk, then the chunks are gathered the same way back.
/// 2 lg p crossings, 2(p−1)/p·n bytes.
#[derive(Clone, Debug)]
pub struct HalvingDoubling(Program);

impl HalvingDoubling {
    /// For rank `rank` of `world_size` ≥ 2, messages of at most `slice` elements.
    pub fn new(rank: usize, world_size: usize, count: usize, slice: usize) -> Self {
        let core = Core::new(rank, world_size);
        let mut program = Program::new(slice);
        if program.fold_in(core, count) {
            return Self(program);
        }
        let number = core.number().expect("the others are done");
        let partition = Partition::new(count, core.size);
        let chunks = |from: usize, len: usize| {
            partition.range(from).start..partition.range(from + len - 1).end
        };
        let mut distance = core.size / 2;
        while distance > 0 {
            let (kept, given) = halves(number, distance);
            let first = program.len == 0;
            program.push(Exchange {
                partner: core.rank_of(number ^ distance),
                send: chunks(given, distance),
                recv: chunks(kept, distance),
                combine: Some(Combine {
                    received_first: number & distance != 0,
                    first,
                    last: distance == 1,
                }),
                sends_input: first,
                has_send: true,
                has_recv: true,
            });
            distance /= 2;
        }
        distance = 1;
        while distance < core.size {
            let (kept, given) = halves(number, distance);
            program.push(Exchange {
                partner: core.rank_of(number ^ distance),
                send: chunks(kept, distance),
                recv: chunks(given, distance),
                combine: None,
                sends_input: false,
                has_send: true,
                has_recv: true,
            });
            distance *= 2;
        }
        program.fold_out(core, count);
        Self(program)
    }
}

schedule_of_program!(HalvingDoubling);

/// All-gather by doubling: in each of lg p steps a pair of ranks, twice as far apart, exchanges the chunks
/// that each has.
///
/// lg p crossings where exchanging chunks directly takes p−1 messages of each rank, and, like that,
/// (p−1)/p·n bytes out of each; but nothing goes on before all of it is there.
#[derive(Clone, Debug)]
pub struct DoublingGather(Program);

impl DoublingGather {
    /// For rank `rank` of `world_size` ≥ 2, whose chunk of the output holds what it contributes; messages
    /// of at most `slice` elements.
    pub fn new(rank: usize, world_size: usize, partition: &Partition, slice: usize) -> Self {
        assert!(partition.is_whole(), "what comes back is the whole vector");
        let core = Core::new(rank, world_size);
        let mut program = Program::new(slice);
        if rank < 2 * core.surplus {
            // Pairs of neighbours: what the right one has goes first, and all comes back to it last.
            let is_left = core.folds_in();
            let right = partition.range(if is_left { rank + 1 } else { rank });
            program.push(Exchange {
                partner: if is_left { rank + 1 } else { rank - 1 },
                send: right.clone(),
                recv: right,
                has_send: !is_left,
                has_recv: is_left,
                ..Exchange::default()
            });
            if !is_left {
                let whole = 0..partition.count();
                program.push(Exchange {
                    partner: rank - 1,
                    recv: whole,
                    has_recv: true,
                    ..Exchange::default()
                });
                return Self(program);
            }
        }
        let number = core.number().expect("the others are done");
        // The chunks of ranks that are neighbours in the core, or fold into those, are neighbours too.
        let chunks = |from: usize, len: usize| {
            let end = core.rank_of(from + len);
            partition.range(core.rank_of(from)).start..partition.range(end - 1).end
        };
        let mut distance = 1;
        while distance < core.size {
            let (kept, given) = halves(number, distance);
            program.push(Exchange {
                partner: core.rank_of(number ^ distance),
                send: chunks(kept, distance),
                recv: chunks(given, distance),
                has_send: true,
                has_recv: true,
                ..Exchange::default()
            });
            distance *= 2;
        }
        program.fold_out(core, partition.count());
        Self(program)
    }
}

schedule_of_program!(DoublingGather);

/// The first chunks of the half that `number` keeps and of the half that it gives away, when
/// ranges of 2·`distance` chunks are split.
fn halves(number: usize, distance: usize) -> (usize, usize) {
    let kept = number / distance * distance;
    (kept, kept ^ distance)
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{Buffers, simulate};
    use super::super::{Phases, TwoShot};
    use super::*;

    const COUNTS: [usize; 8] = [0, 1, 2, 3, 7, 16, 17, 50];

    #[test]
    fn recursive_doubling_folds_in_rank_order() {
        for world_size in 2..=16 {
            for count in COUNTS {
                for (slice, in_place) in [(3, false), (64, true)] {
                    let mut buffers = Buffers::new(world_size, count, in_place);
                    simulate(&mut buffers, |rank| {
                        RecursiveDoubling::new(rank, world_size, count, slice)
                    });
                    buffers.assert_same_everywhere();
                    let ranks: Vec<usize> = (0..world_size).collect();
                    assert!(buffers.output(0).iter().all(|element| *element == ranks));
                }
            }
        }
    }

    #[test]
    fn halving_doubling_reduces_each_element_once_and_alike() {
        for world_size in 2..=16 {
            for count in COUNTS {
                for (slice, in_place) in [(3, false), (64, true)] {
                    let mut buffers = Buffers::new(world_size, count, in_place);
                    simulate(&mut buffers, |rank| {
                        HalvingDoubling::new(rank, world_size, count, slice)
                    });
                    buffers.assert_same_everywhere();
                }
            }
        }
    }

    #[test]
    fn doubling_brings_chunks_of_any_lengths_to_everybody() {
        for world_size in 2..=17 {
            let uneven: Vec<usize> = (0..world_size).map(|rank| rank * 7 % 5).collect();
            let even = COUNTS.map(|count| Partition::new(count, world_size));
            for partition in even.into_iter().chain([Partition::explicit(&uneven)]) {
                for (slice, in_place) in [(3, false), (64, true)] {
                    let count = partition.count();
                    let buffers = Buffers::new(world_size, count, in_place);
                    let mut buffers = buffers.cut(partition.clone());
                    let phases = Phases::ReduceScatter;
                    simulate(&mut buffers, |rank| {
                        TwoShot::new(rank, world_size, partition.clone(), phases, 64, 2)
                    });
                    simulate(&mut buffers, |rank| {
                        DoublingGather::new(rank, world_size, &partition, slice)
                    });
                    buffers.assert_canonical();
                }
            }
        }
    }
}

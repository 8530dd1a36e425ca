//! Which algorithm an operation takes: a pure function of what all ranks know.

mod algorithm;
mod tuning;

use std::fmt;

use paceline_transports::TransportKind;

use crate::node::Manner;
use crate::signature::Collective;

pub use algorithm::{Algorithm, ParseAlgorithmError};

use tuning::ONE_SHOT_BYTES_MAX;
pub(crate) use tuning::{NUMBERS, SOCKETS_TRIED};
pub use tuning::{Speed, Tuning};

pub use crate::levels::LevelFacts;

/// What all ranks know about the group; equal on all of them, or the plans would differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlanFacts {
    /// Ranks in the group.
    pub world_size: u32,
    /// What carries the bytes.
    pub transport: TransportKind,
    /// Whether on some node ranks outnumber cores.
    pub oversubscribed: bool,
    /// Whether all ranks share the memory of one node.
    pub shared_memory: bool,
    /// The nodes, where there are several and the ranks of each share memory.
    pub levels: Option<LevelFacts>,
    /// The algorithm that the user forced, for collectives that know it.
    pub forced: Option<Algorithm>,
    /// Whether results must not depend on algorithm, transport or nodes.
    pub any_plan: bool,
    /// The numbers that choices depend on.
    pub tuning: Tuning,
}

/// How one operation is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Bytes of one slice at most.
    pub slice_bytes: usize,
    /// Slices abreast.
    pub window: usize,
}

impl Choice {
    /// Elements of one slice at most, for elements of `element_bytes`.
    pub(crate) fn slice_elements(&self, element_bytes: usize) -> usize {
        (self.slice_bytes / element_bytes).max(1)
    }
}

/// Ranks up to which every rank talks to every other directly.
const DIRECT_RANKS_MAX: u32 = 32;

impl PlanFacts {
    /// Ranks with cores of their own, none of which share memory, with built-in numbers and nothing
    /// forced: what others are in all but the fields that they name.
    pub const fn plain(world_size: u32, transport: TransportKind) -> Self {
        Self {
            world_size,
            transport,
            oversubscribed: false,
            shared_memory: false,
            levels: None,
            forced: None,
            any_plan: false,
            tuning: Tuning::BUILT_IN,
        }
    }

    /// The choice for a collective over `bytes` bytes (of the whole vector).
    pub fn choose(&self, collective: Collective, bytes: usize) -> Choice {
        let algorithm = self
            .forced
            .filter(|forced| forced.supports(collective) && self.allows(*forced, collective, bytes))
            .unwrap_or_else(|| self.preferred(collective, bytes));
        let (slice_bytes, window) = self.slicing(collective, algorithm, bytes);
        Choice { algorithm, slice_bytes, window }
    }

    /// Whether the group and the size permit an algorithm at all.
    fn allows(&self, algorithm: Algorithm, collective: Collective, bytes: usize) -> bool {
        match algorithm {
            // A barrier of any number of ranks is one, too.
            Algorithm::Dissemination if !collective.reduces() => true,
            Algorithm::OneShot | Algorithm::Star | Algorithm::Dissemination => {
                self.world_size <= DIRECT_RANKS_MAX && bytes <= ONE_SHOT_BYTES_MAX
            }
            Algorithm::TwoShot => self.world_size <= DIRECT_RANKS_MAX,
            Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling => {
                !self.any_plan || !collective.reduces()
            }
            Algorithm::TwoLevel => self.carries_in_levels(collective),
            Algorithm::Direct if collective == Collective::Reduce => {
                self.world_size <= DIRECT_RANKS_MAX
            }
            _ => algorithm
                .node_manner()
                .is_none_or(|manner| self.shared_memory && manner.allows(self.world_size, bytes)),
        }
    }

    /// Whether the nodes of the group allow a collective in two levels.
    fn carries_in_levels(&self, collective: Collective) -> bool {
        self.levels.is_some_and(|levels| {
            // Blocks of chunks, one for each node, exist only where ranks are in the order of nodes.
            let by_blocks = matches!(
                collective,
                Collective::ReduceScatter
                    | Collective::ReduceScatterV
                    | Collective::AllGather
                    | Collective::AllGatherV
            );
            // Sums over nodes have an order of their own.
            let keeps_bits = !(self.any_plan && collective.reduces());
            let has_blocks = levels.contiguous || !by_blocks;
            Algorithm::TwoLevel.supports(collective) && has_blocks && keeps_bits
        })
    }

    /// What plans among one rank of each node follow from.
    pub(crate) fn of_stream(&self) -> Self {
        let nodes = self.levels.map_or(1, |levels| levels.nodes);
        Self { world_size: nodes, shared_memory: false, levels: None, forced: None, ..self.clone() }
    }

    /// The choice for what crosses between the ranks of a stream. They do not share cores, so that
    /// sparing messages is not worth bytes on the link. Chunks with others' elements between them (not
    /// `is_whole`) take a message each.
    pub(crate) fn choose_across(
        &self,
        collective: Collective,
        bytes: usize,
        is_whole: bool,
    ) -> Choice {
        let oversubscribed = self.oversubscribed && collective == Collective::AllReduce;
        let forced = if is_whole { self.forced } else { Some(self.by_chunks()) };
        Self { oversubscribed, forced, ..self.clone() }.choose(collective, bytes)
    }

    /// Into how many chunks an all-reduce cuts its vector if it is carried out so.
    pub(crate) fn chunks(&self, algorithm: Algorithm) -> usize {
        match (algorithm, self.levels) {
            (Algorithm::TwoLevel, Some(levels)) => levels.nodes as usize * levels.streams as usize,
            _ => self.world_size as usize,
        }
    }

    fn preferred(&self, collective: Collective, bytes: usize) -> Algorithm {
        if self.carries_in_levels(collective) {
            return Algorithm::TwoLevel;
        }
        let few = self.world_size <= DIRECT_RANKS_MAX;
        if self.shared_memory && Algorithm::NodeOneShot.supports(collective) {
            return match Manner::preferred(self.world_size, bytes) {
                Manner::OneShot => Algorithm::NodeOneShot,
                Manner::TwoShot => Algorithm::NodeTwoShot,
            };
        }
        // Ranks that share cores: the fewest messages win.
        let few_messages = few && self.oversubscribed && bytes <= FEW_MESSAGES_BYTES;
        match collective {
            Collective::AllReduce => self.preferred_all_reduce(bytes),
            Collective::AllGather | Collective::AllGatherV if few_messages => Algorithm::Star,
            Collective::AllGather | Collective::AllGatherV if self.gathers_by_doubling(bytes) => {
                Algorithm::RecursiveDoubling
            }
            Collective::ReduceScatter
            | Collective::ReduceScatterV
            | Collective::AllGather
            | Collective::AllGatherV => self.by_chunks(),
            Collective::AllToAll | Collective::AllToAllV => Algorithm::Pairwise,
            Collective::Gather | Collective::GatherV => Algorithm::Direct,
            Collective::Scatter | Collective::ScatterV => Algorithm::Direct,
            Collective::Broadcast if few_messages => Algorithm::Direct,
            Collective::Broadcast
                if bytes >= self.tuning.chain_bytes_min && self.world_size > 2 =>
            {
                Algorithm::Chain
            }
            Collective::Broadcast => Algorithm::BinomialTree,
            Collective::Reduce if few && self.reduces_straight(bytes) => Algorithm::Direct,
            Collective::Reduce if few => Algorithm::TwoShot,
            Collective::Reduce | Collective::Shift => Algorithm::Ring,
            // Messages go as they are; a split is carried out as an all-gather, and adasum as several
            // others.
            Collective::Send | Collective::Receive | Collective::Split | Collective::Adasum => {
                Algorithm::Ring
            }
            Collective::Barrier if few_messages => Algorithm::Star,
            Collective::Barrier | Collective::Agreement => Algorithm::Dissemination,
        }
    }

    /// The way to move many bytes, with a message for each chunk.
    fn by_chunks(&self) -> Algorithm {
        if self.world_size <= DIRECT_RANKS_MAX { Algorithm::TwoShot } else { Algorithm::Ring }
    }

    /// Whether few messages in a row beat many at once, each of which costs both sides a system call, for
    /// ranks with cores of their own.
    fn gathers_by_doubling(&self, bytes: usize) -> bool {
        !self.oversubscribed && self.world_size > 2 && bytes <= DOUBLING_BYTES
    }

    /// The same for all-reduces, which gather all inputs then: a quarter of the bytes that one-shot is
    /// good for, which has them under way at once, and two messages instead of three or fewer.
    fn spreads(&self, bytes: usize) -> bool {
        let others = self.world_size.max(2) as usize - 1;
        let rounds = self.world_size.next_power_of_two().ilog2() as usize;
        !self.oversubscribed
            && 3 * rounds <= 2 * others
            && bytes <= ONE_SHOT_BYTES_MAX
            && bytes.saturating_mul(others) <= self.tuning.one_shot_bytes_sent / 4
    }

    /// Whether the root can reduce alone as fast as all could together: two ranks move half as much
    /// again if they share the work, more of them need a second crossing.
    fn reduces_straight(&self, bytes: usize) -> bool {
        let into_root = bytes.saturating_mul(self.world_size.max(2) as usize - 1);
        self.world_size == 2 || into_root <= STRAIGHT_BYTES_RECEIVED
    }

    fn preferred_all_reduce(&self, bytes: usize) -> Algorithm {
        let (world_size, tuning) = (self.world_size as usize, &self.tuning);
        if world_size == 2 {
            let whole = bytes <= tuning.pair_one_shot_bytes;
            return if whole { Algorithm::OneShot } else { Algorithm::Ring };
        }
        if self.world_size > DIRECT_RANKS_MAX {
            // Too many for everybody to talk to everybody; the tree's order of reduction is the
            // price of lg p crossings.
            let doubling = bytes <= tuning.recursive_doubling_bytes && !self.any_plan;
            return if doubling { Algorithm::RecursiveDoubling } else { Algorithm::Ring };
        }
        if self.oversubscribed && bytes <= tuning.star_bytes.min(ONE_SHOT_BYTES_MAX) {
            Algorithm::Star
        } else if self.spreads(bytes) {
            Algorithm::Dissemination
        } else if bytes.saturating_mul(world_size - 1) <= tuning.one_shot_bytes_sent
            && bytes <= ONE_SHOT_BYTES_MAX
        {
            Algorithm::OneShot
        } else if bytes <= tuning.two_shot_bytes {
            Algorithm::TwoShot
        } else {
            Algorithm::Ring
        }
    }

    fn slicing(
        &self,
        collective: Collective,
        algorithm: Algorithm,
        bytes: usize,
    ) -> (usize, usize) {
        let others = self.world_size.max(2) as usize - 1;
        match algorithm {
            Algorithm::OneShot | Algorithm::Star | Algorithm::Dissemination => {
                (ONE_SHOT_BYTES_MAX, 1)
            }
            Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling => {
                (self.tuning.slice_bytes_max, 1)
            }
            // Nothing happens to the bytes on the way, so every block is one message.
            Algorithm::Pairwise => (bytes.max(1), others.min(PAIRS_ABREAST)),
            // Long slices: the root reduces faster than it receives, so that little is gained by its
            // beginning early, and each message costs both sides system calls and short segments.
            Algorithm::Direct if collective == Collective::Reduce => {
                (self.tuning.slice_bytes_max, self.tuning.window)
            }
            Algorithm::Direct => (bytes.max(1), others),
            Algorithm::TwoLevel => {
                // What crosses between nodes is planned for itself; this says how.
                let streams = self.levels.map_or(1, |levels| levels.streams as usize);
                let choice = self.of_stream().choose(Collective::AllReduce, bytes / streams);
                (choice.slice_bytes, choice.window)
            }
            // Who passes nothing on gains nothing from slices.
            Algorithm::BinomialTree if self.world_size == 2 => {
                (bytes.max(self.tuning.slice_bytes_min), 1)
            }
            _ => {
                let chunk = bytes.div_ceil(self.world_size as usize);
                let Tuning { slice_bytes_min, slice_bytes_max, window, .. } = self.tuning;
                (chunk.div_ceil(SLICES_WANTED).clamp(slice_bytes_min, slice_bytes_max), window)
            }
        }
    }

    /// The table of choices, for `--explain`.
    pub fn explain(&self, collective: Collective) -> String {
        use fmt::Write as _;

        let mut lines = String::new();
        let mut previous: Option<Algorithm> = None;
        for exponent in 0..=30 {
            let choice = self.choose(collective, 1 << exponent);
            if previous != Some(choice.algorithm) {
                previous = Some(choice.algorithm);
                let Choice { algorithm, slice_bytes, window } = choice;
                let _ = write!(lines, "  from {:>10} bytes: {algorithm} ", 1u64 << exponent);
                let _ = if algorithm.sends_whole_blocks() && collective != Collective::Reduce {
                    writeln!(lines, "(whole blocks, {window} ranks at a time)")
                } else {
                    let kib = slice_bytes >> 10;
                    writeln!(lines, "(slices of at most {kib} KiB, {window} abreast)")
                };
            }
        }
        lines
    }
}

/// Ranks that share cores: up to it the fewest messages win for collectives that only move data, and
/// for barriers.
const FEW_MESSAGES_BYTES: usize = 32 << 10;
/// All-gather of more than two ranks with cores of their own: bytes of the whole vector up to which the
/// fewest messages of each rank win (measured with 4 to 16 ranks on loopback, benches/RESULTS.md).
const DOUBLING_BYTES: usize = 64 << 10;
/// More ranks than two: up to so many bytes into the root it reduces alone, in one crossing.
const STRAIGHT_BYTES_RECEIVED: usize = 96 << 10;
/// Slices into which a chunk falls if they do not get too short or too long.
const SLICES_WANTED: usize = 4;
/// All-to-all: ranks that one sends to at a time. It keeps the links busy while one of the others is
/// late, and everybody from sending to the same rank.
const PAIRS_ABREAST: usize = 4;

#[cfg(test)]
mod tests;

//! Pure schedules: what each rank sends, receives and reduces, in which order.
//!
//! A schedule is a function of (rank, world size, element count, slice size) and nothing else: no
//! I/O, no clock, no allocation per step. It lists the sends and the receives of one rank, each
//! in the order in which they are *issued*; receives are *applied* in that same order, whatever
//! order their bytes arrive in. The one dependency is a count: a send may be posted once
//! [`SendStep::after`] receives have been applied.
//!
//! # The canonical order
//! A tensor of n elements over p ranks falls into p chunks ([`Partition`]). Every element of chunk
//! c is the left fold `x[c+1] op x[c+2] op … op x[c+p]`, indices modulo p, so that its owner, rank
//! c, comes last. Ring, direct and shared memory all compute exactly this, hence the same bits;
//! slicing, windows and fusion cannot change it. [`RecursiveDoubling`] and [`HalvingDoubling`] fold
//! in the order of a tree instead, equally fixed.
//!
//! # Memory
//! `Input` is what the caller passed, `Output` where the result goes; in place they are the same
//! bytes. Nothing is written to the output but results, and only where the rank gets them. Receives
//! that are reduced land in scratch slots first: [`Action::Hold`] keeps one there until a later
//! receive folds it, and what a rank reduces for others stays there until it is sent
//! ([`Target::Scratch`]).

mod direct;
mod doubling;
mod exchange;
mod partition;
mod ring;
mod rooted;
#[cfg(test)]
mod simulate;
mod spread;
mod straight;

use std::ops::Range;

pub use direct::{OneShot, Star, TwoShot};
pub use doubling::{DoublingGather, HalvingDoubling, RecursiveDoubling};
pub use exchange::{Direct, Pairwise, Way};
pub use partition::Partition;
pub use ring::Ring;
pub use rooted::{Barrier, Broadcast, Shift, Tree};
pub use spread::Spread;
pub use straight::{Collect, Rally};

/// Which part of an all-reduce a ring or a direct exchange carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// Reduce-scatter, then all-gather.
    AllReduce,
    /// Only the first half: rank r ends with chunk r.
    ReduceScatter,
    /// Only the second half: rank r starts with chunk r.
    AllGather,
    /// The first half, then every rank sends its chunk to the root.
    Reduce {
        /// Who gets the result.
        root: usize,
    },
}

impl Phases {
    /// Where rank `rank` leaves what it has reduced completely: its own chunk.
    fn target(self, rank: usize) -> Target {
        match self {
            Self::Reduce { root } if root != rank => Target::Scratch,
            _ => Target::Output,
        }
    }
}

/// Where the bytes of a send come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The caller's input.
    Input,
    /// The caller's output: partial or final results.
    Output,
    /// The next of the results that lie in scratch ([`Target::Scratch`]); they are sent in the order
    /// in which they were made. Its slot is free when the send has completed.
    Scratch,
    /// The inputs that have been gathered in scratch ([`Action::Gather`]), this rank's own first.
    Gathered,
}

/// Where a reduction leaves its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// In the caller's output.
    Output,
    /// In the receive's own scratch slot, for exactly one send.
    Scratch,
}

/// One message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendStep {
    /// To whom.
    pub peer: u32,
    /// Unique per (sender, receiver) within the operation; equals the receive step's.
    pub tag: u32,
    /// Which buffer.
    pub source: Source,
    /// Which elements.
    pub range: Range<usize>,
    /// How many receives must have been applied before this may be posted.
    pub after: usize,
}

/// What happens to the bytes of a receive when its turn comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// They land directly in the output.
    Store,
    /// They stay in scratch until a later step folds them.
    Hold,
    /// `target = received op input[range]`, and the average's division if `last`.
    Reduce {
        /// Whether the range is final afterwards.
        last: bool,
        /// Where the result goes.
        target: Target,
    },
    /// The `held` receives before this one and this one are folded, in order, then the own input:
    /// `target = held[0] op … op received op input[range]`.
    Fold {
        /// How many held receives come first.
        held: usize,
        /// Where the result goes.
        target: Target,
    },
    /// The `held` receives before this one and this one are the inputs of ranks `r+1 … r+p-1`; what
    /// `range` has of every chunk is folded in its canonical order, own input included.
    FoldChunks {
        /// How many held receives come first.
        held: usize,
    },
    /// They land in scratch, where the inputs of all ranks lie one after the other: that of rank r+k at k
    /// times the number of elements.
    Gather,
    /// The same, and then all inputs are folded, every chunk in its canonical order.
    FoldGathered,
    /// `output[range] = left op right`, where `left` is the received value if `received_first` and
    /// the running value otherwise. The running value is the output, or the input if `first`.
    Combine {
        /// Whether the received value is the left operand.
        received_first: bool,
        /// Whether nothing was reduced into the range before.
        first: bool,
        /// Whether the range is final afterwards.
        last: bool,
    },
}

impl Action {
    /// Whether the bytes need a scratch slot of their own.
    pub fn needs_scratch(&self) -> bool {
        !matches!(self, Self::Store | Self::Gather | Self::FoldGathered)
    }
}

/// One message to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecvStep {
    /// From whom.
    pub peer: u32,
    /// Equals the sender's.
    pub tag: u32,
    /// Which elements.
    pub range: Range<usize>,
    /// What to do with them.
    pub action: Action,
    /// How many sends must have been completed before this may be applied: nonzero where a receive
    /// overwrites what an earlier send reads.
    pub after_sends: usize,
}

/// The program of one rank for one operation.
pub trait Schedule {
    /// How many messages this rank sends.
    fn send_count(&self) -> usize;
    /// The send number `index`, `index < send_count()`.
    fn send(&self, index: usize) -> SendStep;
    /// How many messages this rank receives.
    fn recv_count(&self) -> usize;
    /// The receive number `index`, `index < recv_count()`.
    fn recv(&self, index: usize) -> RecvStep;
    /// Elements of the longest message that lands in scratch, or of all that is gathered there.
    fn scratch_elements(&self) -> usize;
    /// The most receives that may sit in scratch at once, held or waiting to be sent on, before
    /// one more slot lets the operation go on.
    fn held_max(&self) -> usize {
        0
    }
}

/// Ranks and message numbers as they travel.
fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("ranks and message numbers are below 2^32")
}

//! How an operation is carried out, from what all members know.

use paceline_transports::Way;
use paceline_transports::shm::ArenaLayout;

use super::request::{Manner, NodeKind, NodeRequest};

/// Pieces in a ring start on a cache line.
pub(super) const LINE: usize = 64;

/// Bytes that are reduced before they are copied on, small enough to be still in the first-level
/// cache. No ring is smaller.
pub(super) const PIECE_BYTES: usize = 4 << 10;

/// Rounds that fit into the rings at least, so that nobody has to wait for a neighbour that the
/// scheduler has put aside for a moment.
const DEPTH_MIN: usize = 4;

/// Operations of more rounds than this use [`DEPTH_MIN`] places only: their own buffers fill the
/// caches, and the rings should take no more of them than they must.
const ROUNDS_THAT_WANDER_MAX: usize = 8;

/// How many of the rounds that fit an operation makes use of.
pub(super) fn depth(fitting: usize, rounds: usize) -> usize {
    if rounds > ROUNDS_THAT_WANDER_MAX { fitting.min(DEPTH_MIN) } else { fitting }
}

/// Shared memory of one member. It is far larger than what is under way, on purpose: walking through
/// more than a second-level cache holds means that a line which is written has left the caches of
/// those who read it last time, and need not be called back from them. With rings of 256 KiB a
/// 64 KiB all-reduce takes three times as long.
const RINGS_BYTES: usize = 2 << 20;

/// The same for all members together.
const RINGS_BYTES_TOTAL_MAX: usize = 16 << 20;

/// What was chosen by measurement; all members must have the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Largest block in bytes. A chunk that is no longer is not cut: the hand-overs between cores
    /// that shorter blocks need cost more than working at the same time saves.
    pub block_bytes_max: usize,
    /// Results are stored past the caches from so many bytes per member on.
    pub streaming_bytes_min: usize,
    /// How a member stores what others read, or `None` to measure it. Members may differ.
    pub shared_stores: Option<Way>,
}

impl Tuning {
    /// For `members` members.
    pub fn new(members: usize) -> Self {
        Self {
            block_bytes_max: 128 << 10,
            streaming_bytes_min: (16 << 20) / members.max(2) * 2,
            shared_stores: None,
        }
    }
}

/// The arena for `members` members.
pub fn arena_layout(members: u32) -> ArenaLayout {
    const PAGE: usize = 4096;
    let count = members.max(1) as usize;
    let rings = RINGS_BYTES.min(RINGS_BYTES_TOTAL_MAX / count);
    // A round puts one block into the result ring for every p-1 in the input ring.
    let result_ring_bytes = (rings / count).next_multiple_of(PAGE);
    let input_ring_bytes = (result_ring_bytes * (count - 1)).max(PAGE);
    ArenaLayout { members, input_ring_bytes, result_ring_bytes }
}

impl Manner {
    /// The faster one for `bytes` bytes and `members` members.
    pub fn preferred(members: u32, bytes: usize) -> Self {
        let one_shot_bytes_max = if members <= 2 { 16 << 10 } else { 8 << 10 };
        if bytes <= one_shot_bytes_max { Self::OneShot } else { Self::TwoShot }
    }

    /// Whether a tensor of `bytes` bytes can be dealt with so in the arena for `members` members.
    pub fn allows(self, members: u32, bytes: usize) -> bool {
        match self {
            // Two slots must fit beside each other, and beside what came before.
            Self::OneShot => {
                bytes <= arena_layout(members).input_ring_bytes / DEPTH_MIN / LINE * LINE
            }
            Self::TwoShot => bytes > 0,
        }
    }
}

/// How to carry out one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Everybody shows its contribution to all, and each makes of them what it needs. In the
    /// announcement itself if `inline`.
    OneShot {
        /// Bytes that each member shows.
        bytes: usize,
        /// Whether they fit into the announcement.
        inline: bool,
    },
    /// Round by round through the rings, in blocks of so many elements.
    Rounds {
        /// Elements of a block.
        block: usize,
    },
}

impl Plan {
    /// # Panics
    /// If the request's manner does not allow so many bytes.
    pub(super) fn new(request: &NodeRequest<'_>, layout: ArenaLayout, tuning: &Tuning) -> Self {
        let size = request.dtype.size();
        let longest = || request.partition(layout.members as usize).longest() * size;
        if request.manner == Manner::OneShot {
            let bytes = match request.kind {
                NodeKind::Barrier => 0,
                NodeKind::AllGather | NodeKind::Gather { .. } => longest(),
                _ => request.bytes(),
            };
            let inline = bytes <= paceline_transports::shm::Arena::INLINE_BYTES_MAX;
            assert!(
                inline || bytes <= layout.input_ring_bytes / DEPTH_MIN,
                "one-shot fits into the rings"
            );
            return Self::OneShot { bytes, inline };
        }
        assert!(request.count > 0, "an operation in rounds has at least one");
        let ring_block = layout.result_ring_bytes / DEPTH_MIN / LINE * LINE;
        let block = longest().min(tuning.block_bytes_max).min(ring_block);
        Self::Rounds { block: (block / size).max(1) }
    }
}

//! What a time means: bytes, element counts and bandwidths, defined as nccl-tests defines them.
//!
//! *size* is the larger of the send and the receive buffer of one rank. *algbw* = size / time.
//! *busbw* = algbw × the share of the size that must cross each rank's link whatever the
//! algorithm, so it can be compared with the speed of the link. GB/s = 10⁹ bytes per second;
//! sizes are binary.

use std::fmt;
use std::str::FromStr;

use paceline_devices::DType;

/// A collective that the toolkit measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Collective {
    /// Every rank ends with the reduction of all ranks' buffers.
    AllReduce,
    /// Every rank ends with its block of the reduction.
    ReduceScatter,
    /// Every rank ends with all ranks' blocks.
    AllGather,
    /// Every rank ends with the root's buffer.
    Broadcast,
    /// The root ends with the reduction.
    Reduce,
    /// Every rank ends with a block from every rank.
    AllToAll,
    /// The root ends with all ranks' blocks.
    Gather,
    /// Every rank ends with its block of the root's buffer.
    Scatter,
    /// No rank leaves before all have entered; no data.
    Barrier,
}

impl Collective {
    /// Every collective, in the order in which help texts list them.
    pub const ALL: [Self; 9] = [
        Self::AllReduce,
        Self::ReduceScatter,
        Self::AllGather,
        Self::Broadcast,
        Self::Reduce,
        Self::AllToAll,
        Self::Gather,
        Self::Scatter,
        Self::Barrier,
    ];

    /// The name on the command line and in reports, e.g. `all_reduce`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
            Self::Broadcast => "broadcast",
            Self::Reduce => "reduce",
            Self::AllToAll => "all_to_all",
            Self::Gather => "gather",
            Self::Scatter => "scatter",
            Self::Barrier => "barrier",
        }
    }

    /// Whether elements of several ranks are combined, so that a reduction operator matters.
    pub const fn reduces(self) -> bool {
        matches!(self, Self::AllReduce | Self::ReduceScatter | Self::Reduce)
    }

    /// Whether it can be carried out in one buffer; the others are measured with two.
    pub const fn works_in_place(self) -> bool {
        !matches!(self, Self::AllToAll | Self::Gather | Self::Scatter)
    }

    /// busbw / algbw. 0 where nothing has to move: one rank, or a barrier.
    pub fn bus_factor(self, world_size: u32) -> f64 {
        let ranks = f64::from(world_size.max(1));
        match self {
            Self::AllReduce => 2.0 * (ranks - 1.0) / ranks,
            Self::ReduceScatter
            | Self::AllGather
            | Self::AllToAll
            | Self::Gather
            | Self::Scatter => (ranks - 1.0) / ranks,
            Self::Broadcast | Self::Reduce if world_size > 1 => 1.0,
            Self::Broadcast | Self::Reduce | Self::Barrier => 0.0,
        }
    }

    /// The shape of the collective nearest to `bytes`.
    ///
    /// Sizes are rounded down to whole elements, and where every rank has a block of its own to the
    /// same number of elements for each rank; never below one element unless `bytes` is 0.
    pub fn shape(self, bytes: u64, dtype: DType, world_size: u32) -> Shape {
        let element_bytes = as_u64(dtype.size());
        let blocks = match self {
            Self::ReduceScatter
            | Self::AllGather
            | Self::AllToAll
            | Self::Gather
            | Self::Scatter => u64::from(world_size.max(1)),
            Self::AllReduce | Self::Broadcast | Self::Reduce => 1,
            Self::Barrier => return Shape { count: 0, blocks: 1, bytes: 0 },
        };
        let count = match bytes / (element_bytes * blocks) {
            0 if bytes > 0 => 1,
            count => count,
        };
        Shape { count, blocks, bytes: count * blocks * element_bytes }
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no collective.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown collective {0:?}; expected one of all_reduce, reduce_scatter, all_gather, broadcast, \
     reduce, all_to_all, gather, scatter, barrier"
)]
pub struct ParseCollectiveError(pub String);

impl FromStr for Collective {
    type Err = ParseCollectiveError;

    /// Accepts the spellings of NCCL, MPI and PyTorch too: case, `_` and `-` do not matter.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let plain = name.replace(['_', '-'], "").to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|collective| collective.name().replace('_', "") == plain)
            .ok_or_else(|| ParseCollectiveError(name.to_owned()))
    }
}

/// The element counts and the size of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Elements of a block: of the smaller of a rank's two buffers, where they differ. What nccl-tests
    /// prints as *count*.
    pub count: u64,
    /// How many blocks the larger buffer holds: the world size where each rank has a block of its
    /// own, otherwise 1.
    pub blocks: u64,
    /// Bytes of the larger buffer: what nccl-tests prints as *size*.
    pub bytes: u64,
}

impl Shape {
    /// Elements in the larger of a rank's two buffers.
    pub const fn elements(self) -> u64 {
        self.count * self.blocks
    }
}

/// Bandwidth in GB/s (10⁹ bytes per second); `None` where no bytes or no time passed.
pub fn algbw_gbs(bytes: u64, seconds: f64) -> Option<f64> {
    (bytes > 0 && seconds > 0.0).then(|| as_f64(bytes) / seconds / 1e9)
}

/// CPU seconds per GiB: what one rank, on average, spends for each GiB of size that the
/// collective handles.
///
/// `cpu_seconds` is the sum over all ranks, helper threads included; `bytes_total` is size ×
/// operations. A mean over ranks, because then the number does not grow with the world size and,
/// multiplied by a rate in GiB/s, tells how many cores a rank keeps busy.
pub fn cpu_seconds_per_gib(cpu_seconds: f64, world_size: u32, bytes_total: u64) -> Option<f64> {
    const GIB: f64 = 1_073_741_824.0;
    (bytes_total > 0 && world_size > 0)
        .then(|| cpu_seconds / f64::from(world_size) / (as_f64(bytes_total) / GIB))
}

/// Byte and element counts as floating-point numbers, for ratios.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts above 2^53 do not occur; ratios round anyway"
)]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}

/// A length in memory as a count for reports.
pub fn as_u64(length: usize) -> u64 {
    u64::try_from(length).expect("usize has at most 64 bits on every supported target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_factors_are_those_of_nccl_tests() {
        let factor = |collective: Collective| collective.bus_factor(4);
        assert_eq!(factor(Collective::AllReduce), 1.5);
        assert_eq!(factor(Collective::ReduceScatter), 0.75);
        assert_eq!(factor(Collective::AllGather), 0.75);
        assert_eq!(factor(Collective::Broadcast), 1.0);
        assert_eq!(factor(Collective::Reduce), 1.0);
        assert_eq!(factor(Collective::AllToAll), 0.75);
        assert_eq!(factor(Collective::Gather), 0.75);
        assert_eq!(factor(Collective::Scatter), 0.75);
        assert_eq!(factor(Collective::Barrier), 0.0);
        assert_eq!(Collective::AllReduce.bus_factor(1), 0.0);
        assert_eq!(Collective::Broadcast.bus_factor(1), 0.0);
    }

    #[test]
    fn sizes_count_the_larger_buffer() {
        let shape = Collective::AllReduce.shape(1 << 20, DType::F32, 4);
        assert_eq!(shape, Shape { count: 1 << 18, blocks: 1, bytes: 1 << 20 });
        let shape = Collective::AllGather.shape(1 << 20, DType::F16, 4);
        assert_eq!(shape, Shape { count: 1 << 17, blocks: 4, bytes: 1 << 20 });
        assert_eq!(shape.elements(), 1 << 19);
    }

    #[test]
    fn odd_sizes_round_down_to_whole_elements_but_not_to_none() {
        let shape = Collective::ReduceScatter.shape(100, DType::F64, 3);
        assert_eq!(shape, Shape { count: 4, blocks: 3, bytes: 96 });
        let shape = Collective::AllReduce.shape(3, DType::I64, 3);
        assert_eq!(shape, Shape { count: 1, blocks: 1, bytes: 8 });
        assert_eq!(Collective::AllReduce.shape(0, DType::F32, 2).count, 0);
        assert_eq!(Collective::Barrier.shape(64, DType::F32, 2).bytes, 0);
    }

    #[test]
    fn bandwidth_is_decimal_and_cpu_cost_is_binary() {
        assert_eq!(algbw_gbs(1_000_000_000, 0.5), Some(2.0));
        assert_eq!(algbw_gbs(0, 0.5), None);
        assert_eq!(algbw_gbs(8, 0.0), None);
        assert_eq!(cpu_seconds_per_gib(4.0, 2, 1 << 30), Some(2.0));
        assert_eq!(cpu_seconds_per_gib(4.0, 2, 0), None);
    }

    #[test]
    fn other_tools_names_are_understood() {
        for name in ["all_reduce", "allreduce", "AllReduce", "all-reduce"] {
            assert_eq!(name.parse(), Ok(Collective::AllReduce));
        }
        for collective in Collective::ALL {
            assert_eq!(collective.name().parse(), Ok(collective));
        }
        assert_eq!("alltoall".parse(), Ok(Collective::AllToAll));
        assert!("gathered".parse::<Collective>().is_err());
    }
}

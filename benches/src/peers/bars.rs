//! The bars that we set ourselves.

use super::{Case, GLOO, HOROVOD, OPEN_MPI, START};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The name that [`crate::metrics::Collective::AllReduce`] has in reports.
const ALL_REDUCE: &str = "all_reduce";

/// No single size of any collective is slower than this beside Open MPI.
const POINT_LIMIT: f64 = 1.15;

/// The smallest size that the bars about Open MPI are for, except those of [`BARS`].
pub(super) const POINT_BYTES_MIN: u64 = KIB;

/// Geometric mean over the sizes and worlds of a collective and transport, against Open MPI.
pub(super) const MEAN_LIMIT: f64 = 0.9;

/// The same of CPU seconds.
pub(super) const CPU_LIMIT: f64 = 1.0;

/// Whom a bar is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    Peer(&'static str),
    /// Whichever peer is faster at that size.
    Best,
}

/// The largest ratio of our time to theirs that we are content with.
struct Bar {
    transport: &'static str,
    world_size: u32,
    against: Against,
    /// Sizes in bytes, both ends included.
    sizes: (u64, u64),
    limit: f64,
}

const fn bar(
    transport: &'static str,
    world_size: u32,
    against: Against,
    sizes: (u64, u64),
    limit: f64,
) -> Bar {
    Bar { transport, world_size, against, sizes, limit }
}

/// All-reduce of f32 sums. Bars for four ranks mean four ranks on two cores.
const BARS: [Bar; 15] = [
    bar("tcp", 2, Against::Peer(OPEN_MPI), (0, 64 * KIB), 1.0),
    bar("tcp", 2, Against::Peer(OPEN_MPI), (MIB, MIB), 1.15),
    bar("tcp", 2, Against::Peer(OPEN_MPI), (4 * MIB, 4 * MIB), 0.8),
    bar("tcp", 2, Against::Peer(OPEN_MPI), (16 * MIB, 64 * MIB), 0.65),
    bar("tcp", 2, Against::Peer(GLOO), (0, 64 * KIB), 0.2),
    bar("tcp", 2, Against::Peer(GLOO), (4 * MIB, 64 * MIB), 0.7),
    bar("shm", 2, Against::Peer(OPEN_MPI), (0, 4 * KIB), 1.3),
    bar("shm", 2, Against::Peer(OPEN_MPI), (64 * KIB, MIB), 0.9),
    bar("shm", 2, Against::Peer(OPEN_MPI), (4 * MIB, 4 * MIB), 0.55),
    bar("shm", 2, Against::Peer(OPEN_MPI), (16 * MIB, 16 * MIB), 0.65),
    bar("shm", 2, Against::Peer(OPEN_MPI), (64 * MIB, 64 * MIB), 0.45),
    bar("tcp", 4, Against::Best, (0, u64::MAX), 1.0),
    bar("shm", 4, Against::Best, (0, u64::MAX), 1.0),
    bar("tcp", 4, Against::Peer(OPEN_MPI), (16 * MIB, u64::MAX), 0.6),
    bar("shm", 4, Against::Peer(OPEN_MPI), (16 * MIB, u64::MAX), 0.6),
];

/// Starting four processes that do nothing: `paceline run` against `mpirun`.
const START_LIMIT: f64 = 1.0;

/// The gradients of a model, fused, over TCP and in shared memory (what `auto` chooses on one host),
/// against Horovod.
const GRADIENT_LIMITS: [(&str, f64); 2] = [("tcp", 0.5), ("shm", 0.25)];

/// The strictest bar for a case; `is_best` if no other peer is faster there.
pub(super) fn strictest(case: &Case, peer: &str, is_best: bool) -> Option<f64> {
    if case.transport == START {
        return (peer == OPEN_MPI).then_some(START_LIMIT);
    }
    if peer == HOROVOD {
        let limits = GRADIENT_LIMITS.iter().find(|(transport, _)| *transport == case.transport);
        return limits.map(|(_, limit)| *limit);
    }
    let of_all_reduce = BARS.iter().filter(|bar| {
        case.collective == ALL_REDUCE
            && bar.transport == case.transport
            && bar.world_size == case.world_size
            && (bar.sizes.0..=bar.sizes.1).contains(&case.bytes)
            && match bar.against {
                Against::Peer(name) => name == peer,
                Against::Best => is_best,
            }
    });
    let of_all = (peer == OPEN_MPI && case.counts()).then_some(POINT_LIMIT);
    of_all_reduce.map(|bar| bar.limit).chain(of_all).min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_of_the_issues_has_its_bar() {
        for (collective, transport, world_size, bytes, peer, limit) in [
            (ALL_REDUCE, "tcp", 2, 4 * KIB, OPEN_MPI, Some(1.0)),
            (ALL_REDUCE, "tcp", 2, 256 * KIB, OPEN_MPI, Some(1.15)),
            (ALL_REDUCE, "tcp", 2, 64 * MIB, OPEN_MPI, Some(0.65)),
            (ALL_REDUCE, "tcp", 2, MIB, GLOO, None),
            (ALL_REDUCE, "tcp", 2, 64 * MIB, GLOO, Some(0.7)),
            (ALL_REDUCE, "shm", 2, 4, OPEN_MPI, Some(1.3)),
            (ALL_REDUCE, "shm", 2, 4 * KIB, OPEN_MPI, Some(1.15)),
            (ALL_REDUCE, "shm", 2, MIB, OPEN_MPI, Some(0.9)),
            (ALL_REDUCE, "shm", 2, 64 * MIB, OPEN_MPI, Some(0.45)),
            (ALL_REDUCE, "tcp", 4, MIB, OPEN_MPI, Some(1.0)),
            (ALL_REDUCE, "shm", 4, 16 * MIB, OPEN_MPI, Some(0.6)),
            ("gather", "shm", 4, 16 * MIB, OPEN_MPI, Some(1.15)),
            ("gather", "shm", 4, 16 * MIB, GLOO, None),
            ("gather", "shm", 4, 4, OPEN_MPI, None),
            ("barrier", "tcp", 2, 0, OPEN_MPI, Some(1.15)),
            ("resnet50", "tcp", 4, 100 * MIB, HOROVOD, Some(0.5)),
            ("bert_large", "shm", 2, 1000 * MIB, HOROVOD, Some(0.25)),
            (START, START, 4, 0, OPEN_MPI, Some(1.0)),
        ] {
            let case = Case::new(collective, transport, world_size, bytes);
            assert_eq!(strictest(&case, peer, true), limit, "{case:?}, {peer}");
        }
    }
}

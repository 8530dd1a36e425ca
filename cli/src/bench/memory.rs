//! Whether the largest row fits into memory, found out before the first is measured.
//!
//! What a rank allocates it also writes, and all ranks of a node do so at the same time: so what they
//! need is compared with what their node has left, which a kernel that promises more than it has would
//! not do. It would stop a rank in the middle of everything.

use std::fs;

use paceline_benches::floor::{buffer_bytes, exchange_bytes};
use paceline_benches::ranks::CommunicatorGroup;
use paceline_benches::run::{Group, RunError};
use paceline_benches::units::format_bytes;
use paceline_collectives::Job;

use super::lanes::Lane;
use super::plan::Plan;
use super::rows::Row;
use super::session::{BenchError, row_name};

/// What stands for a number that is not known.
const UNKNOWN: u64 = u64::MAX;

/// What one rank says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    node: u64,
    /// Bytes of its buffers.
    bytes: u64,
    /// Whether it can be promised so many.
    is_promised: bool,
    /// Bytes that its node has left, or [`UNKNOWN`].
    free: u64,
}

impl Need {
    fn to_numbers(self) -> [u64; 4] {
        [self.node, self.bytes, u64::from(self.is_promised), self.free]
    }

    fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let [node, bytes, promised, free] = *numbers else { return None };
        Some(Self { node, bytes, is_promised: promised != 0, free })
    }
}

/// Compares what the largest row needs with what there is, on all ranks together.
pub(super) fn check(
    plan: &Plan,
    job: &Job,
    lane: &Lane,
    rows: &[Row<'_>],
) -> Result<(), BenchError> {
    // Which row that is must be the same on all ranks; their buffers may differ.
    let Some(largest) = rows.iter().max_by_key(|row| row.case.bytes) else { return Ok(()) };
    // The other library has as many buffers.
    let times = if plan.peer.is_some() { 2 } else { 1 };
    let exchanged =
        exchange_bytes(largest.case.collective, largest.case.bytes, largest.case.world_size);
    let bytes = largest
        .workload
        .slot_bytes()
        .saturating_mul(times)
        .saturating_add(buffer_bytes(exchanged, largest.case.world_size));
    let need = Need {
        node: job.rank_info().node_rank.into(),
        bytes,
        is_promised: is_promised(bytes),
        free: free_bytes().unwrap_or(UNKNOWN),
    };
    let all = CommunicatorGroup::new(&lane.communicator)
        .gather(&need.to_numbers())
        .map_err(|source| RunError::Group { step: "compare memory", source })?;
    let all: Vec<Need> = all.iter().filter_map(|numbers| Need::from_numbers(numbers)).collect();
    match lack(&all) {
        None => Ok(()),
        Some(lack) => Err(BenchError::Memory { row: row_name(&largest.case), lack }),
    }
}

/// What is missing, if anything is.
fn lack(all: &[Need]) -> Option<String> {
    let refused = (0..).zip(all).find(|(_, need)| !need.is_promised);
    if let Some((rank, need)) = refused {
        let rank: u32 = rank;
        return Some(format!("rank {rank} cannot have the {} for it", format_bytes(need.bytes)));
    }
    all.iter().find_map(|first| {
        let node = || all.iter().filter(|need| need.node == first.node);
        let needed = node().fold(0_u64, |sum, need| sum.saturating_add(need.bytes));
        let free = node().map(|need| need.free).min().unwrap_or(UNKNOWN);
        (needed > free).then(|| {
            let (ranks, needed, free) = (node().count(), format_bytes(needed), format_bytes(free));
            format!("{ranks} ranks of a node need {needed} for it, and it has {free} left")
        })
    })
}

/// Whether so many bytes can be had at all; nothing is written to them.
fn is_promised(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// Bytes that processes may take without others losing theirs: of the machine, or of the group of
/// processes that this one was put into, as in a container.
fn free_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| free_of_machine(&text));
    let group = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
        let number = |file: &str| {
            let text = fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok()?;
            text.trim().parse::<u64>().ok()
        };
        Some(number("memory.max")?.saturating_sub(number("memory.current")?))
    });
    [machine, group].into_iter().flatten().min()
}

/// What /proc/meminfo says is available, or can be swapped out.
fn free_of_machine(meminfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(field("MemAvailable:")?.saturating_add(field("SwapFree:").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(node: u64, bytes: u64, free: u64) -> Need {
        Need { node, bytes, is_promised: true, free }
    }

    #[test]
    fn ranks_of_a_node_share_what_it_has() {
        assert_eq!(lack(&[need(0, 5, 10), need(0, 5, 10), need(1, 9, 9)]), None);
        assert_eq!(lack(&[need(0, u64::MAX - 1, UNKNOWN), need(0, 7, UNKNOWN)]), None);
        let text = lack(&[need(0, 5, 10), need(1, 5, 11), need(1, 6, 10)]).unwrap();
        assert_eq!(text, "2 ranks of a node need 11 B for it, and it has 10 B left");
        let refused = Need { is_promised: false, ..need(0, 4 << 30, UNKNOWN) };
        let text = lack(&[need(0, 1, 2), refused]).unwrap();
        assert_eq!(text, "rank 1 cannot have the 4 GiB for it");
        assert_eq!(Need::from_numbers(&refused.to_numbers()), Some(refused));
    }

    #[test]
    fn what_is_left_is_read() {
        let text = "MemTotal: 9 kB\nMemAvailable:    5 kB\nSwapFree:  2 kB\n";
        assert_eq!(free_of_machine(text), Some(7 * 1024));
        assert_eq!(free_of_machine("MemTotal: 9 kB\n"), None);
        assert!(free_bytes().is_none_or(|bytes| bytes > 0));
        assert!(is_promised(4096) && !is_promised(u64::MAX));
    }
}

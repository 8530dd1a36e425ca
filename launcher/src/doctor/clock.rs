//! By how much the clocks of two hosts differ. Pure.

use serde::{Deserialize, Serialize};

/// Questions that are asked: the quickest answer counts.
pub(super) const EXCHANGES: usize = 8;

/// Four looks at two clocks, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exchange {
    /// Our clock when the question went.
    pub(super) asked: u64,
    /// Theirs when it came.
    pub(super) heard: u64,
    /// Theirs when the answer went.
    pub(super) answered: u64,
    /// Ours when it came.
    pub(super) learned: u64,
}

/// How a host's clock differs from the launcher's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Nanoseconds that it is ahead; negative if it is behind.
    pub offset_ns: i64,
    /// It may be wrong by as much, either way: half of the time that the messages took.
    pub uncertainty_ns: u64,
}

/// The usual estimate: messages take as long to and fro.
pub(super) fn estimate(exchanges: &[Exchange]) -> Option<ClockOffset> {
    let on_the_way = |exchange: &Exchange| {
        let all = exchange.learned.saturating_sub(exchange.asked);
        all.saturating_sub(exchange.answered.saturating_sub(exchange.heard))
    };
    let best = exchanges.iter().min_by_key(|exchange| on_the_way(exchange))?;
    let there = i128::from(best.heard) - i128::from(best.asked);
    let back = i128::from(best.answered) - i128::from(best.learned);
    let offset = i64::try_from((there + back) / 2).unwrap_or(i64::MAX);
    Some(ClockOffset { offset_ns: offset, uncertainty_ns: on_the_way(best).div_ceil(2) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_exchange_counts() {
        // Theirs is 500 ahead; messages take 100 and 100, or 1000 and 10, and they think for 30.
        let slow = Exchange { asked: 0, heard: 1500, answered: 1530, learned: 1040 };
        let quick = Exchange { asked: 5000, heard: 5600, answered: 5630, learned: 5230 };
        let found = estimate(&[slow, quick]).expect("there are two");
        assert_eq!(found, ClockOffset { offset_ns: 500, uncertainty_ns: 100 });
        assert_eq!(estimate(&[]), None);
        let behind = Exchange { asked: 1000, heard: 10, answered: 10, learned: 1000 };
        assert_eq!(estimate(&[behind]).expect("one").offset_ns, -990);
    }
}

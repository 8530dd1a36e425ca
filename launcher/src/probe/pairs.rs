//! Who tries to reach whom and when. Pure.

use std::collections::HashSet;

/// So many hosts all try to reach each other.
const ALL_PAIRS_MAX: usize = 8;

/// Of more, each tries so many that come after it, the first ones after the last.
const NEXT: usize = 4;

/// Pairs of hosts, in rounds in which nobody is in two pairs: whoever is measured is left in peace.
pub(crate) fn rounds(count: usize) -> Vec<Vec<(usize, usize)>> {
    let reach = if count <= ALL_PAIRS_MAX { count.saturating_sub(1) } else { NEXT };
    // To look at all pairs of a round for each other pair would take seconds where there are thousands of
    // hosts: so it is noted who is busy in it.
    let mut rounds: Vec<Vec<(usize, usize)>> = Vec::new();
    let mut busy: Vec<Vec<bool>> = Vec::new();
    let mut seen = HashSet::new();
    for distance in 1..=reach {
        for first in 0..count {
            let second = (first + distance) % count;
            let pair = (first.min(second), first.max(second));
            if !seen.insert(pair) {
                continue;
            }
            let is_free = |busy: &Vec<bool>| !busy[first] && !busy[second];
            let round = busy.iter().position(is_free).unwrap_or(rounds.len());
            if round == rounds.len() {
                rounds.push(Vec::new());
                busy.push(vec![false; count]);
            }
            (busy[round][first], busy[round][second]) = (true, true);
            rounds[round].push(pair);
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_tried_once_and_nobody_is_in_two_at_a_time() {
        for count in 0..=20 {
            let rounds = rounds(count);
            let mut all = HashSet::new();
            for round in &rounds {
                let mut busy = HashSet::new();
                for &(a, b) in round {
                    assert!(a < b && b < count, "{count}: {a} {b}");
                    assert!(busy.insert(a) && busy.insert(b), "{count}: {round:?}");
                    assert!(all.insert((a, b)), "{count}: twice {a} {b}");
                }
            }
            let expected = match count {
                0..=9 => count * count.saturating_sub(1) / 2,
                _ => count * NEXT,
            };
            assert_eq!(all.len(), expected, "{count}");
        }
    }
}

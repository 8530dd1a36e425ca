//! What ranks tell each other before they connect.

use std::fmt;

use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::context::{ContextOptions, TransportChoice};
use crate::plan::Algorithm;
use crate::trouble::Trouble;

/// What must be equal on all ranks, as people write it. Compared first: with different transports the
/// ranks would wait for each other in different places.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terms {
    transport: String,
    sockets: Option<u16>,
    algorithm: String,
    tune: String,
    has_plan: bool,
    any_plan: bool,
    checksum: String,
}

impl Terms {
    pub(super) fn new(options: &ContextOptions) -> Self {
        Self {
            transport: match options.transport {
                TransportChoice::Auto => "auto".to_owned(),
                TransportChoice::Only(kind) => kind.name().to_owned(),
            },
            sockets: options.sockets,
            algorithm: options.algorithm.map_or("auto", Algorithm::name).to_owned(),
            tune: options.tune.name().to_owned(),
            has_plan: options.plan.is_some(),
            any_plan: options.any_plan,
            checksum: options.checksum.name().to_owned(),
        }
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, sockets, algorithm, tune, has_plan, any_plan, checksum } = self;
        let sockets = sockets.map_or_else(|| "auto".to_owned(), |sockets| sockets.to_string());
        write!(f, "transport {transport}, sockets {sockets}, algorithm {algorithm}")?;
        let plan = if *has_plan { "a plan file" } else { "no plan file" };
        let order = if *any_plan { "any-plan" } else { "plan" };
        write!(f, ", tune {tune}, {plan}, deterministic {order}, checksum {checksum}")
    }
}

/// What each rank tells the others before they connect.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Card {
    /// Where to find it, or why it cannot use the transport.
    pub(super) address: Result<Vec<u8>, Trouble>,
    /// Where the ranks of its node find it, if they are to share memory where all ranks do not.
    pub(super) on_node: Option<Vec<u8>>,
    /// The cores that it may run on: a launcher may have bound it to some of its node's.
    pub(super) cpus: Vec<usize>,
    pub(super) node_rank: u32,
}

/// The cores that this process may run on; empty if the system does not say.
pub(super) fn allowed_cpus() -> Vec<usize> {
    let Ok(mask) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect()
}

/// Whether on some node ranks outnumber the cores that they may run on, together.
pub(super) fn is_oversubscribed(cards: &[Card]) -> bool {
    cards.iter().any(|card| {
        let node = cards.iter().filter(|other| other.node_rank == card.node_rank);
        let mut cpus: Vec<usize> = node.clone().flat_map(|other| other.cpus.clone()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        !cpus.is_empty() && node.count() > cpus.len()
    })
}

pub(super) fn addresses(cards: &[Card]) -> Vec<Vec<u8>> {
    cards.iter().filter_map(|card| card.address.clone().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oversubscribed(ranks: &[(u32, &[usize])]) -> bool {
        let card = |(node_rank, cpus): &(u32, &[usize])| Card {
            address: Ok(Vec::new()),
            on_node: None,
            cpus: cpus.to_vec(),
            node_rank: *node_rank,
        };
        is_oversubscribed(&ranks.iter().map(card).collect::<Vec<_>>())
    }

    #[test]
    fn cores_are_counted_per_node_however_ranks_are_bound() {
        assert!(!oversubscribed(&[(0, &[0, 1]), (0, &[0, 1])]));
        assert!(!oversubscribed(&[(0, &[0]), (0, &[1])]), "each bound to a core of its own");
        assert!(oversubscribed(&[(0, &[0]), (0, &[0])]), "both bound to the same core");
        assert!(oversubscribed(&[(0, &[0, 1]), (0, &[0, 1]), (0, &[0, 1])]));
        assert!(!oversubscribed(&[(0, &[0]), (1, &[0])]), "one core on each of two nodes");
        assert!(oversubscribed(&[(0, &[0, 1]), (1, &[0]), (1, &[0])]), "one node is enough");
        assert!(!oversubscribed(&[(0, &[]), (0, &[])]), "unknown");
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!allowed_cpus().is_empty());
    }
}

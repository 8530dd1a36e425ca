//! Which processors each rank of a host may run on. Pure.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::machine::cores::{Cpus, Topology};

/// What a rank is bound to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindTo {
    /// Nothing: it runs wherever its agent may.
    #[default]
    None,
    /// Cores of its own, as many as there are for each rank of its host.
    Core,
    /// A NUMA node: that of its GPU, else the nodes are dealt out in order.
    Numa,
}

/// A binding that the host has no room for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum BindingError {
    #[error("{ranks} ranks cannot have a core each: it may use {cores}")]
    TooFewCores { ranks: usize, cores: usize },
}

/// The processors of each rank, none where ranks are not bound. `gpu_nodes` has the NUMA node of
/// each rank's GPU, as far as it has one.
///
/// Cores are dealt out in order, to the first ranks one more where they do not divide evenly.
pub(crate) fn bind(
    to: BindTo,
    topology: &Topology,
    gpu_nodes: &[Option<u32>],
) -> Result<Vec<Option<Cpus>>, BindingError> {
    let ranks = gpu_nodes.len();
    Ok(match to {
        BindTo::None => vec![None; ranks],
        BindTo::Core => {
            let cores = topology.cores.len();
            if ranks > cores {
                return Err(BindingError::TooFewCores { ranks, cores });
            }
            let share = |rank: usize| {
                let begin = |rank: usize| rank * (cores / ranks) + rank.min(cores % ranks);
                &topology.cores[begin(rank)..begin(rank + 1)]
            };
            (0..ranks).map(|rank| Some(united(share(rank)))).collect()
        }
        BindTo::Numa => {
            let nodes = &topology.nodes;
            let node_of = |(rank, gpu): (usize, &Option<u32>)| {
                let of_gpu = nodes.iter().find(|(number, _)| Some(*number) == *gpu);
                let (_, cpus) = of_gpu.or_else(|| nodes.get(rank * nodes.len() / ranks))?;
                Some(cpus.clone())
            };
            gpu_nodes.iter().enumerate().map(node_of).collect()
        }
    })
}

fn united(cores: &[Cpus]) -> Cpus {
    cores.iter().flat_map(Cpus::numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores with two processors each, `per_node` of them on a node.
    fn topology(nodes: usize, per_node: usize) -> Topology {
        let count = nodes * per_node;
        let cores: Vec<Cpus> =
            (0..count).map(|core| [core, core + count].into_iter().collect()).collect();
        let node = |node: usize| united(&cores[node * per_node..(node + 1) * per_node]);
        let nodes = (0..nodes).map(|number| (u32::try_from(number).expect("small"), node(number)));
        Topology { nodes: nodes.collect(), cores }
    }

    fn bound(to: BindTo, topology: &Topology, gpus: &[Option<u32>]) -> Vec<String> {
        let bound = bind(to, topology, gpus).expect("there is room");
        bound
            .iter()
            .map(|cpus| cpus.as_ref().map_or_else(|| "-".into(), ToString::to_string))
            .collect()
    }

    #[test]
    fn cores_are_dealt_out_whole() {
        let two_nodes = topology(2, 4);
        assert_eq!(bound(BindTo::None, &two_nodes, &[None; 2]), ["-", "-"]);
        assert_eq!(bound(BindTo::Core, &two_nodes, &[None; 2]), ["0-3,8-11", "4-7,12-15"]);
        let thirds = ["0-2,8-10", "3-5,11-13", "6-7,14-15"];
        assert_eq!(bound(BindTo::Core, &two_nodes, &[None; 3]), thirds);
        let error = bind(BindTo::Core, &two_nodes, &[None; 9]).expect_err("8 cores");
        assert_eq!(error.to_string(), "9 ranks cannot have a core each: it may use 8");
    }

    #[test]
    fn no_core_is_given_twice_and_none_is_left_over() {
        for (cores, ranks) in (1..=9).flat_map(|cores| (1..=cores).map(move |ranks| (cores, ranks)))
        {
            let topology = topology(1, cores);
            let bound = bind(BindTo::Core, &topology, &vec![None; ranks]).expect("there is room");
            let mut all: Vec<usize> = bound.iter().flatten().flat_map(Cpus::numbers).collect();
            all.sort_unstable();
            assert_eq!(all, (0..2 * cores).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nodes_are_those_of_gpus_or_dealt_out_in_order() {
        let two_nodes = topology(2, 2);
        let (first, second) = ("0-1,4-5", "2-3,6-7");
        assert_eq!(bound(BindTo::Numa, &two_nodes, &[None; 4]), [first, first, second, second]);
        assert_eq!(bound(BindTo::Numa, &two_nodes, &[None; 1]), [first]);
        assert_eq!(bound(BindTo::Numa, &two_nodes, &[Some(1), Some(0)]), [second, first]);
        // A node without processors of ours says nothing.
        assert_eq!(bound(BindTo::Numa, &two_nodes, &[Some(7), None]), [first, second]);
    }
}

//! Which ranks share a node, and how an operation in two levels divides its work among them.

use std::ops::Range;

/// What all ranks know about the nodes of a group; equal on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LevelFacts {
    /// Nodes.
    pub nodes: u32,
    /// Ranks of the smallest node: so many ranks of each node exchange messages with other nodes,
    /// each a part of the vector.
    pub streams: u32,
    /// Whether each node's ranks follow each other in the group.
    pub contiguous: bool,
}

/// The nodes of a group, seen from one rank.
///
/// Nodes are numbered by their lowest rank; the ranks of a node have *places* on it, in their order.
/// Place j of every node belongs to *stream* j, if every node has a place j.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Ranks of the group by node and place.
    nodes: Vec<Vec<u32>>,
    /// This rank's node and place.
    node: usize,
    place: usize,
    streams: usize,
}

impl Shape {
    /// The shape of a group whose rank r is on the node called `node_of[r]`, for rank `rank`. `None`
    /// if there are no two levels: one node, or one rank on each.
    pub(crate) fn new(node_of: &[u32], rank: u32) -> Option<Self> {
        let mut names: Vec<u32> = Vec::new();
        let mut nodes: Vec<Vec<u32>> = Vec::new();
        for (rank, name) in (0..).zip(node_of) {
            match names.iter().position(|known| known == name) {
                Some(node) => nodes[node].push(rank),
                None => {
                    names.push(*name);
                    nodes.push(vec![rank]);
                }
            }
        }
        if nodes.len() < 2 || nodes.iter().all(|ranks| ranks.len() == 1) {
            return None;
        }
        let node = nodes.iter().position(|ranks| ranks.contains(&rank))?;
        let place = nodes[node].iter().position(|other| *other == rank)?;
        let streams = nodes.iter().map(Vec::len).min()?;
        Some(Self { nodes, node, place, streams })
    }

    pub(crate) fn facts(&self) -> LevelFacts {
        let count = |count: usize| u32::try_from(count).expect("ranks are counted in u32");
        let contiguous = self.nodes.iter().flatten().zip(0..).all(|(rank, nth)| *rank == nth);
        LevelFacts { nodes: count(self.nodes.len()), streams: count(self.streams), contiguous }
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// This rank's node.
    pub(crate) fn node(&self) -> usize {
        self.node
    }

    /// This rank's place on its node.
    pub(crate) fn place(&self) -> usize {
        self.place
    }

    /// How many streams cross between nodes.
    pub(crate) fn streams(&self) -> usize {
        self.streams
    }

    /// Whether this rank has a stream.
    pub(crate) fn has_stream(&self) -> bool {
        self.place < self.streams
    }

    /// The ranks on a node, by place.
    pub(crate) fn on_node(&self, node: usize) -> &[u32] {
        &self.nodes[node]
    }

    /// The ranks on this rank's node, by place.
    pub(crate) fn neighbours(&self) -> &[u32] {
        self.on_node(self.node)
    }

    /// The ranks of this rank's stream, by node.
    pub(crate) fn stream(&self) -> Vec<u32> {
        self.nodes.iter().map(|ranks| ranks[self.place]).collect()
    }

    /// The node and place of a rank of the group.
    pub(crate) fn find(&self, rank: u32) -> (usize, usize) {
        let found =
            self.nodes.iter().enumerate().find_map(|(node, ranks)| {
                Some((node, ranks.iter().position(|other| *other == rank)?))
            });
        found.expect("a rank of the group is on one of its nodes")
    }

    /// The ranks of a node as a range, where nodes are contiguous.
    pub(crate) fn block(&self, node: usize) -> Range<usize> {
        let first = self.nodes[node][0] as usize;
        first..first + self.nodes[node].len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_has_no_shape() {
        assert_eq!(Shape::new(&[0, 0, 0], 1), None);
        assert_eq!(Shape::new(&[4, 2, 0], 1), None);
        assert_eq!(Shape::new(&[0], 0), None);
    }

    #[test]
    fn every_rank_has_one_place_and_all_agree() {
        for (node_of, nodes, streams, contiguous) in [
            (&[0, 0, 1, 1][..], 2, 2, true),
            (&[0, 0, 0, 1], 2, 1, true),
            (&[7, 3, 7, 3], 2, 2, false),
            (&[1, 1, 1, 0, 0, 5, 5, 5, 5], 3, 2, true),
            (&[0, 1, 1], 2, 1, true),
        ] {
            let facts = LevelFacts { nodes, streams, contiguous };
            let count = u32::try_from(node_of.len()).unwrap();
            let mut seen = Vec::new();
            for rank in 0..count {
                let shape = Shape::new(node_of, rank).unwrap();
                assert_eq!(shape.facts(), facts);
                assert_eq!(shape.find(rank), (shape.node(), shape.place()));
                assert_eq!(shape.neighbours()[shape.place()], rank);
                assert!(!shape.has_stream() || shape.stream()[shape.node()] == rank);
                assert!(!contiguous || shape.block(shape.node()).contains(&(rank as usize)));
                let same = |other: &u32| node_of[*other as usize] == node_of[rank as usize];
                assert!(shape.neighbours().iter().all(same));
                seen.push((shape.node(), shape.place()));
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), node_of.len());
        }
    }
}

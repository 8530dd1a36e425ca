//! The processors that this process may use: in which cores and on which NUMA nodes they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::files::{names, words};

/// Numbers of processors, as Linux counts them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cpus(BTreeSet<usize>);

impl Cpus {
    /// As the kernel writes them: `0-3,8`. `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= CpuSet::MAX_CPU {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, the lowest first.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    /// As the kernel takes them.
    pub(crate) fn to_set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        self.0.iter().for_each(|cpu| set.set(*cpu));
        set
    }

    fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }
}

impl FromIterator<usize> for Cpus {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

/// As the kernel writes them: `0-3,8`.
impl fmt::Display for Cpus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for &cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        let range = |(first, last): &(usize, usize)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        formatter.write_str(&ranges.iter().map(range).collect::<Vec<_>>().join(","))
    }
}

/// What a process may run on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Each core's processors, of which there are several with simultaneous multithreading; cores of
    /// one NUMA node are next to each other.
    pub(crate) cores: Vec<Cpus>,
    /// The processors of each NUMA node that has any, with its number.
    pub(crate) nodes: Vec<(u32, Cpus)>,
}

impl Topology {
    /// That of this process.
    pub(crate) fn of_this_process() -> Self {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let allowed = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        Self::read(Path::new("/"), &allowed)
    }

    /// That of the host whose file system is at `root`, as far as it is `allowed`.
    pub(super) fn read(root: &Path, allowed: &Cpus) -> Self {
        let nodes = nodes(&root.join("sys/devices/system/node"), allowed);
        let node_of = |cpu: usize| nodes.iter().position(|(_, cpus)| cpus.0.contains(&cpu));
        let system = root.join("sys/devices/system/cpu");
        // By node and first processor, so that a run of cores is within a node where it can be.
        let mut cores: BTreeMap<(Option<usize>, usize), Cpus> = BTreeMap::new();
        for &cpu in &allowed.0 {
            let siblings = words(&system.join(format!("cpu{cpu}/topology/thread_siblings_list")));
            let siblings = siblings.and_then(|text| Cpus::parse(&text)).unwrap_or_default();
            let first = siblings.0.first().copied().unwrap_or(cpu);
            cores.entry((node_of(cpu), first)).or_default().0.insert(cpu);
        }
        Self { cores: cores.into_values().collect(), nodes }
    }

    /// How many of the cores these processors are in.
    pub(crate) fn cores_among(&self, cpus: &Cpus) -> usize {
        self.cores.iter().filter(|core| !core.and(cpus).is_empty()).count()
    }
}

fn nodes(directory: &Path, allowed: &Cpus) -> Vec<(u32, Cpus)> {
    let node = |name: String| {
        let number = name.strip_prefix("node")?.parse().ok()?;
        let cpus = Cpus::parse(&words(&directory.join(name).join("cpulist"))?)?.and(allowed);
        (!cpus.is_empty()).then_some((number, cpus))
    };
    let found: Vec<_> = names(directory).into_iter().filter_map(node).collect();
    // Kernels without NUMA, and some sandboxes, have no such directory.
    if found.is_empty() { vec![(0, allowed.clone())] } else { found }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::files::made_of;
    use super::*;

    #[test]
    fn cores_and_nodes_are_read() {
        let topology = "sys/devices/system/cpu/cpu";
        let siblings = |cpu: usize| {
            let list = format!("{},{}", cpu % 4, cpu % 4 + 4);
            (format!("{topology}{cpu}/topology/thread_siblings_list"), list)
        };
        let files: Vec<(String, String)> = (0..8).map(siblings).collect();
        let mut files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        // Even cores are on node 1, odd ones on node 0.
        files.push(("sys/devices/system/node/node0/cpulist", "1,3,5,7\n"));
        files.push(("sys/devices/system/node/node1/cpulist", "0,2,4,6\n"));
        files.push(("sys/devices/system/node/node2/cpulist", "\n"));
        let root = made_of(&files);
        let allowed = Cpus::parse("0-6").expect("a list");
        let found = Topology::read(root.path(), &allowed);
        let cores: Vec<String> = found.cores.iter().map(ToString::to_string).collect();
        assert_eq!(cores, ["1,5", "3", "0,4", "2,6"]);
        let nodes: Vec<(u32, String)> =
            found.nodes.iter().map(|(number, cpus)| (*number, cpus.to_string())).collect();
        assert_eq!(nodes, [(0, "1,3,5".to_owned()), (1, "0,2,4,6".to_owned())]);
        assert_eq!(found.cores_among(&Cpus::parse("1,2,3").expect("a list")), 3);
    }

    #[test]
    fn a_host_that_says_nothing_has_a_core_for_each_processor() {
        let root = made_of(&[]);
        let found = Topology::read(root.path(), &Cpus::parse("2-3").expect("a list"));
        assert_eq!((found.cores.len(), found.nodes.len()), (2, 1));
        assert!(!Topology::of_this_process().cores.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            cpus in proptest::collection::btree_set(0..CpuSet::MAX_CPU, 0..40)
        ) {
            let cpus = Cpus(cpus);
            prop_assert_eq!(Cpus::parse(&cpus.to_string()), Some(cpus));
        }

        #[test]
        fn nonsense_is_none(text in "[-0-9, x]{0,12}") {
            if let Some(cpus) = Cpus::parse(&text) {
                prop_assert!(cpus.0.iter().all(|cpu| *cpu < CpuSet::MAX_CPU));
            }
        }
    }
}

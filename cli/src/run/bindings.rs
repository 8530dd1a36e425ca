//! Saying what ranks are bound to, once all of them have been started.

use std::collections::BTreeMap;

use paceline_launcher::JobEvent;

/// Hosts that are named one by one; of more there is only the number.
const NAMED_MAX: usize = 4;

/// What is known so far.
#[derive(Debug)]
pub(super) struct Bindings {
    /// Ranks that have not been started yet.
    missing: u32,
    /// The ranks of each host, and the processors of each.
    hosts: BTreeMap<String, BTreeMap<u32, String>>,
}

impl Bindings {
    pub(super) fn of(world_size: u32) -> Self {
        Self { missing: world_size, hosts: BTreeMap::new() }
    }

    /// Takes in what happens; returns what to say, when the last rank has been started.
    pub(super) fn learn(&mut self, event: &JobEvent) -> Vec<String> {
        let JobEvent::RankStarted { rank, host, cpus, .. } = event else { return Vec::new() };
        if let Some(cpus) = cpus {
            self.hosts.entry(host.clone()).or_default().insert(*rank, cpus.clone());
        }
        self.missing = self.missing.saturating_sub(1);
        if self.missing == 0 { self.lines() } else { Vec::new() }
    }

    /// One line for all hosts whose ranks are bound alike.
    fn lines(&self) -> Vec<String> {
        let mut alike: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
        for (host, ranks) in &self.hosts {
            let cpus = ranks.values().map(String::as_str).collect();
            alike.entry(cpus).or_default().push(host);
        }
        let line = |(cpus, hosts): (&Vec<&str>, &Vec<&str>)| {
            let hosts = match hosts.len() {
                1..=NAMED_MAX => hosts.join(", "),
                count => format!("each of {count} hosts"),
            };
            let ranks = cpus.iter().enumerate();
            let ranks = ranks.map(|(local, cpus)| format!("local rank {local} to {cpus}"));
            format!("processors on {hosts}: {}", ranks.collect::<Vec<_>>().join("; "))
        };
        alike.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_whose_ranks_are_bound_alike_share_a_line() {
        let mut bindings = Bindings::of(5);
        for (rank, host, cpus) in
            [(2, "b", "0-1"), (0, "a", "0-1"), (1, "a", "2-3"), (3, "b", "2-3"), (4, "c", "0-3")]
        {
            let (host, cpus) = (host.to_owned(), Some(cpus.to_owned()));
            bindings.learn(&JobEvent::RankStarted { rank, host, pid: 1, cpus });
        }
        assert_eq!(bindings.missing, 0);
        let expected = [
            "processors on a, b: local rank 0 to 0-1; local rank 1 to 2-3",
            "processors on c: local rank 0 to 0-3",
        ];
        assert_eq!(bindings.lines(), expected);
    }

    #[test]
    fn nothing_is_said_of_ranks_that_are_not_bound() {
        let mut bindings = Bindings::of(1);
        let host = "a".to_owned();
        bindings.learn(&JobEvent::RankStarted { rank: 0, host, pid: 1, cpus: None });
        assert!(bindings.lines().is_empty());
    }
}

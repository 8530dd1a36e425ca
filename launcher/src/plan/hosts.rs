//! The hosts of a job as they are planned for: each machine once.

use std::num::NonZeroU32;

use super::placement::{MapBy, Placed};
use super::{HostFacts, PlanError};
use crate::hosts::{HostSlots, combine};
use crate::job::JobSpec;

/// Hosts that are named one by one in a notice; of more there is only the number.
const NAMED_MAX: usize = 8;

/// The hosts that ranks may be placed on.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) all: Vec<HostSlots>,
    /// Index of this machine.
    pub(super) local: Option<usize>,
    /// Number of ranks, where the job says it.
    pub(super) rank_count: Option<NonZeroU32>,
}

/// The hosts that the job names, or this machine.
///
/// All names of this machine are one host, called what the machine calls itself. An entry with a
/// user stays what it is: ranks are started as that user by logging in, also here.
pub(super) fn resolve(
    job: &JobSpec,
    facts: &HostFacts,
    notices: &mut Vec<String>,
) -> Result<Hosts, PlanError> {
    let named = if job.hosts.is_empty() { unnamed(job, facts)? } else { job.hosts.hosts.clone() };
    let mut hosts = Hosts { all: Vec::new(), local: None, rank_count: job.rank_count };
    let mut names = Vec::new();
    for host in named {
        if host.user.is_some() || !is_local(&host.host, facts) {
            hosts.all.push(host);
            continue;
        }
        names.push(host.host.clone());
        let Some(index) = hosts.local else {
            hosts.local = Some(hosts.all.len());
            hosts.all.push(HostSlots { host: facts.name.clone(), ..host });
            continue;
        };
        hosts.all[index] = combine(&hosts.all[index], &host)
            .map_err(|_| PlanError::LocalDevices { names: names.clone() })?;
    }
    if let (Some(index), [_, _, ..]) = (hosts.local, &names[..]) {
        let slots = hosts.all[index].slots_or_one();
        notices.push(format!("{} are all this machine: {slots} slots", names.join(", ")));
    }
    if let Some(wanted) = job.host_count {
        let wanted = usize::try_from(wanted.get()).unwrap_or(usize::MAX);
        if wanted > hosts.all.len() {
            return Err(PlanError::TooFewHosts { wanted, hosts: hosts.all.len() });
        }
        hosts.all.truncate(wanted);
        hosts.local = hosts.local.filter(|index| *index < wanted);
    }
    Ok(hosts)
}

/// The hosts of a job that names none: those of its rank file, that of rank 0 first, or this machine.
fn unnamed(job: &JobSpec, facts: &HostFacts) -> Result<Vec<HostSlots>, PlanError> {
    if let MapBy::RankFile(file) = &job.map_by {
        let mut seen = std::collections::HashSet::new();
        let names = file.ranks.iter().map(|place| &place.host);
        let hosts = names.filter(|host| seen.insert(*host));
        return Ok(hosts.map(|host| HostSlots::new(host.clone(), None)).collect());
    }
    if job.rank_count.is_none() && job.ranks_per_host.is_none() {
        return Err(PlanError::NoRankCount);
    }
    // What --nproc-per-node says is a limit for this machine, too.
    let slots = if job.ranks_per_host.is_some() { None } else { job.rank_count };
    Ok(vec![HostSlots::new(facts.name.clone(), slots)])
}

fn is_local(host: &str, facts: &HostFacts) -> bool {
    // It is its own name, however odd.
    host == facts.name || facts.local_rule.covers(host, &facts.name, &facts.addresses)
}

/// The order of a job, with every name of this machine replaced by the one that is planned with.
pub(super) fn named_as_planned(order: &MapBy, hosts: &Hosts, facts: &HostFacts) -> MapBy {
    let mut order = order.clone();
    if let (MapBy::RankFile(file), Some(_)) = (&mut order, hosts.local) {
        for place in &mut file.ranks {
            if is_local(&place.host, facts) {
                place.host.clone_from(&facts.name);
            }
        }
    }
    order
}

/// What to say of hosts that no rank was placed on.
pub(super) fn unused(hosts: &Hosts, placed: &[Placed]) -> Option<String> {
    let mut is_used = vec![false; hosts.all.len()];
    placed.iter().for_each(|place| is_used[place.host] = true);
    let unused = hosts.all.iter().zip(is_used).filter(|(_, is_used)| !is_used);
    let names: Vec<&str> = unused.map(|(host, _)| host.host.as_str()).collect();
    match names.len() {
        0 => None,
        1..=NAMED_MAX => Some(format!("no rank is left for {}", names.join(", "))),
        count => Some(format!("no rank is left for {count} of the hosts")),
    }
}

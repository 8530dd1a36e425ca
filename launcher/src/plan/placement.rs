//! Which rank runs where. Pure.

use std::collections::HashMap;
use std::num::NonZeroU32;

use thiserror::Error;

use super::rank_file::RankFile;
use crate::hosts::{DeviceName, HostSlots};

/// Most ranks of one host: what their agent is told must fit into one frame, and a kernel has
/// fewer than twice as many process ids by default.
pub(super) const RANKS_PER_HOST_MAX: u32 = 16 << 10;

/// Most ranks of a job: more than were ever started at once, and few enough to write them down.
pub(super) const RANKS_MAX: u32 = 1 << 20;

/// The order in which ranks are dealt to hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MapBy {
    /// The slots of the first host, then those of the second, and so on.
    #[default]
    Slot,
    /// One to each host in turn, as long as it has slots.
    Node,
    /// As a file says.
    RankFile(RankFile),
}

/// Where a rank runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Index of its host among all that were given.
    pub host: usize,
    /// Index of its host among those that have ranks.
    pub node: u32,
    /// Its index among the ranks of the host.
    pub local_rank: u32,
    /// Ranks of the host.
    pub local_size: u32,
    /// Index of its host among those that have this local rank.
    pub cross_rank: u32,
    /// Hosts that have this local rank.
    pub cross_size: u32,
    /// Its device, where devices are listed.
    pub device: Option<DeviceName>,
}

/// Ranks that cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// Nowhere to run.
    #[error("there is no host to run ranks on")]
    NoHosts,
    /// More ranks than the hosts take.
    #[error("{rank_count} ranks do not fit into {slots} slots")]
    TooFewSlots {
        /// Ranks asked for.
        rank_count: u32,
        /// Slots of all hosts together.
        slots: u64,
    },
    /// More ranks on one host than it takes.
    #[error("{ranks} ranks do not fit into the {slots} slots of {host}")]
    HostTooSmall {
        /// The host.
        host: String,
        /// Ranks that it was to run.
        ranks: u32,
        /// Its slots.
        slots: u32,
    },
    /// More ranks than one host can start.
    #[error("{ranks} ranks are too many for one host, which takes {RANKS_PER_HOST_MAX}, on {host}")]
    HostTooFull {
        /// The host.
        host: String,
        /// Ranks that it was to run.
        ranks: u32,
    },
    /// More ranks than a job can have.
    #[error("{rank_count} ranks are too many for one job, which takes {RANKS_MAX}")]
    TooManyRanks {
        /// Ranks asked for.
        rank_count: u64,
    },
    /// More ranks than its devices have room for.
    #[error("{ranks} ranks on {host} have only {devices} devices")]
    TooFewDevices {
        /// The host.
        host: String,
        /// Its ranks.
        ranks: u32,
        /// Its devices.
        devices: usize,
    },
    /// A host of the rank file that is none of the job's.
    #[error("the rank file places rank {rank} on {host}, which is none of the hosts")]
    UnknownHost {
        /// The rank.
        rank: u32,
        /// Its host.
        host: String,
    },
    /// Another number of ranks than the rank file has.
    #[error("{rank_count} ranks were asked for, but the rank file places {placed}")]
    RankFileCount {
        /// Ranks asked for.
        rank_count: u32,
        /// Ranks of the file.
        placed: usize,
    },
}

impl PlacementError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHosts => "name hosts with -H or --hostfile".to_owned(),
            Self::TooFewSlots { rank_count, .. } => format!(
                "a host without a number has one slot: give the hosts more, as in -H \
                 localhost:{rank_count}, or say --nproc-per-node N"
            ),
            Self::HostTooSmall { host, ranks, .. } => {
                format!("give it more, as in -H {host}:{ranks}, or ask for fewer ranks per host")
            }
            Self::TooFewDevices { .. } => {
                "each rank needs a device of its own: list more of them, or none, or say \
                 --gpu-fraction"
                    .to_owned()
            }
            Self::UnknownHost { .. } => {
                "name the host with -H or --hostfile, too, or leave both out".to_owned()
            }
            Self::RankFileCount { .. } => {
                "leave -np out: the rank file says how many ranks there are".to_owned()
            }
            Self::HostTooFull { .. } | Self::TooManyRanks { .. } => return None,
        })
    }
}

/// How many ranks hosts and devices take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Ranks of each host, however many slots beyond that it has.
    pub per_host: Option<NonZeroU32>,
    /// Ranks that a device has room for.
    pub per_device: u32,
}

/// Places ranks 0, 1, … on hosts.
///
/// A host without a number of slots takes one rank, and with `per_host` that many, like any other
/// host. A rank file places what it names, on hosts without a number as many as it likes. Without a
/// count there are as many ranks as there is room for. The ranks of a host take its devices in order, and where
/// devices have room for several, from the first one again.
///
/// # Errors
/// See [`PlacementError`].
pub fn place(
    rank_count: Option<NonZeroU32>,
    hosts: &[HostSlots],
    order: &MapBy,
    rules: &Rules,
) -> Result<Vec<Placed>, PlacementError> {
    let per_host = rules.per_host;
    let of_ranks = match order {
        MapBy::RankFile(file) => by_file(rank_count, hosts, file, per_host)?,
        MapBy::Slot | MapBy::Node => {
            let room = room(hosts, per_host)?;
            let count = count(rank_count, &room)?;
            if *order == MapBy::Node { by_node(count, &room) } else { by_slot(count, &room) }
        }
    };
    let mut sizes = vec![0_u32; hosts.len()];
    of_ranks.iter().for_each(|host| sizes[*host] += 1);
    for (host, ranks) in hosts.iter().zip(&sizes) {
        check(host, *ranks, rules.per_device)?;
    }
    Ok(number(&of_ranks, &sizes, hosts))
}

/// How many ranks each host takes.
fn room(hosts: &[HostSlots], per_host: Option<NonZeroU32>) -> Result<Vec<u32>, PlacementError> {
    let room = |host: &HostSlots| match (per_host, host.slots) {
        (Some(ranks), Some(slots)) if ranks > slots => Err(PlacementError::HostTooSmall {
            host: host.host.clone(),
            ranks: ranks.get(),
            slots: slots.get(),
        }),
        (Some(ranks), _) => Ok(ranks.get()),
        (None, _) => Ok(host.slots_or_one().get()),
    };
    hosts.iter().map(room).collect()
}

fn count(rank_count: Option<NonZeroU32>, room: &[u32]) -> Result<u32, PlacementError> {
    let slots: u64 = room.iter().map(|slots| u64::from(*slots)).sum();
    let wanted = rank_count.map_or(slots, |count| u64::from(count.get()));
    let count = u32::try_from(wanted).ok().filter(|count| *count <= RANKS_MAX);
    match (rank_count, count) {
        (_, Some(0)) => Err(PlacementError::NoHosts),
        (Some(_), None) | (None, None) => Err(PlacementError::TooManyRanks { rank_count: wanted }),
        (_, Some(rank_count)) if wanted > slots => {
            Err(PlacementError::TooFewSlots { rank_count, slots })
        }
        (_, Some(count)) => Ok(count),
    }
}

/// The host of each rank, where hosts are filled one after the other.
fn by_slot(count: u32, room: &[u32]) -> Vec<usize> {
    let mut of_ranks = Vec::new();
    let mut left = count;
    for (host, slots) in room.iter().enumerate() {
        let ranks = left.min(*slots);
        of_ranks.extend((0..ranks).map(|_| host));
        left -= ranks;
    }
    of_ranks
}

/// The host of each rank, where the hosts take turns.
fn by_node(count: u32, room: &[u32]) -> Vec<usize> {
    // Only those that have slots left are asked again.
    let mut open: Vec<(usize, u32)> = room.iter().copied().enumerate().collect();
    let mut of_ranks = Vec::new();
    let mut left = usize::try_from(count).unwrap_or(usize::MAX);
    while left > 0 && !open.is_empty() {
        open.truncate(left);
        left -= open.len();
        of_ranks.extend(open.iter().map(|(host, _)| *host));
        open.iter_mut().for_each(|(_, slots)| *slots -= 1);
        open.retain(|(_, slots)| *slots > 0);
    }
    of_ranks
}

fn by_file(
    rank_count: Option<NonZeroU32>,
    hosts: &[HostSlots],
    file: &RankFile,
    per_host: Option<NonZeroU32>,
) -> Result<Vec<usize>, PlacementError> {
    let placed = file.ranks.len();
    if let Some(count) = rank_count
        && usize::try_from(count.get()) != Ok(placed)
    {
        return Err(PlacementError::RankFileCount { rank_count: count.get(), placed });
    }
    if u32::try_from(placed).is_ok_and(|placed| placed > RANKS_MAX) {
        return Err(PlacementError::TooManyRanks { rank_count: placed as u64 });
    }
    let known: HashMap<&str, usize> =
        hosts.iter().enumerate().map(|(index, host)| (host.host.as_str(), index)).collect();
    let mut ranks_of = vec![0_u32; hosts.len()];
    let mut of_ranks = Vec::with_capacity(placed);
    for (rank, place) in (0..).zip(&file.ranks) {
        let Some(&index) = known.get(place.host.as_str()) else {
            return Err(PlacementError::UnknownHost { rank, host: place.host.clone() });
        };
        ranks_of[index] += 1;
        of_ranks.push(index);
    }
    for (host, ranks) in hosts.iter().zip(ranks_of) {
        // Slots that are given are a limit that --nproc-per-node can only lower.
        let limits = [per_host, host.slots].into_iter().flatten().map(NonZeroU32::get);
        if let Some(slots) = limits.min().filter(|slots| ranks > *slots) {
            return Err(PlacementError::HostTooSmall { host: host.host.clone(), ranks, slots });
        }
    }
    Ok(of_ranks)
}

fn check(host: &HostSlots, ranks: u32, per_device: u32) -> Result<(), PlacementError> {
    let (name, devices) = (|| host.host.clone(), host.devices.len());
    if ranks > RANKS_PER_HOST_MAX {
        return Err(PlacementError::HostTooFull { host: name(), ranks });
    }
    let room = u32::try_from(devices).unwrap_or(u32::MAX).saturating_mul(per_device);
    if devices > 0 && ranks > room {
        return Err(PlacementError::TooFewDevices { host: name(), ranks, devices });
    }
    Ok(())
}

fn device_of(host: &HostSlots, local_rank: usize) -> Option<DeviceName> {
    let place = local_rank.checked_rem(host.devices.len())?;
    host.devices.get(place).cloned()
}

/// Numbers the ranks within their hosts, and the hosts among those with the same local rank.
fn number(of_ranks: &[usize], sizes: &[u32], hosts: &[HostSlots]) -> Vec<Placed> {
    let largest = usize::try_from(sizes.iter().copied().max().unwrap_or(0)).unwrap_or(0);
    // Hosts seen so far that have this local rank: what is next, and in the end how many there are.
    let mut hosts_with = vec![0_u32; largest];
    let mut cross_ranks: Vec<Vec<u32>> = Vec::with_capacity(sizes.len());
    let mut nodes = Vec::with_capacity(sizes.len());
    let mut node = 0;
    for size in sizes {
        let size = usize::try_from(*size).unwrap_or(0);
        cross_ranks.push(hosts_with[..size].to_vec());
        hosts_with[..size].iter_mut().for_each(|count| *count += 1);
        nodes.push(node);
        node += u32::from(size > 0);
    }
    let mut next = vec![0_usize; sizes.len()];
    let mut placed = Vec::with_capacity(of_ranks.len());
    for &host in of_ranks {
        let local = next[host];
        next[host] += 1;
        placed.push(Placed {
            host,
            node: nodes[host],
            local_rank: u32::try_from(local).unwrap_or(u32::MAX),
            local_size: sizes[host],
            cross_rank: cross_ranks[host][local],
            cross_size: hosts_with[local],
            device: device_of(&hosts[host], local),
        });
    }
    placed
}

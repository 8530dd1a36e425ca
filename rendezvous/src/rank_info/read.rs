//! From variables to a place in the job.

use super::dialect::Names;
use super::{DeviceAssignment, Dialect, RankInfo, Warning, slurm};
use crate::env::{self, Environment, EnvironmentError, Variable};
use crate::run::RunId;

/// A number and the variable that it came from.
type Sourced = (Variable, u32);

/// What one dialect says, checked by [`Place::check`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) rank: Sourced,
    pub(super) world_size: Sourced,
    pub(super) local: Option<(Sourced, Sourced)>,
    pub(super) node: Option<(Sourced, Sourced)>,
}

/// See [`RankInfo::from_environment`].
pub(super) fn rank_info(
    environment: &(impl Environment + ?Sized),
) -> Result<(RankInfo, Vec<Warning>), EnvironmentError> {
    let mut warnings = Vec::new();
    let mut chosen: Option<(Dialect, Place)> = None;
    for dialect in Dialect::PRECEDENCE {
        match (place(environment, dialect), &chosen) {
            (Ok(None), _) => {}
            (Ok(Some(place)), None) => chosen = Some((dialect, place)),
            (Ok(Some(place)), Some((chosen_dialect, chosen_place))) => {
                if chosen_place.identity() != place.identity() {
                    warnings.push(Warning::Disagreement {
                        chosen: *chosen_dialect,
                        chosen_place: chosen_place.identity(),
                        ignored: dialect,
                        ignored_place: place.identity(),
                    });
                }
            }
            (Err(error), None) => return Err(error),
            (Err(error), Some(_)) => {
                warnings.push(Warning::Unusable { ignored: dialect, error });
            }
        }
    }
    let mut info = match chosen {
        Some((dialect, place)) => place.rank_info(dialect),
        None => RankInfo::alone(),
    };
    info.run_id = env::RUN_ID.parse::<RunId>(environment)?;
    info.epoch = env::EPOCH.parse(environment)?.unwrap_or(0);
    info.device = env::DEVICE.parse::<DeviceAssignment>(environment)?.unwrap_or_default();
    Ok((info, warnings))
}

/// What `dialect` says; `None` when it says nothing.
fn place(
    environment: &(impl Environment + ?Sized),
    dialect: Dialect,
) -> Result<Option<Place>, EnvironmentError> {
    let place = match dialect.names() {
        Some(names) => named_place(environment, &names)?,
        None => slurm::place(environment)?,
    };
    if let Some(place) = &place {
        place.check()?;
    }
    Ok(place)
}

fn named_place(
    environment: &(impl Environment + ?Sized),
    names: &Names,
) -> Result<Option<Place>, EnvironmentError> {
    let Some((rank, world_size)) = pair(environment, names.rank, names.world_size)? else {
        return Ok(None);
    };
    let optional_pair = |names: Option<(Variable, Variable)>| match names {
        Some((index, count)) => pair(environment, index, count),
        None => Ok(None),
    };
    Ok(Some(Place {
        rank,
        world_size,
        local: optional_pair(names.local)?,
        node: optional_pair(names.node)?,
    }))
}

/// Two variables that only make sense together.
fn pair(
    environment: &(impl Environment + ?Sized),
    index: Variable,
    count: Variable,
) -> Result<Option<(Sourced, Sourced)>, EnvironmentError> {
    let half = |present: Variable, missing: Variable| EnvironmentError::HalfPair {
        present: present.name,
        missing: missing.name,
    };
    match (index.parse::<u32>(environment)?, count.parse::<u32>(environment)?) {
        (None, None) => Ok(None),
        (Some(index_value), Some(count_value)) => {
            Ok(Some(((index, index_value), (count, count_value))))
        }
        (Some(_), None) => Err(half(index, count)),
        (None, Some(_)) => Err(half(count, index)),
    }
}

impl Place {
    const fn identity(&self) -> (u32, u32) {
        (self.rank.1, self.world_size.1)
    }

    fn check(&self) -> Result<(), EnvironmentError> {
        let pairs = [Some((self.rank, self.world_size)), self.local, self.node];
        for ((index_variable, index), (count_variable, count)) in pairs.into_iter().flatten() {
            if count == 0 {
                return Err(count_variable.invalid("0"));
            }
            if index >= count {
                return Err(EnvironmentError::OutOfRange {
                    index_variable: index_variable.name,
                    index,
                    count_variable: count_variable.name,
                    count,
                });
            }
        }
        match self.local {
            Some((_, (variable, size))) if size > self.world_size.1 => {
                Err(EnvironmentError::LocalExceedsWorld {
                    local_variable: variable.name,
                    local_size: size,
                    world_variable: self.world_size.0.name,
                    world_size: self.world_size.1,
                })
            }
            _ => Ok(()),
        }
    }

    fn rank_info(&self, dialect: Dialect) -> RankInfo {
        let (rank, world_size) = self.identity();
        // A launcher that does not say which ranks share a node gets the answer that promises
        // nothing: each rank on a node of its own.
        let (local_rank, local_size) =
            self.local.map_or((0, 1), |((_, rank), (_, size))| (rank, size));
        let (node_rank, node_count) = match self.node {
            Some(((_, rank), (_, count))) => (rank, count),
            None => guess_node(rank, world_size, local_rank, local_size),
        };
        RankInfo {
            rank,
            world_size,
            local_rank,
            local_size,
            node_rank,
            node_count,
            dialect,
            ..RankInfo::alone()
        }
    }
}

/// The node of a rank where nobody numbers nodes: exact when every node has as many ranks and they
/// are laid out node by node or round robin, else one node per rank.
fn guess_node(rank: u32, world_size: u32, local_rank: u32, local_size: u32) -> (u32, u32) {
    if !world_size.is_multiple_of(local_size) {
        return (rank, world_size);
    }
    let node_count = world_size / local_size;
    if rank % local_size == local_rank {
        (rank / local_size, node_count)
    } else if rank / node_count == local_rank {
        (rank % node_count, node_count)
    } else {
        (rank, world_size)
    }
}

//! Slurm's way to say which task of a step this process is.

use super::read::Place;
use crate::env::{self, Environment, EnvironmentError, Variable};

/// Step numbers from here on are not started by `srun`: batch script, extern and interactive step.
/// There the task variables describe the shell, whose allocation may have many tasks, and not a
/// rank.
const FIRST_SPECIAL_STEP: u32 = 0xffff_fff0;

/// The place of this task; `None` outside a step.
pub(super) fn place(
    environment: &(impl Environment + ?Sized),
) -> Result<Option<Place>, EnvironmentError> {
    let step = match env::SLURM_STEP_ID.parse::<u32>(environment)? {
        Some(step) => Some(step),
        None => env::SLURM_STEPID.parse::<u32>(environment)?,
    };
    let Some(rank) = env::SLURM_PROCID.parse::<u32>(environment)? else { return Ok(None) };
    if step.is_none_or(|step| step >= FIRST_SPECIAL_STEP) {
        return Ok(None);
    }
    let (world_variable, world_size) =
        first(environment, [env::SLURM_STEP_NUM_TASKS, env::SLURM_NTASKS])?.ok_or(
            EnvironmentError::HalfPair {
                present: env::SLURM_PROCID.name,
                missing: env::SLURM_NTASKS.name,
            },
        )?;
    let node_count = first(environment, [env::SLURM_STEP_NUM_NODES, env::SLURM_NNODES])?;
    let node_rank = env::SLURM_NODEID.parse::<u32>(environment)?;
    let node = match (node_rank, node_count) {
        (Some(rank), Some((variable, count))) => {
            Some(((env::SLURM_NODEID, rank), (variable, count)))
        }
        _ => None,
    };
    let local_size = match env::SLURM_STEP_TASKS_PER_NODE.text(environment)? {
        Some(text) => {
            let tasks = parse_tasks_per_node(&text, node_rank.unwrap_or(0))
                .ok_or_else(|| env::SLURM_STEP_TASKS_PER_NODE.invalid(text))?;
            Some((env::SLURM_STEP_TASKS_PER_NODE, tasks))
        }
        None if matches!(node_count, Some((_, 1))) => Some((world_variable, world_size)),
        None => None,
    };
    let local = env::SLURM_LOCALID
        .parse::<u32>(environment)?
        .zip(local_size)
        .map(|(rank, size)| ((env::SLURM_LOCALID, rank), size));
    Ok(Some(Place {
        rank: (env::SLURM_PROCID, rank),
        world_size: (world_variable, world_size),
        local,
        node,
    }))
}

/// The first of `variables` that is set.
fn first(
    environment: &(impl Environment + ?Sized),
    variables: [Variable; 2],
) -> Result<Option<(Variable, u32)>, EnvironmentError> {
    for variable in variables {
        if let Some(value) = variable.parse(environment)? {
            return Ok(Some((variable, value)));
        }
    }
    Ok(None)
}

/// The entry of `node` in a list such as `2(x3),1`: two tasks on each of three nodes, one on a
/// fourth. `None` when the text is malformed or has no such node.
pub(super) fn parse_tasks_per_node(text: &str, node: u32) -> Option<u32> {
    let mut nodes_before = 0_u32;
    let mut found = None;
    for entry in text.split(',') {
        let (tasks, repeat) = match entry.trim().split_once("(x") {
            Some((tasks, repeat)) => (tasks, repeat.strip_suffix(')')?.parse::<u32>().ok()?),
            None => (entry.trim(), 1),
        };
        let tasks = tasks.parse::<u32>().ok()?;
        let nodes_after = nodes_before.checked_add(repeat)?;
        if (nodes_before..nodes_after).contains(&node) {
            found = Some(tasks);
        }
        nodes_before = nodes_after;
    }
    found
}

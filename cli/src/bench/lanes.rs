//! The transports that can be used, each with its connections.

use std::sync::Arc;

use paceline_benches::schema::SkippedTransport;
use paceline_collectives::queue::Queue;
use paceline_collectives::{
    Communicator, Context, ContextOptions, Job, SetupError, TransportChoice,
};
use paceline_transports::{EstablishError, TransportKind};

use super::arguments::TransportSelection;
use super::plan::Plan;
use super::session::BenchError;

/// What stands for a transport where there is nobody to talk to.
const ALONE: &str = "self";

/// One transport between all ranks.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) name: &'static str,
    pub(super) context: Context,
    pub(super) communicator: Communicator,
    /// Where operations are submitted. It has connections of its own, so that it does not wait in
    /// those of the others.
    pub(super) queue: Option<Queue>,
}

/// Connects the ranks over every transport of the plan. All ranks get the same, in the same order.
pub(super) fn open_lanes(
    plan: &Plan,
    job: &Arc<Job>,
) -> Result<(Vec<Lane>, Vec<SkippedTransport>), BenchError> {
    let mut lanes = Vec::new();
    let mut skipped = Vec::new();
    if job.rank_info().world_size == 1 {
        lanes.push(open(job, plan, TransportChoice::Auto)?);
        return Ok((lanes, skipped));
    }
    for choice in plan.transports.choices(job.rank_info().is_on_one_node()) {
        match (open(job, plan, choice), plan.transports) {
            // With one rank on each node there is nothing to choose.
            (Ok(lane), _) if lanes.iter().any(|other: &Lane| other.name == lane.name) => {}
            (Ok(lane), _) => {
                skipped.extend(lane.context.fallback().map(|reason| SkippedTransport {
                    transport: TransportKind::Shm.name().to_owned(),
                    reason: reason.to_owned(),
                }));
                lanes.push(lane);
            }
            (
                Err(BenchError::Setup(SetupError::Establish { transport, source })),
                TransportSelection::All,
            ) if matches!(
                source,
                EstablishError::Unusable { .. } | EstablishError::OnRank { .. }
            ) =>
            {
                let reason = match source {
                    EstablishError::Unusable { reason, .. } => reason,
                    other => other.to_string(),
                };
                skipped.push(SkippedTransport { transport: transport.to_owned(), reason });
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok((lanes, skipped))
}

fn open(job: &Arc<Job>, plan: &Plan, choice: TransportChoice) -> Result<Lane, BenchError> {
    let options = ContextOptions { transport: choice, ..plan.context.clone() };
    let context = Context::new(job, &options)?;
    let name = if context.world_size() == 1 { ALONE } else { context.carrier() };
    let communicator = context.communicator()?;
    if let TransportChoice::Only(wanted) = choice
        && context.world_size() > 1
        && context.transport() != wanted
    {
        let transport = wanted.name();
        let reason = format!("the library took {} instead", context.transport());
        let source = EstablishError::Unusable { transport, reason };
        return Err(SetupError::Establish { transport, source }.into());
    }
    let queue = match &plan.queue {
        None => None,
        Some(queue) => Some(Queue::new(Context::new(job, &options)?.communicator()?, queue)?),
    };
    Ok(Lane { name, context, communicator, queue })
}

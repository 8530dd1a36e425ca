//! What is measured, line by line: cases and the workloads that go with them.

use paceline_benches::metrics::as_u64;
use paceline_benches::models::Model;
use paceline_benches::ranks::{
    Bucketing, CollectiveWorkload, GradientsWorkload, QueuedWorkload, planned_algorithm,
};
use paceline_benches::record::Case;
use paceline_benches::run::{RunError, Workload};
use paceline_benches::verify::{Pattern, TestElement};
use paceline_collectives::queue::Queue;

use super::lanes::Lane;
use super::peer::Measured;
use super::plan::{Plan, Subject};
use super::session::BenchError;

/// One line of the table, before it is measured.
pub(super) struct Row<'a> {
    pub(super) case: Case,
    pub(super) workload: Box<dyn Workload + 'a>,
    pub(super) measured: Measured,
}

/// Those of `sizes` that mean as many whole elements as one before them, and would be measured twice.
pub(super) fn repeated(plan: &Plan, world_size: u32) -> Vec<u64> {
    let Subject::Sizes(sizes) = &plan.subject else { return Vec::new() };
    let mut known = Vec::new();
    let is_known = |bytes: &u64| {
        let rounded = plan.collective.shape(*bytes, plan.dtype, world_size).bytes;
        let is_known = known.contains(&rounded);
        known.push(rounded);
        is_known
    };
    sizes.iter().copied().filter(is_known).collect()
}

/// What is measured on a transport, in order. No buffers are allocated yet.
pub(super) fn rows<'a, T: TestElement>(
    plan: &Plan,
    lane: &'a Lane,
    pattern: &'a Pattern<T>,
) -> Result<Vec<Row<'a>>, BenchError> {
    match &plan.subject {
        Subject::Sizes(sizes) => {
            let row = |bytes: &u64| match &lane.queue {
                Some(queue) => queued_size_row(plan, lane, queue, pattern, *bytes),
                None => size_row(plan, lane, pattern, *bytes),
            };
            let repeated = repeated(plan, lane.context.world_size());
            sizes.iter().filter(|bytes| !repeated.contains(bytes)).map(row).collect()
        }
        Subject::Model(model, threshold) => {
            let counts = model.backward_elements();
            let row = |bucketing| model_row(plan, lane, pattern, model.name, &counts, bucketing);
            let blocking = [Bucketing::Alone, Bucketing::Fused(*threshold)].into_iter().map(row);
            let queue = lane.queue.iter();
            blocking
                .chain(queue.map(|queue| queued_row(plan, lane, queue, pattern, model)))
                .collect()
        }
    }
}

fn size_row<'a, T: TestElement>(
    plan: &Plan,
    lane: &'a Lane,
    pattern: &'a Pattern<T>,
    bytes: u64,
) -> Result<Row<'a>, BenchError> {
    let (collective, communicator) = (plan.collective, &lane.communicator);
    let shape = collective.shape(bytes, plan.dtype, lane.context.world_size());
    let (op, apart) = (plan.op, plan.out_of_place);
    let workload = CollectiveWorkload::new(communicator, collective, op, pattern, shape, apart)
        .map_err(RunError::Operation)?;
    let algorithm = planned_algorithm::<T>(communicator, collective, shape).to_owned();
    let case = Case { count: shape.count, bytes: shape.bytes, ..case(plan, lane, algorithm) };
    Ok(Row { case, workload: Box::new(workload), measured: Measured::Shape(shape) })
}

fn model_row<'a, T: TestElement>(
    plan: &Plan,
    lane: &'a Lane,
    pattern: &'a Pattern<T>,
    name: &str,
    counts: &[u64],
    bucketing: Bucketing,
) -> Result<Row<'a>, BenchError> {
    let workload = GradientsWorkload::new(&lane.communicator, plan.op, pattern, counts, bucketing)
        .map_err(RunError::Operation)?;
    let fusion_bytes = match bucketing {
        Bucketing::Alone => None,
        Bucketing::Fused(bytes) => Some(bytes),
    };
    let case = Case {
        count: counts.iter().sum(),
        bytes: workload.slot_bytes(),
        model: Some(name.to_owned()),
        fusion_bytes,
        ..case(plan, lane, workload.algorithms())
    };
    Ok(Row { case, workload: Box::new(workload), measured: Measured::Lengths(counts.to_vec()) })
}

fn queued_row<'a, T: TestElement>(
    plan: &Plan,
    lane: &'a Lane,
    queue: &'a Queue,
    pattern: &'a Pattern<T>,
    model: &Model,
) -> Result<Row<'a>, BenchError> {
    let tensors: Vec<(&str, u64)> =
        model.backward().map(|tensor| (tensor.name.as_str(), tensor.elements())).collect();
    let workload =
        QueuedWorkload::new(queue, plan.op, pattern, &tensors).map_err(RunError::Operation)?;
    let counts = model.backward_elements();
    // The same algorithms as when the tensors are fused in order: it takes no bytes to know.
    let fusion_bytes = plan.queue.as_ref().map_or(0, |options| as_u64(options.fusion_threshold));
    let bucketing = Bucketing::Fused(fusion_bytes);
    let like = GradientsWorkload::new(&lane.communicator, plan.op, pattern, &counts, bucketing)
        .map_err(RunError::Operation)?;
    let case = Case {
        count: model.parameters(),
        bytes: workload.slot_bytes(),
        model: Some(model.name.to_owned()),
        fusion_bytes: (fusion_bytes > 0).then_some(fusion_bytes),
        queued: true,
        ..case(plan, lane, like.algorithms())
    };
    Ok(Row { case, workload: Box::new(workload), measured: Measured::Lengths(counts) })
}

/// One operation at a time through the queue.
fn queued_size_row<'a, T: TestElement>(
    plan: &Plan,
    lane: &'a Lane,
    queue: &'a Queue,
    pattern: &'a Pattern<T>,
    bytes: u64,
) -> Result<Row<'a>, BenchError> {
    let shape = plan.collective.shape(bytes, plan.dtype, lane.context.world_size());
    let workload = QueuedWorkload::new(queue, plan.op, pattern, &[("lone", shape.elements())])
        .map_err(RunError::Operation)?;
    let algorithm = planned_algorithm::<T>(&lane.communicator, plan.collective, shape).to_owned();
    let case = case(plan, lane, algorithm);
    let case = Case { count: shape.count, bytes: shape.bytes, queued: true, ..case };
    Ok(Row { case, workload: Box::new(workload), measured: Measured::Shape(shape) })
}

fn case(plan: &Plan, lane: &Lane, algorithm: String) -> Case {
    Case {
        collective: plan.collective,
        transport: lane.name.to_owned(),
        emulated: false,
        algorithm,
        world_size: lane.context.world_size(),
        dtype: plan.dtype,
        op: plan.op,
        count: 0,
        bytes: 0,
        model: None,
        fusion_bytes: None,
        queued: false,
    }
}

//! What an operation in two levels is made of: stages on the node and stages between nodes.

use std::cell::Cell;
use std::time::Instant;

use super::super::Communicator;
use crate::call::{Call, Stage};
use crate::context::ContextInner;
use crate::drive::{self, Crossing, Neighbours, Parties, Run};
use crate::engine::Workspace;
use crate::error::{CollectiveError, OperationName};
use crate::kernels::Kernel;
use crate::levels::Shape;
use crate::members::Members;
use crate::node::{Manner, NodeGroup, NodeRequest};
use crate::plan::PlanFacts;
use crate::program::Program;

/// Tags of each stage between nodes, if there are several: more messages than that in one direction
/// none of them has.
const TAGS_PER_STAGE: u32 = 1 << 20;

/// After so many stages their tags are used again. Nobody is that far ahead of anybody: in most stages a
/// rank hears from all others, and in a reduce, where only the root does, the pieces are as long as the
/// credit for what is not waited for, so that a sender is about two stages ahead.
const STAGES_TOLD_APART: u32 = 16;

/// The operation that stages belong to.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    pub(super) communicator: &'a Communicator,
    pub(super) operation: OperationName,
    pub(super) call: &'a Call<'a>,
    /// When it began.
    pub(super) since: &'a Cell<Instant>,
}

impl<'a> Whole<'a> {
    fn context(&self) -> &'a ContextInner {
        &self.communicator.context
    }

    fn among(&self, members: &'a Members) -> Parties<'a> {
        Parties { among: members, since: Some(self.since), ..self.communicator.parties() }
    }
}

/// The ranks of this node, and what they do together.
pub(super) struct OnNode<'a> {
    whole: Whole<'a>,
    place: usize,
    members: &'a Members,
    /// None where this rank is alone.
    group: Option<&'a mut NodeGroup>,
    /// Reduces where no result is complete.
    partial: Option<Kernel>,
}

impl<'a> OnNode<'a> {
    pub(super) fn new(
        whole: Whole<'a>,
        place: usize,
        members: &'a Members,
        group: Option<&'a mut NodeGroup>,
    ) -> Self {
        let partial = whole.call.kernel().map(Kernel::partial);
        Self { whole, place, members, group, partial }
    }

    /// Carries out a stage.
    pub(super) fn run(&mut self, stage: Stage) -> Result<(), CollectiveError> {
        self.run_beside(stage, None)
    }

    /// Carries out a stage while another one, between nodes, goes on.
    pub(super) fn run_beside(
        &mut self,
        stage: Stage,
        beside: Option<&mut Crossing<'_>>,
    ) -> Result<(), CollectiveError> {
        let Self { whole, place, members, group, partial } = self;
        let Some(group) = group else {
            if stage.output.count > 0 {
                Call::copy(stage.input, stage.output);
            }
            return Ok(());
        };
        let call = whole.call.stage(stage, *place);
        let manner = Manner::preferred(members.world_size, call.agreed_bytes());
        let request = call.node_request(&whole.operation.kind, manner);
        let kernel = request.kernel.and(partial.as_ref());
        let request = NodeRequest { kernel, ..request };
        let (context, parties) = (whole.context(), whole.among(members));
        // SAFETY: a call lends its buffers for as long as it is borrowed, and what is staged is ours;
        // a stage beside this one works on other parts of them.
        unsafe { drive::run_node(context, parties, whole.operation, group, request, beside) }
    }

    /// Where other stages run.
    pub(super) fn neighbours(&self) -> Option<Neighbours<'_>> {
        let group = self.group.as_deref()?;
        Some(Neighbours { group, members: self.members })
    }
}

/// The ranks of this rank's stream, if it has one, and what they do together.
pub(super) struct Across<'a> {
    whole: Whole<'a>,
    shape: &'a Shape,
    members: Option<&'a Members>,
    facts: &'a PlanFacts,
    workspace: &'a mut Workspace,
    /// Stages so far.
    stages: u32,
}

/// A stage between nodes before it begins.
pub(super) struct Leg<'a> {
    call: Call<'a>,
    program: Program,
}

impl<'a> Across<'a> {
    pub(super) fn new(
        whole: Whole<'a>,
        shape: &'a Shape,
        members: Option<&'a Members>,
        facts: &'a PlanFacts,
        workspace: &'a mut Workspace,
    ) -> Self {
        Self { whole, shape, members, facts, workspace, stages: 0 }
    }

    /// Prepares a stage in which this rank's stream has so much to do; none where it has nothing. Stream
    /// 0 always has, so that all nodes hear of each other in every operation.
    pub(super) fn leg(&self, stage: Stage) -> Option<Leg<'a>> {
        if stage.partition.count() == 0 && self.shape.place() > 0 {
            return None;
        }
        let is_whole = stage.partition.is_whole();
        let call = self.whole.call.stage(stage, self.shape.node());
        let choice = self.facts.choose_across(call.collective, call.agreed_bytes(), is_whole);
        call.place_own();
        let program = Program::new(&call, choice, self.shape.node(), self.shape.nodes());
        Some(Leg { call, program })
    }

    /// Begins a stage.
    pub(super) fn begin<'b>(
        &'b mut self,
        leg: &'b Leg<'_>,
    ) -> Result<Crossing<'b>, CollectiveError> {
        let members = self.members.expect("only ranks with a stream get here");
        let first_tag = self.stages % STAGES_TOLD_APART * TAGS_PER_STAGE;
        self.stages += 1;
        let run = Run {
            context: self.whole.context(),
            parties: self.whole.among(members),
            operation: self.whole.operation,
            first_tag,
            schedule: leg.program.as_schedule(),
            kernel: leg.call.kernel().cloned(),
            partition: leg.call.partition.clone(),
            operands: leg.call.operands(),
        };
        // SAFETY: as for a stage on the node; who drops what this returns gives the stage up.
        unsafe { drive::begin(run, self.workspace) }
    }
}

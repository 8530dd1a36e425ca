//! Carries out schedules: posts their messages, reduces what arrives, never blocks in a step.

mod board;
mod early;
mod exchange;
mod idle;
mod operation;
mod slots;
mod trace;
mod wire;
mod workspace;

pub(crate) use board::BOARDS;
pub(crate) use exchange::{Exchange, Mail};
pub(crate) use idle::{Idle, IdleAction, IdlePolicy};
pub(crate) use operation::{
    Operands, Operation, OperationId, OperationParts, StepError, scratch_bytes_min,
};
pub(crate) use trace::WireTrace;
pub(crate) use wire::Wire;
pub(crate) use workspace::Workspace;

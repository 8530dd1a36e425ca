//! Submitted operations without their types.

use std::any::Any;

use paceline_devices::{Bool, DType, Element, bf16, f16};

use super::error::QueueError;
use super::neutral::Neutral;
use super::request::{Request, Verb};
use crate::communicator::Communicator;
use crate::error::CollectiveError;
use crate::reduction::Reduction;

/// One submission, with its buffers.
pub(super) trait Task: Send {
    /// Carries it out, together with others that [fuse](Request::fuses_with) with it.
    fn run(
        &mut self,
        communicator: &Communicator,
        others: &mut [Box<dyn Task>],
    ) -> Result<(), CollectiveError>;

    /// Gives the buffers to the handle.
    fn finish(self: Box<Self>, outcome: Result<(), QueueError>);

    fn as_any(&mut self) -> &mut dyn Any;
}

/// What becomes of the buffers.
pub(super) type Deliver<T> = Box<dyn FnOnce(Vec<Vec<T>>, Result<(), QueueError>) + Send>;

pub(super) struct TypedTask<T> {
    action: Action<T>,
    tensors: Vec<Vec<T>>,
    /// Absent for a rank that has joined, and once it is done.
    deliver: Option<Deliver<T>>,
}

pub(super) enum Action<T> {
    AllReduce(Reduction<T>),
    Broadcast { root: u32 },
    AllGather,
}

impl<T: Element> TypedTask<T> {
    pub(super) fn new(action: Action<T>, tensors: Vec<Vec<T>>, deliver: Deliver<T>) -> Self {
        Self { action, tensors, deliver: Some(deliver) }
    }

    fn all_reduce(
        &mut self,
        communicator: &Communicator,
        others: &mut [Box<dyn Task>],
        reduction: &Reduction<T>,
    ) -> Result<(), CollectiveError> {
        let others = others.iter_mut().flat_map(|task| {
            let task = task.as_any().downcast_mut::<Self>();
            &mut task.expect("requests that fuse are of one type").tensors
        });
        let tensors = self.tensors.iter_mut().chain(others);
        let mut slices: Vec<&mut [T]> = tensors.map(Vec::as_mut_slice).collect();
        match &mut slices[..] {
            [tensor] => communicator.all_reduce(tensor, reduction.clone()),
            tensors => communicator.all_reduce_fused(tensors, reduction.clone()),
        }
    }

    /// Every rank's elements, one rank after the other.
    fn all_gather(&mut self, communicator: &Communicator) -> Result<(), CollectiveError> {
        let world_size = communicator.world_size() as usize;
        for tensor in &mut self.tensors {
            let total = tensor.len().checked_mul(world_size);
            let too_long = || CollectiveError::Memory {
                collective: "all_gather",
                message: format!("cannot allocate the elements of {world_size} ranks"),
            };
            let total = total.ok_or_else(too_long)?;
            let mut output = Vec::new();
            output.try_reserve_exact(total).map_err(|_| too_long())?;
            // Any elements will do: they are overwritten.
            (0..world_size).for_each(|_| output.extend_from_slice(tensor));
            communicator.all_gather(tensor, &mut output)?;
            *tensor = output;
        }
        Ok(())
    }
}

impl<T: Element> Task for TypedTask<T> {
    fn run(
        &mut self,
        communicator: &Communicator,
        others: &mut [Box<dyn Task>],
    ) -> Result<(), CollectiveError> {
        match &self.action {
            Action::AllReduce(reduction) => {
                let reduction = reduction.clone();
                self.all_reduce(communicator, others, &reduction)
            }
            Action::Broadcast { root } => {
                let root = *root;
                self.tensors.iter_mut().try_for_each(|data| communicator.broadcast(data, root))
            }
            Action::AllGather => self.all_gather(communicator),
        }
    }

    fn finish(mut self: Box<Self>, outcome: Result<(), QueueError>) {
        if let Some(deliver) = self.deliver.take() {
            deliver(std::mem::take(&mut self.tensors), outcome);
        }
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

impl<T> Drop for TypedTask<T> {
    /// Nobody waits for ever, whatever happened to the thread.
    fn drop(&mut self) {
        if let Some(deliver) = self.deliver.take() {
            let message = "its thread ended in the middle of an operation".to_owned();
            deliver(std::mem::take(&mut self.tensors), Err(QueueError::Panicked { message }));
        }
    }
}

/// The part of a rank that has joined in what the others submitted: neutral elements. `None` if there
/// is no such thing.
pub(super) fn stand_in(request: &Request) -> Option<Box<dyn Task>> {
    macro_rules! by_type {
        ($($dtype:ident => $element:ty),*) => {
            match request.dtype()? {
                $(DType::$dtype => typed_stand_in::<$element>(request),)*
                _ => None,
            }
        };
    }
    by_type!(
        F64 => f64, F32 => f32, F16 => f16, Bf16 => bf16,
        I64 => i64, I32 => i32, I16 => i16, I8 => i8,
        U64 => u64, U32 => u32, U16 => u16, U8 => u8,
        Bool => Bool
    )
}

fn typed_stand_in<T: Neutral>(request: &Request) -> Option<Box<dyn Task>> {
    let (action, element) = match &request.verb {
        Verb::AllReduce(operator) => {
            let (op, scale) = (operator.built_in()?, operator.scale());
            let reduction = Reduction::new(op).prescale(scale.before).postscale(scale.after);
            (Action::AllReduce(reduction), T::neutral(op))
        }
        Verb::Broadcast { root } => {
            (Action::Broadcast { root: *root }, T::neutral(paceline_devices::ReduceOp::Max))
        }
        Verb::AllGather => return None,
    };
    let tensor = |count: &u64| -> Option<Vec<T>> {
        let count = usize::try_from(*count).ok()?;
        let mut tensor = Vec::new();
        tensor.try_reserve_exact(count).ok()?;
        tensor.resize(count, element);
        Some(tensor)
    };
    let tensors = request.counts.iter().map(tensor).collect::<Option<Vec<_>>>()?;
    Some(Box::new(TypedTask { action, tensors, deliver: None }))
}

//! Submitted operations without their types.

use std::any::Any;

use paceline_devices::{Bool, DType, Element, ReduceOp, bf16, f16};

use super::error::QueueError;
use super::neutral::Neutral;
use super::request::{Operator, Request, Verb};
use crate::adasum::Float;
use crate::communicator::{Communicator, Compression};
use crate::error::CollectiveError;
use crate::fusion::{as_singles, zeros};
use crate::reduction::Reduction;
use crate::signature::Collective;

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

/// An operation on all tensors of several submissions.
type Fused<T> = fn(&Communicator, &mut [&mut [T]]) -> Result<(), CollectiveError>;

pub(super) enum Action<T> {
    AllReduce(Reduction<T>, Compression),
    /// With what carries it out, which only floats have.
    Adasum(Fused<T>),
    ReduceScatter(Reduction<T>),
    Broadcast {
        root: u32,
    },
    AllGather,
    AllGatherV,
    AllToAll,
    AllToAllV {
        counts: Vec<usize>,
    },
    Barrier,
}

impl<T: Element> TypedTask<T> {
    pub(super) fn new(action: Action<T>, tensors: Vec<Vec<T>>, deliver: Deliver<T>) -> Self {
        Self { action, tensors, deliver: Some(deliver) }
    }

    /// The tensors of this submission and of others of its type.
    fn tensors<'a>(&'a mut self, others: &'a mut [Box<dyn Task>]) -> Vec<&'a mut [T]> {
        let others = others.iter_mut().flat_map(|task| {
            let task = task.as_any().downcast_mut::<Self>();
            &mut task.expect("requests that fuse are of one type").tensors
        });
        self.tensors.iter_mut().chain(others).map(Vec::as_mut_slice).collect()
    }
}

fn all_reduce<T: Element>(
    communicator: &Communicator,
    tensors: &mut [&mut [T]],
    reduction: Reduction<T>,
    compression: Compression,
) -> Result<(), CollectiveError> {
    if compression == Compression::None {
        return match tensors {
            [tensor] => communicator.all_reduce(tensor, reduction),
            tensors => communicator.all_reduce_fused(tensors, reduction),
        };
    }
    let (op, _, scale) = reduction.facts();
    let op = op.expect("what is compressed is reduced by a built-in operator");
    let reduction = Reduction::scaled_by(op, scale);
    let singles = tensors.iter_mut().map(|tensor| as_singles(tensor)).collect::<Option<Vec<_>>>();
    match &mut singles.expect("only f32 is compressed")[..] {
        [tensor] => communicator.all_reduce_compressed(tensor, reduction, compression),
        tensors => communicator.all_reduce_compressed_fused(tensors, reduction, compression),
    }
}

/// Memory for a result.
fn output<T: Element>(
    communicator: &Communicator,
    collective: Collective,
    count: Option<usize>,
) -> Result<Vec<T>, CollectiveError> {
    count.and_then(zeros).ok_or_else(|| {
        let message = "cannot allocate memory for the result".to_owned();
        // The others are in the operation already, or will be.
        communicator.give_up(CollectiveError::Memory { collective: collective.name(), message })
    })
}

/// Every rank's elements, one rank after the other.
fn all_gather<T: Element>(
    communicator: &Communicator,
    tensor: &mut Vec<T>,
) -> Result<(), CollectiveError> {
    let total = tensor.len().checked_mul(communicator.world_size() as usize);
    let mut output = output(communicator, Collective::AllGather, total)?;
    communicator.all_gather(tensor, &mut output)?;
    *tensor = output;
    Ok(())
}

/// What each rank says of itself.
fn lengths(communicator: &Communicator, own: &[u64]) -> Result<Vec<usize>, CollectiveError> {
    let mut all = own.repeat(communicator.world_size() as usize);
    communicator.all_gather(own, &mut all)?;
    Ok(all.into_iter().map(|length| usize::try_from(length).unwrap_or(usize::MAX)).collect())
}

fn sum(lengths: &[usize]) -> Option<usize> {
    lengths.iter().try_fold(0usize, |sum, length| sum.checked_add(*length))
}

fn cut<T: Element>(mut data: Vec<T>, lengths: &[usize]) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::with_capacity(lengths.len());
    for length in lengths.iter().rev() {
        parts.push(data.split_off(data.len() - length));
    }
    parts.reverse();
    parts
}

fn all_gather_v<T: Element>(
    communicator: &Communicator,
    data: &[T],
) -> Result<Vec<Vec<T>>, CollectiveError> {
    let lengths = lengths(communicator, &[data.len() as u64])?;
    let mut output = output(communicator, Collective::AllGatherV, sum(&lengths))?;
    communicator.all_gather_v(data, &mut output, &lengths)?;
    Ok(cut(output, &lengths))
}

fn all_to_all_v<T: Element>(
    communicator: &Communicator,
    data: &[T],
    counts: &[usize],
) -> Result<Vec<Vec<T>>, CollectiveError> {
    let sent: Vec<u64> = counts.iter().map(|count| *count as u64).collect();
    let mut received = sent.clone();
    communicator.all_to_all(&sent, &mut received)?;
    let received: Vec<usize> =
        received.into_iter().map(|count| usize::try_from(count).unwrap_or(usize::MAX)).collect();
    let mut output = output(communicator, Collective::AllToAllV, sum(&received))?;
    communicator.all_to_all_v(data, counts, &mut output, &received)?;
    Ok(cut(output, &received))
}

impl<T: Element> Task for TypedTask<T> {
    fn run(
        &mut self,
        communicator: &Communicator,
        others: &mut [Box<dyn Task>],
    ) -> Result<(), CollectiveError> {
        match &self.action {
            Action::AllReduce(reduction, compression) => {
                let (reduction, compression) = (reduction.clone(), *compression);
                all_reduce(communicator, &mut self.tensors(others), reduction, compression)
            }
            Action::Adasum(all_reduce) => {
                let all_reduce = *all_reduce;
                all_reduce(communicator, &mut self.tensors(others))
            }
            Action::ReduceScatter(reduction) => self.tensors.iter_mut().try_for_each(|tensor| {
                let own = communicator.reduce_scatter_in_place(tensor, reduction.clone())?;
                tensor.truncate(own.end);
                tensor.drain(..own.start);
                Ok(())
            }),
            Action::Broadcast { root } => {
                self.tensors.iter_mut().try_for_each(|data| communicator.broadcast(data, *root))
            }
            Action::AllGather => {
                self.tensors.iter_mut().try_for_each(|tensor| all_gather(communicator, tensor))
            }
            Action::AllGatherV => {
                self.tensors = all_gather_v(communicator, &self.tensors[0])?;
                Ok(())
            }
            Action::AllToAll => self.tensors.iter_mut().try_for_each(|tensor| {
                let count = Some(tensor.len());
                let mut received = output(communicator, Collective::AllToAll, count)?;
                communicator.all_to_all(tensor, &mut received)?;
                *tensor = received;
                Ok(())
            }),
            Action::AllToAllV { counts } => {
                self.tensors = all_to_all_v(communicator, &self.tensors[0], counts)?;
                Ok(())
            }
            // All have come, or it would not be carried out.
            Action::Barrier => Ok(()),
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
            let message = "it ended in the middle of an operation".to_owned();
            deliver(std::mem::take(&mut self.tensors), Err(QueueError::Panicked { message }));
        }
    }
}

/// The part of a rank that has joined in what the others submitted: neutral elements. `None` if there
/// is no memory for them, or no such thing.
pub(super) fn stand_in(request: &Request) -> Option<Box<dyn Task>> {
    macro_rules! by_type {
        ($dtype:expr, $function:ident: $($name:ident => $element:ty),*) => {
            match $dtype {
                $(DType::$name => $function::<$element>(request),)*
                _ => None,
            }
        };
    }
    let dtype = request.dtype()?;
    if request.verb == Verb::Adasum {
        return by_type!(dtype, adasum_stand_in: F64 => f64, F32 => f32, F16 => f16, Bf16 => bf16);
    }
    by_type!(dtype, typed_stand_in:
        F64 => f64, F32 => f32, F16 => f16, Bf16 => bf16,
        I64 => i64, I32 => i32, I16 => i16, I8 => i8,
        U64 => u64, U32 => u32, U16 => u16, U8 => u8,
        Bool => Bool
    )
}

fn adasum_stand_in<T: Float>(request: &Request) -> Option<Box<dyn Task>> {
    let counts = request.counts.iter().map(|count| usize::try_from(*count).ok());
    let tensors = counts.map(|count| count.and_then(zeros)).collect::<Option<Vec<Vec<T>>>>()?;
    let action = Action::Adasum(Communicator::all_reduce_adasum_fused);
    Some(Box::new(TypedTask { action, tensors, deliver: None }))
}

fn typed_stand_in<T: Neutral>(request: &Request) -> Option<Box<dyn Task>> {
    let reduction = |operator: &Operator| {
        let op = operator.built_in()?;
        Some((Reduction::scaled_by(op, operator.scale()), T::neutral(op)))
    };
    let any = T::neutral(ReduceOp::Max);
    let (action, element) = match &request.verb {
        Verb::AllReduce(operator, wire) => {
            let (reduction, neutral) = reduction(operator)?;
            (Action::AllReduce(reduction, Compression::of(*wire)?), neutral)
        }
        Verb::ReduceScatter(operator) => {
            let (reduction, neutral) = reduction(operator)?;
            (Action::ReduceScatter(reduction), neutral)
        }
        Verb::Broadcast { root } => (Action::Broadcast { root: *root }, any),
        Verb::Barrier => (Action::Barrier, any),
        Verb::AllGatherV => {
            let nothing = vec![Vec::new()];
            let action = Action::AllGatherV;
            return Some(Box::new(TypedTask::<T> { action, tensors: nothing, deliver: None }));
        }
        Verb::Adasum | Verb::AllGather | Verb::AllToAll | Verb::AllToAllV => return None,
    };
    let tensor = |count: &u64| -> Option<Vec<T>> {
        let mut tensor = zeros(usize::try_from(*count).ok()?)?;
        tensor.fill(element);
        Some(tensor)
    };
    let tensors = request.counts.iter().map(tensor).collect::<Option<Vec<_>>>()?;
    Some(Box::new(TypedTask { action, tensors, deliver: None }))
}

//! The face of a queue: what can be submitted to it.

use std::sync::Arc;

use paceline_devices::{DType, Element};

use super::Queue;
use super::error::{Failed, QueueError};
use super::handle::{Handle, promise};
use super::request::{Operator, Request, Verb};
use super::task::{Action, TypedTask};
use crate::adasum::Float;
use crate::call::{check_counts, invalid};
use crate::communicator::{Communicator, Compression};
use crate::error::CollectiveError;
use crate::reduction::{CompressedReducer, Reducer, Reduction};
use crate::signature::Collective;

/// Submits operations to a queue in one manner: made by [`Queue::priority`] and [`Queue::compression`].
#[derive(Clone, Copy, Debug)]
pub struct Submitter<'q> {
    queue: &'q Queue,
    priority: i32,
    compression: Compression,
}

/// What a submission was, on its way to its handle.
type Pack<T, B> = fn(Vec<Vec<T>>) -> B;

fn only<T>(mut tensors: Vec<Vec<T>>) -> Vec<T> {
    tensors.pop().unwrap_or_default()
}

fn all<T>(tensors: Vec<Vec<T>>) -> Vec<Vec<T>> {
    tensors
}

/// The same methods on a queue, for those who want neither priority nor compression.
macro_rules! submissions {
    ($($(#[$text:meta])* $name:ident<$T:ident: $bound:ident>($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Queue {
            $($(#[$text])* pub fn $name<$T: $bound>(
                &self,
                name: impl Into<Arc<str>>,
                $($argument: $type),*
            ) -> Handle<$result> {
                self.priority(0).$name(name, $($argument),*)
            })*
        }
    };
}

submissions! {
    /// Reduces the ranks' vectors of this name; see [`Communicator::all_reduce`].
    all_reduce<T: Element>(data: Vec<T>, op: impl Into<Reduction<T>>) -> Vec<T>;

    /// Reduces several vectors of each rank as one: all of them when every rank has submitted them,
    /// or none.
    all_reduce_group<T: Element>(tensors: Vec<Vec<T>>, op: impl Into<Reduction<T>>) -> Vec<Vec<T>>;

    /// Combines the ranks' vectors of this name by Adasum; see [`Communicator::all_reduce_adasum`].
    all_reduce_adasum<T: Float>(data: Vec<T>) -> Vec<T>;

    /// Combines several vectors of each rank by Adasum, each for itself: all of them or none.
    all_reduce_adasum_group<T: Float>(tensors: Vec<Vec<T>>) -> Vec<Vec<T>>;

    /// Reduces the ranks' vectors; this rank gets its [chunk](Communicator::own_chunk) of the result.
    reduce_scatter<T: Element>(data: Vec<T>, op: impl Into<Reduction<T>>) -> Vec<T>;

    /// Reduces several vectors of each rank, which gets its chunk of each: all of them or none.
    reduce_scatter_group<T: Element>(
        tensors: Vec<Vec<T>>,
        op: impl Into<Reduction<T>>
    ) -> Vec<Vec<T>>;

    /// Copies the root's vector to all ranks; see [`Communicator::broadcast`].
    broadcast<T: Element>(data: Vec<T>, root: u32) -> Vec<T>;

    /// Collects the ranks' vectors, which have equal lengths, one behind the other in the order of
    /// ranks; see [`Communicator::all_gather`].
    all_gather<T: Element>(data: Vec<T>) -> Vec<T>;

    /// Collects several vectors of each rank, as [`all_gather`](Queue::all_gather) does one: all of
    /// them or none.
    all_gather_group<T: Element>(tensors: Vec<Vec<T>>) -> Vec<Vec<T>>;

    /// Collects the ranks' vectors, which may have any lengths, by rank. Ranks that have joined have
    /// empty ones.
    all_gather_v<T: Element>(data: Vec<T>) -> Vec<Vec<T>>;

    /// Sends a block to each rank and gets one from each, all of one length; see
    /// [`Communicator::all_to_all`].
    all_to_all<T: Element>(data: Vec<T>) -> Vec<T>;

    /// Sends `counts[r]` elements to rank r; returns what came from each rank.
    all_to_all_v<T: Element>(data: Vec<T>, counts: Vec<usize>) -> Vec<Vec<T>>;
}

impl Queue {
    /// Submits with a priority: of what is ready, the highest goes first. Without, it is 0. All ranks
    /// must give a tensor the same.
    pub fn priority(&self, priority: i32) -> Submitter<'_> {
        Submitter { queue: self, priority, compression: Compression::None }
    }

    /// Submits with elements that are shorter on the wire; see
    /// [`Communicator::all_reduce_compressed`]. It concerns all-reduces of `f32` by built-in operators;
    /// everything else goes as it is. All ranks must compress a tensor in the same way.
    pub fn compression(&self, compression: Compression) -> Submitter<'_> {
        Submitter { compression, ..self.priority(0) }
    }

    /// Completes when all ranks that have not joined have submitted it.
    pub fn barrier(&self, name: impl Into<Arc<str>>) -> Handle<()> {
        self.priority(0).barrier(name)
    }

    /// Says that this rank has no more data, until all ranks have said so. Until then it takes part in
    /// what the others submit with elements that change nothing: zeros for sum and avg (an average
    /// is over all ranks all the same), the largest value for min, and so on.
    ///
    /// The handle completes with the rank that joined last. Then this rank may submit again.
    pub fn join(&self) -> Handle<u32> {
        let (promise, handle) = promise(Some(&self.driver));
        self.driver.inbox().join(promise);
        handle
    }
}

impl Submitter<'_> {
    /// The same with another priority; see [`Queue::priority`].
    #[must_use]
    pub fn priority(self, priority: i32) -> Self {
        Self { priority, ..self }
    }

    /// The same with another compression; see [`Queue::compression`].
    #[must_use]
    pub fn compression(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// As [`Queue::all_reduce`].
    pub fn all_reduce<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<T>> {
        self.reduce(name.into(), vec![data], op.into(), only)
    }

    /// As [`Queue::all_reduce_group`].
    pub fn all_reduce_group<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        tensors: Vec<Vec<T>>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<Vec<T>>> {
        self.reduce(name.into(), tensors, op.into(), all)
    }

    /// As [`Queue::all_reduce_adasum`].
    pub fn all_reduce_adasum<T: Float>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
    ) -> Handle<Vec<T>> {
        let action = Action::Adasum(Communicator::all_reduce_adasum_fused);
        self.submit(name.into(), Verb::Adasum, action, vec![data], None, only)
    }

    /// As [`Queue::all_reduce_adasum_group`].
    pub fn all_reduce_adasum_group<T: Float>(
        &self,
        name: impl Into<Arc<str>>,
        tensors: Vec<Vec<T>>,
    ) -> Handle<Vec<Vec<T>>> {
        let action = Action::Adasum(Communicator::all_reduce_adasum_fused);
        self.submit(name.into(), Verb::Adasum, action, tensors, None, all)
    }

    /// As [`Queue::reduce_scatter`].
    pub fn reduce_scatter<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<T>> {
        self.scatter(name.into(), vec![data], op.into(), only)
    }

    /// As [`Queue::reduce_scatter_group`].
    pub fn reduce_scatter_group<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        tensors: Vec<Vec<T>>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<Vec<T>>> {
        self.scatter(name.into(), tensors, op.into(), all)
    }

    /// As [`Queue::broadcast`].
    pub fn broadcast<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
        root: u32,
    ) -> Handle<Vec<T>> {
        let world_size = self.queue.world_size;
        let refused = (root >= world_size).then(|| {
            let what = format!("root {root} is no rank of a world of {world_size}");
            invalid(Collective::Broadcast, what)
        });
        let (verb, action) = (Verb::Broadcast { root }, Action::Broadcast { root });
        self.submit(name.into(), verb, action, vec![data], refused, only)
    }

    /// As [`Queue::all_gather`].
    pub fn all_gather<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
    ) -> Handle<Vec<T>> {
        self.submit(name.into(), Verb::AllGather, Action::AllGather, vec![data], None, only)
    }

    /// As [`Queue::all_gather_group`].
    pub fn all_gather_group<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        tensors: Vec<Vec<T>>,
    ) -> Handle<Vec<Vec<T>>> {
        self.submit(name.into(), Verb::AllGather, Action::AllGather, tensors, None, all)
    }

    /// As [`Queue::all_gather_v`].
    pub fn all_gather_v<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
    ) -> Handle<Vec<Vec<T>>> {
        self.submit(name.into(), Verb::AllGatherV, Action::AllGatherV, vec![data], None, all)
    }

    /// As [`Queue::all_to_all`].
    pub fn all_to_all<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
    ) -> Handle<Vec<T>> {
        let (count, world_size) = (data.len(), self.queue.world_size as usize);
        let refused = (!count.is_multiple_of(world_size)).then(|| {
            let what = format!("{count} elements are no {world_size} blocks of one length");
            invalid(Collective::AllToAll, what)
        });
        self.submit(name.into(), Verb::AllToAll, Action::AllToAll, vec![data], refused, only)
    }

    /// As [`Queue::all_to_all_v`].
    pub fn all_to_all_v<T: Element>(
        &self,
        name: impl Into<Arc<str>>,
        data: Vec<T>,
        counts: Vec<usize>,
    ) -> Handle<Vec<Vec<T>>> {
        let world_size = self.queue.world_size as usize;
        let refused = check_counts("input", Some(&counts), data.len(), world_size).err();
        let refused = refused.map(|what| invalid(Collective::AllToAllV, what));
        let action = Action::AllToAllV { counts };
        self.submit(name.into(), Verb::AllToAllV, action, vec![data], refused, all)
    }

    /// As [`Queue::barrier`].
    pub fn barrier(&self, name: impl Into<Arc<str>>) -> Handle<()> {
        let pack: Pack<u8, ()> = |_| ();
        self.submit(name.into(), Verb::Barrier, Action::Barrier, Vec::new(), None, pack)
    }

    fn reduce<T: Element, B: Send + 'static>(
        &self,
        name: Arc<str>,
        tensors: Vec<Vec<T>>,
        reduction: Reduction<T>,
        pack: Pack<T, B>,
    ) -> Handle<B> {
        let (op, user, scale) = reduction.facts();
        let is_compressible = T::DTYPE == DType::F32 && user.is_none();
        let wire = if is_compressible { self.compression.dtype() } else { None };
        let refused = match (wire, op) {
            (Some(half), Some(op)) => {
                CompressedReducer::new(&Reduction::scaled_by(op, scale), half).err()
            }
            _ => Reducer::typed(&reduction).err(),
        };
        let refused = refused.map(|what| invalid(Collective::AllReduce, what));
        let verb = Verb::AllReduce(Operator::new(op, user, scale), wire.map(|half| half as u8));
        let compression = if wire.is_some() { self.compression } else { Compression::None };
        self.submit(name, verb, Action::AllReduce(reduction, compression), tensors, refused, pack)
    }

    fn scatter<T: Element, B: Send + 'static>(
        &self,
        name: Arc<str>,
        tensors: Vec<Vec<T>>,
        reduction: Reduction<T>,
        pack: Pack<T, B>,
    ) -> Handle<B> {
        let refused = Reducer::typed(&reduction).err();
        let refused = refused.map(|what| invalid(Collective::ReduceScatter, what));
        let (op, user, scale) = reduction.facts();
        let verb = Verb::ReduceScatter(Operator::new(op, user, scale));
        self.submit(name, verb, Action::ReduceScatter(reduction), tensors, refused, pack)
    }

    fn submit<T: Element, B: Send + 'static>(
        &self,
        name: Arc<str>,
        verb: Verb,
        action: Action<T>,
        tensors: Vec<Vec<T>>,
        refused: Option<CollectiveError>,
        pack: Pack<T, B>,
    ) -> Handle<B> {
        let driver = &self.queue.driver;
        let (promise, handle) = promise(Some(driver));
        if let Some(source) = refused {
            let error = QueueError::Submit { name: name.to_string(), source: Box::new(source) };
            promise.complete(Err(Failed { error, buffer: Some(pack(tensors)) }));
            return handle;
        }
        let counts = match verb.shares_counts() {
            true => tensors.iter().map(|tensor| tensor.len() as u64).collect(),
            false => Vec::new(),
        };
        let request = Request::new(verb, T::DTYPE, counts, self.priority);
        let deliver = Box::new(move |tensors, outcome: Result<(), QueueError>| {
            let buffer = pack(tensors);
            promise.complete(match outcome {
                Ok(()) => Ok(buffer),
                Err(error) => Err(Failed { error, buffer: Some(buffer) }),
            });
        });
        let task = Box::new(TypedTask::new(action, tensors, deliver));
        driver.inbox().submit(name, request, task);
        handle
    }
}

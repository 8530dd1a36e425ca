//! Collective operations in the background, submitted in any order.
//!
//! A training framework produces gradients one after the other, each rank in its own order, and wants
//! to go on computing. It submits each under a name to a [`Queue`] and gets a [`Handle`], which gives
//! the buffer back when the operation is complete on this rank:
//!
//! ```
//! use paceline_collectives::queue::{Queue, QueueOptions};
//! use paceline_collectives::{Context, ReduceOp};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = Context::from_environment()?;
//! let queue = Queue::new(context.communicator()?, &QueueOptions::default())?;
//! let weights = queue.all_reduce("weights", vec![1.0f32; 1000], ReduceOp::Avg);
//! let bias = queue.priority(1).all_reduce("bias", vec![1.0f32; 10], ReduceOp::Avg);
//! // … compute …
//! let (weights, bias) = (weights.wait()?, bias.wait()?);
//! # assert_eq!((weights.len(), bias), (1000, vec![1.0; 10]));
//! # Ok(())
//! # }
//! ```
//!
//! # Rounds
//! The thread of each queue meets the others in rounds. In a round the ranks agree on what all of
//! them have submitted, and carry it out: by priority, equal priorities in an order that is the same
//! on all ranks, all-reduces of one type and operator fused. A tensor that all ranks have submitted
//! before has a number in the response cache, and a round costs one all-reduce of a few words. Only
//! what is new, or changed, is exchanged by name.
//!
//! There is no cycle to wait for: a round begins when every rank has news, and while one is carried
//! out the next submissions come together. A rank that waits for others sleeps in the round; one that
//! has submitted nothing sleeps outside, and looks every half second whether the others wait for
//! it. If each rank waits for a different one, rounds pause in between, for at most an eighth of the
//! time since something last happened, and never for more than 20 ms.
//!
//! # Determinism
//! A result has the bits of a blocking operation, whatever it is fused with and whenever it was
//! submitted; for worlds of more than 32 ranks see
//! [`all_reduce_fused`](Communicator::all_reduce_fused).
//!
//! # Failure
//! What ranks disagree on, or what some do not submit in time, fails alone, on every rank that
//! submitted it. When the communicator fails, everything fails with that cause. Buffers come back with
//! the error.
//!
//! # Thread safety
//! [`Queue`] and [`Handle`] are `Send + Sync`; any thread may submit.
//!
//! # Resource cleanup
//! Dropping a queue waits until what was submitted is complete or has failed, then tells the other
//! ranks, and ends its thread. What they submit, or wait for, after that fails.

mod cache;
mod decide;
mod error;
mod exchange;
mod handle;
mod hostile;
mod inbox;
mod neutral;
mod options;
mod request;
mod task;
mod trace;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use paceline_devices::Element;

pub use self::error::{Failed, QueueError};
pub use self::handle::{Handle, Outcome};
#[doc(hidden)]
pub use self::hostile::{announcements_to_change, check_announcement};
pub use self::options::{QueueOptions, Stall, StallHook};

use self::handle::promise;
use self::inbox::{Closing, Inbox};
use self::request::{Operator, Request, Verb};
use self::task::{Action, TypedTask};
use self::worker::Worker;
use crate::call::invalid;
use crate::communicator::Communicator;
use crate::error::CollectiveError;
use crate::reduction::{Reducer, Reduction};
use crate::signature::Collective;

/// Takes collective operations and carries them out in the background, on a thread of its own.
#[derive(Debug)]
pub struct Queue {
    rank: u32,
    world_size: u32,
    inbox: Arc<Inbox>,
    tally: Arc<Tally>,
    /// Present until it is dropped.
    thread: Option<JoinHandle<()>>,
}

/// Submits operations of one priority to a queue: made by [`Queue::priority`].
#[derive(Clone, Copy, Debug)]
pub struct Submitter<'q> {
    queue: &'q Queue,
    priority: i32,
}

/// What a queue has done so far, on this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueueCounts {
    /// Rounds: one small all-reduce each.
    pub rounds: u64,
    /// Rounds in which something was exchanged by name: two small all-gathers more.
    pub exchanges: u64,
    /// Operations carried out, however many tensors each was about.
    pub operations: u64,
    /// Submissions carried out; a group is one.
    pub submissions: u64,
}

#[derive(Debug, Default)]
struct Tally {
    rounds: AtomicU64,
    exchanges: AtomicU64,
    operations: AtomicU64,
    submissions: AtomicU64,
}

impl Tally {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Queue {
    /// A queue of the ranks of a communicator, which it takes over. All of them must make theirs,
    /// with equal options but for the hook.
    ///
    /// A queue waits in its communicator. Where that exchanges messages, blocking calls on other
    /// communicators of the same context share the connections with it, and may begin up to 20 ms
    /// later; a context of its own avoids that. In shared memory they do not meet.
    ///
    /// Ranks are those of the communicator; errors and reports name ranks of the world.
    ///
    /// # Errors
    /// [`QueueError::Thread`] if its thread cannot be started.
    pub fn new(communicator: Communicator, options: &QueueOptions) -> Result<Self, QueueError> {
        let (rank, world_size) = (communicator.rank(), communicator.world_size());
        let (inbox, tally) = (Arc::new(Inbox::default()), Arc::new(Tally::default()));
        let (shared, counted) = (Arc::clone(&inbox), Arc::clone(&tally));
        let worker = Worker::new(communicator, options.clone(), shared, counted);
        let thread = std::thread::Builder::new()
            .name("paceline-queue".to_owned())
            .spawn(move || worker.run())
            .map_err(|error| QueueError::Thread { message: error.to_string() })?;
        Ok(Self { rank, world_size, inbox, tally, thread: Some(thread) })
    }

    /// This process's number in the group, `0..world_size`.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> u32 {
        self.world_size
    }

    /// What the queue has done so far.
    pub fn counts(&self) -> QueueCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { rounds, exchanges, operations, submissions } = &*self.tally;
        QueueCounts {
            rounds: read(rounds),
            exchanges: read(exchanges),
            operations: read(operations),
            submissions: read(submissions),
        }
    }

    /// Submits with a priority: of what is ready, the highest goes first. Without, it is 0. All ranks
    /// must give a tensor the same.
    pub fn priority(&self, priority: i32) -> Submitter<'_> {
        Submitter { queue: self, priority }
    }

    /// Reduces the ranks' vectors of this name; see [`Communicator::all_reduce`].
    pub fn all_reduce<T: Element>(
        &self,
        name: impl Into<String>,
        data: Vec<T>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<T>> {
        self.priority(0).all_reduce(name, data, op)
    }

    /// Reduces several vectors of each rank as one: all of them when every rank has submitted them,
    /// or none.
    pub fn all_reduce_group<T: Element>(
        &self,
        name: impl Into<String>,
        tensors: Vec<Vec<T>>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<Vec<T>>> {
        self.priority(0).all_reduce_group(name, tensors, op)
    }

    /// Copies the root's vector to all ranks; see [`Communicator::broadcast`].
    pub fn broadcast<T: Element>(
        &self,
        name: impl Into<String>,
        data: Vec<T>,
        root: u32,
    ) -> Handle<Vec<T>> {
        self.priority(0).broadcast(name, data, root)
    }

    /// Collects the ranks' vectors, which have equal lengths, one behind the other in the order of
    /// ranks; see [`Communicator::all_gather`].
    pub fn all_gather<T: Element>(&self, name: impl Into<String>, data: Vec<T>) -> Handle<Vec<T>> {
        self.priority(0).all_gather(name, data)
    }

    /// Says that this rank has no more data, until all ranks have said so. Until then it takes part in
    /// what the others submit with elements that change nothing: zeros for sum and avg (an average
    /// is over all ranks all the same), the largest value for min, and so on.
    ///
    /// The handle completes with the rank that joined last. Then this rank may submit again.
    pub fn join(&self) -> Handle<u32> {
        let (promise, handle) = promise();
        self.inbox.join(promise);
        handle
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Who is panicking has no use for results.
        let now = std::thread::panicking();
        self.inbox.close(if now { Closing::Now } else { Closing::AfterWork });
        // A waker may drop the queue on the queue's own thread, which then ends by itself.
        let is_elsewhere =
            |thread: &JoinHandle<()>| thread.thread().id() != std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(is_elsewhere) {
            // Its panics are caught and reported through the handles.
            let _ = thread.join();
        }
    }
}

/// What a submission was, on its way to its handle.
type Pack<T, B> = fn(Vec<Vec<T>>) -> B;

fn only<T>(mut tensors: Vec<Vec<T>>) -> Vec<T> {
    tensors.pop().unwrap_or_default()
}

impl Submitter<'_> {
    /// As [`Queue::all_reduce`].
    pub fn all_reduce<T: Element>(
        &self,
        name: impl Into<String>,
        data: Vec<T>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<T>> {
        self.reduce(name.into(), vec![data], op.into(), only)
    }

    /// As [`Queue::all_reduce_group`].
    pub fn all_reduce_group<T: Element>(
        &self,
        name: impl Into<String>,
        tensors: Vec<Vec<T>>,
        op: impl Into<Reduction<T>>,
    ) -> Handle<Vec<Vec<T>>> {
        self.reduce(name.into(), tensors, op.into(), |tensors| tensors)
    }

    /// As [`Queue::broadcast`].
    pub fn broadcast<T: Element>(
        &self,
        name: impl Into<String>,
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
    pub fn all_gather<T: Element>(&self, name: impl Into<String>, data: Vec<T>) -> Handle<Vec<T>> {
        self.submit(name.into(), Verb::AllGather, Action::AllGather, vec![data], None, only)
    }

    fn reduce<T: Element, B: Send + 'static>(
        &self,
        name: String,
        tensors: Vec<Vec<T>>,
        reduction: Reduction<T>,
        pack: Pack<T, B>,
    ) -> Handle<B> {
        let refused = Reducer::typed(&reduction).err();
        let refused = refused.map(|what| invalid(Collective::AllReduce, what));
        let (op, user, scale) = reduction.facts();
        let verb = Verb::AllReduce(Operator::new(op, user, scale));
        self.submit(name, verb, Action::AllReduce(reduction), tensors, refused, pack)
    }

    fn submit<T: Element, B: Send + 'static>(
        &self,
        name: String,
        verb: Verb,
        action: Action<T>,
        tensors: Vec<Vec<T>>,
        refused: Option<CollectiveError>,
        pack: Pack<T, B>,
    ) -> Handle<B> {
        let (promise, handle) = promise();
        if let Some(source) = refused {
            let error = QueueError::Submit { name, source: Box::new(source) };
            promise.complete(Err(Failed { error, buffer: Some(pack(tensors)) }));
            return handle;
        }
        let counts = tensors.iter().map(|tensor| tensor.len() as u64).collect();
        let request = Request::new(verb, T::DTYPE, counts, self.priority);
        let deliver = Box::new(move |tensors, outcome: Result<(), QueueError>| {
            let buffer = pack(tensors);
            promise.complete(match outcome {
                Ok(()) => Ok(buffer),
                Err(error) => Err(Failed { error, buffer: Some(buffer) }),
            });
        });
        let task = Box::new(TypedTask::new(action, tensors, deliver));
        self.queue.inbox.submit(name, request, task);
        handle
    }
}

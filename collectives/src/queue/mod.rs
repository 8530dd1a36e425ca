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
//! The queues of all ranks meet in rounds. In a round the ranks agree on what all of
//! them have submitted, and carry it out: by priority, equal priorities in an order that is the same
//! on all ranks, all-reduces of one type and operator fused. A tensor that all ranks have submitted
//! before has a number in the response cache, and a round costs one all-reduce of a few words. Only
//! what is new, or changed, is exchanged by name.
//!
//! There is no cycle to wait for: a round begins when every rank has news, and while one is carried
//! out the next submissions come together. Nor does another thread wake for a lone operation whose handle
//! is waited for at once: a thread that [waits](Handle::wait) does the work meanwhile.
//!
//! A rank that waits for others sleeps in the round; one that has submitted nothing sleeps outside, and
//! looks every half second whether the others wait for it. If each rank waits for a different one,
//! rounds pause in between, for at most an eighth of the time since something last happened, and never
//! for more than 20 ms.
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
mod carry;
mod decide;
mod driver;
mod error;
mod exchange;
mod handle;
#[cfg(feature = "testing")]
mod hostile;
mod inbox;
mod neutral;
mod options;
mod report;
mod request;
mod submit;
mod task;
mod trace;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

pub use self::error::{Failed, QueueError};
pub use self::handle::{Handle, Outcome};
#[cfg(feature = "testing")]
pub use self::hostile::{announcements_to_change, check_announcement};
pub use self::options::{QueueOptions, Stall, StallHook};
pub use self::submit::Submitter;

use self::driver::Driver;
use self::inbox::Closing;
use self::worker::Worker;
use crate::communicator::Communicator;

/// Takes collective operations and carries them out in the background, on a thread of its own.
#[derive(Debug)]
pub struct Queue {
    rank: u32,
    world_size: u32,
    driver: Arc<Driver>,
    tally: Arc<Tally>,
    /// Present until it is dropped.
    thread: Option<JoinHandle<()>>,
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
        let tally = Arc::new(Tally::default());
        let worker = Worker::new(communicator, options.clone(), Arc::clone(&tally));
        let driver = Arc::new(Driver::new(worker));
        let driven = Arc::clone(&driver);
        let thread = std::thread::Builder::new()
            .name("paceline-queue".to_owned())
            .spawn(move || driven.run())
            .map_err(|error| QueueError::Thread { message: error.to_string() })?;
        Ok(Self { rank, world_size, driver, tally, thread: Some(thread) })
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
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Who is panicking has no use for results.
        let now = std::thread::panicking();
        let inbox = self.driver.inbox();
        inbox.close(if now { Closing::Now } else { Closing::AfterWork });
        // A waker may drop the queue in the middle of a turn: then the queue's thread ends by itself.
        if let Some(thread) = self.thread.take().filter(|_| !inbox.is_my_turn()) {
            // Its panics are caught and reported through the handles.
            let _ = thread.join();
        }
    }
}

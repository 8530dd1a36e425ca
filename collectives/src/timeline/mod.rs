//! What happens when, as a file that Perfetto and Chrome show.
//!
//! All ranks of a job append to one file. A line is one event, a write is whole lines at the end of
//! the file, which the kernel keeps apart on a local file system; so nobody merges anything, and what
//! a killed job has left can be read. Times are those of one clock on each host, see [`clock`].
//!
//! Recording an event costs a look at the clock and a short lock; nothing is allocated. A thread
//! formats and writes what has been recorded.
//!
//! # Invariants
//! - T-1: at most [`EVENTS_MAX`] events wait to be written; what does not fit is dropped, counted, and
//!   said in the file where it would have been.
//! - T-2: recording never waits for the file.
//! - T-3: events on one track are nested or apart, never half over each other. Each place that
//!   records sees to that for its tracks.

mod clock;
mod file;
mod format;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use file::create;

use clock::Clock;
use file::Writer;

/// Events that may wait to be written: 5 MiB of memory, which 100 ms at 300000 events per second
/// fill.
const EVENTS_MAX: usize = 1 << 15;

/// The file is written at least so often while there is something to write.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);

/// Names that are kept; events of further ones go without.
const NAMES_MAX: usize = 1 << 16;

/// Where an event is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Track {
    /// The operations of a communicator, and their waiting.
    Communicator(u32),
    /// The rounds of the queue over a communicator.
    Queue(u32),
    /// What is sent to a peer, or comes from it.
    Channel {
        /// The rank, in the world.
        peer: u32,
        /// Whether to it.
        sends: bool,
    },
    /// Reductions and copies of a communicator's operations.
    Kernels(u32),
}

/// The name of an operation, as messages show it: `all_reduce #412`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OperationLabel {
    pub(crate) collective: &'static str,
    pub(crate) communicator: u32,
    pub(crate) op_seq: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// An operation, from its call to its return.
    Operation { label: OperationLabel, bytes: u64, algorithm: &'static str, failed: bool },
    /// Nothing moved.
    Wait,
    /// A message was the next one on its channel.
    Message { label: OperationLabel, bytes: u64 },
    /// A step in memory that the ranks of a node share: something was copied or combined.
    InMemory { label: OperationLabel },
    /// Elements were combined.
    Kernel { label: OperationLabel, bytes: u64 },
    /// A round of a queue: ranks told each other what is ready.
    Negotiate { round: u64, ready: u32 },
    /// A queue carried out some submissions as one operation.
    Batch { round: u64, submissions: u32 },
    /// A submission to a queue, from when the queue took it until it was done. It waited until all
    /// ranks had it, and was carried out from `started` on.
    Submission { name: NameId, started: Instant },
}

/// A name that the timeline knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameId(u32);

/// What is written for a name beyond [`NAMES_MAX`].
const UNNAMED: NameId = NameId(u32::MAX);

#[derive(Clone, Copy, Debug)]
struct Event {
    track: Track,
    start: Instant,
    end: Instant,
    what: What,
}

/// The timeline of one context of one rank.
#[derive(Debug)]
pub(crate) struct Timeline {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    recorded: Mutex<Recorded>,
    changed: Condvar,
}

#[derive(Debug)]
struct Recorded {
    events: Vec<Event>,
    dropped: u64,
    names: HashMap<Arc<str>, NameId>,
    /// Those that the writer does not know yet.
    new_names: Vec<Arc<str>>,
    ended: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who writes the timeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) rank: u32,
    pub(crate) context: u32,
    pub(crate) transport: &'a str,
}

impl Timeline {
    /// Opens a file that [`create`] has made, and starts the thread that writes to it.
    pub(crate) fn open(path: &Path, place: Place<'_>) -> io::Result<Self> {
        let (file, origin) = file::open(path)?;
        let clock = Clock::new(&origin);
        let recorded = Recorded {
            events: Vec::with_capacity(EVENTS_MAX),
            dropped: 0,
            names: HashMap::new(),
            new_names: Vec::new(),
            ended: false,
        };
        let shared = Arc::new(Shared { recorded: Mutex::new(recorded), changed: Condvar::new() });
        let writer = Writer::new(file, clock, place);
        let write = {
            let shared = Arc::clone(&shared);
            move || drain(&shared, writer)
        };
        let name = "paceline-timeline".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(write)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Records what happened from `start` until now. Returns when that is.
    pub(crate) fn record(&self, track: Track, start: Instant, what: What) -> Instant {
        let end = Instant::now();
        self.record_until(track, start, end, what);
        end
    }

    /// Records what happened from `start` to `end`.
    pub(crate) fn record_until(&self, track: Track, start: Instant, end: Instant, what: What) {
        let mut recorded = self.shared.lock();
        if recorded.events.len() == EVENTS_MAX {
            recorded.dropped += 1;
            return;
        }
        recorded.events.push(Event { track, start, end, what });
        if recorded.events.len() == EVENTS_MAX / 2 {
            self.shared.changed.notify_one();
        }
    }

    /// The number that stands for a name. The first use of a name allocates.
    pub(crate) fn name(&self, name: &Arc<str>) -> NameId {
        let mut recorded = self.shared.lock();
        if let Some(known) = recorded.names.get(name) {
            return *known;
        }
        let Some(number) = u32::try_from(recorded.names.len()).ok() else { return UNNAMED };
        if recorded.names.len() >= NAMES_MAX {
            return UNNAMED;
        }
        recorded.names.insert(Arc::clone(name), NameId(number));
        recorded.new_names.push(Arc::clone(name));
        NameId(number)
    }
}

impl Drop for Timeline {
    /// Writes what has been recorded.
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed, and there is nobody else to tell it to.
            let _ = thread.join();
        }
    }
}

/// Writes until the timeline is dropped or the file cannot be written to.
fn drain(shared: &Shared, mut writer: Writer) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        let (dropped, names, ended) = {
            let recorded = shared.lock();
            let waits =
                |recorded: &mut Recorded| !recorded.ended && recorded.events.len() < EVENTS_MAX / 2;
            let waited = shared.changed.wait_timeout_while(recorded, WRITE_INTERVAL, waits);
            let mut recorded = waited.unwrap_or_else(PoisonError::into_inner).0;
            std::mem::swap(&mut recorded.events, &mut events);
            let dropped = std::mem::take(&mut recorded.dropped);
            (dropped, std::mem::take(&mut recorded.new_names), recorded.ended)
        };
        // A timeline that cannot be written is no reason to stop the job; what is recorded from now
        // on is dropped.
        let written = writer.write(&events, &names, dropped);
        events.clear();
        if ended || written.is_err() {
            return;
        }
    }
}

//! MPI in this process. A process has one, whatever we think of globals: it is started once, by the
//! first who needs it, and ended when the process exits.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::mpi::environment::{self, Threading};
use ::mpi::ffi;

use super::calls::{Calls, Channel, MpiError, check};
use super::closing::Closing;

/// How long the end of the process waits for streams that are closed here but not at the other end.
const CLOSING_LIMIT: Duration = Duration::from_secs(1);

/// First and last pause between two looks at streams that are being closed.
const CLOSING_PAUSES: (Duration, Duration) =
    (Duration::from_micros(200), Duration::from_millis(20));

/// How long the end of the process waits for another thread to leave MPI.
const LEAVING_LIMIT: Duration = Duration::from_secs(1);

/// The processes that MPI's launcher started together.
#[derive(Debug)]
pub struct World {
    channel: Channel,
    rank: u32,
    size: u32,
    id: u64,
    next_tag: AtomicI32,
    tag_max: i32,
    calls: Mutex<Calls>,
    /// Streams are being closed. Changed only by who may call MPI.
    is_closing: AtomicBool,
    /// The process that has started MPI.
    process: u32,
}

/// How far MPI is in this process.
#[derive(Debug)]
enum Phase {
    Idle,
    Starting,
    Ready(&'static World),
    Failed(String),
    /// The process exits.
    Ending(&'static World),
    Ended,
}

static PHASE: Mutex<Phase> = Mutex::new(Phase::Idle);
static CHANGED: Condvar = Condvar::new();

fn phase() -> MutexGuard<'static, Phase> {
    PHASE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter_phase(next: Phase) {
    *phase() = next;
    CHANGED.notify_all();
}

impl World {
    /// Starts MPI, unless it is started already. That takes all processes of the world, and MPI has
    /// no deadline for it: a thread of its own waits for them, and this one until `deadline`.
    ///
    /// # Errors
    /// Why MPI cannot be used, in words.
    pub fn join(deadline: Instant) -> Result<&'static Self, String> {
        let mut now = phase();
        loop {
            match &*now {
                Phase::Ready(world) => return Ok(world),
                Phase::Failed(reason) => return Err(reason.clone()),
                Phase::Ending(_) | Phase::Ended => return Err("the process is ending".to_owned()),
                Phase::Idle => {
                    *now = Phase::Starting;
                    let thread = std::thread::Builder::new().name("mpi".to_owned());
                    if let Err(error) = thread.spawn(live) {
                        *now = Phase::Idle;
                        return Err(format!("no thread for MPI: {error}"));
                    }
                }
                Phase::Starting => {
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    if remaining.is_zero() {
                        return Err("MPI_Init did not end in time: it waits for the other \
                                    processes of its world"
                            .to_owned());
                    }
                    let waited = CHANGED.wait_timeout(now, remaining);
                    now = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// This process's rank in `MPI_COMM_WORLD`.
    pub const fn rank(&self) -> u32 {
        self.rank
    }

    /// The size of `MPI_COMM_WORLD`.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// A communicator of our own of all processes of the world, for whoever holds what
    /// [`enter`](Self::enter) returns. Its errors are returned.
    pub const fn communicator(&self) -> ffi::MPI_Comm {
        self.channel.communicator
    }

    /// The right to call MPI, until it is dropped; `None` when MPI has ended.
    pub fn enter(&self) -> Option<MutexGuard<'_, Calls>> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        (!calls.ended).then_some(calls)
    }

    pub(super) const fn channel(&self) -> Channel {
        self.channel
    }

    /// Closes a stream, now or by and by.
    pub(super) fn close(&self, mut stream: Closing) {
        let Some(mut calls) = self.enter() else { return stream.leak() };
        if !stream.advance(&mut calls) {
            calls.closing.push(stream);
            self.is_closing.store(true, Ordering::Release);
            drop(calls);
            // With the lock: whoever has just found that there is nothing to do sleeps by now.
            drop(phase());
            CHANGED.notify_all();
        }
    }

    /// Goes on closing. Returns whether there is more to do.
    fn tend(&self) -> bool {
        let Some(mut calls) = self.enter().filter(|_| !environment::is_finalized()) else {
            return false;
        };
        calls.tend();
        let more = !calls.closing.is_empty();
        self.is_closing.store(more, Ordering::Release);
        more
    }

    /// The number that tells this world from others.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// A tag that this process has not received with yet; `None` when there is no more.
    pub(super) fn take_tag(&self) -> Option<i32> {
        let order = Ordering::Relaxed;
        let next = |tag: i32| (tag < self.tag_max).then_some(tag + 1);
        self.next_tag.fetch_update(order, order, next).ok()
    }

    /// Nobody may call MPI any more; streams that are being closed have some time left. Returns
    /// whether that could be had.
    fn end(&self) -> bool {
        let until = Instant::now() + CLOSING_LIMIT;
        loop {
            let Some(mut calls) = self.try_enter() else { return false };
            calls.tend();
            if calls.closing.is_empty() || Instant::now() >= until {
                calls.ended = true;
                calls.closing.drain(..).for_each(|mut stream| stream.leak());
                return true;
            }
            drop(calls);
            std::thread::yield_now();
        }
    }

    fn try_enter(&self) -> Option<MutexGuard<'_, Calls>> {
        let until = Instant::now() + LEAVING_LIMIT;
        loop {
            match self.calls.try_lock() {
                Ok(calls) => return Some(calls),
                Err(_) if Instant::now() >= until => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// The thread of MPI: starts it, and ends it when the process exits, as MPI asks that the same
/// thread does both.
fn live() {
    let is_ours = !environment::is_initialized();
    match start(is_ours) {
        Ok(world) => {
            // SAFETY: `at_exit` may be called at any time, and never unwinds.
            if is_ours && unsafe { libc::atexit(at_exit) } != 0 {
                enter_phase(Phase::Failed("no room for what must happen at exit".to_owned()));
                return;
            }
            enter_phase(Phase::Ready(Box::leak(Box::new(world))));
        }
        Err(reason) => {
            enter_phase(Phase::Failed(reason));
            return;
        }
    }
    let world = close_until_the_end();
    if world.end() {
        // SAFETY: this thread has started MPI, and nobody calls it any more.
        unsafe { ffi::MPI_Finalize() };
    }
    enter_phase(Phase::Ended);
}

/// Sleeps until the process exits, and closes streams meanwhile.
fn close_until_the_end() -> &'static World {
    let mut pause = CLOSING_PAUSES.0;
    let mut now = phase();
    loop {
        let world = match &*now {
            Phase::Ending(world) => return world,
            Phase::Ready(world) => *world,
            other => unreachable!("MPI is ready, not {other:?}"),
        };
        // Looked at with the lock, which whoever closes a stream takes before it wakes us.
        now = if world.is_closing.load(Ordering::Acquire) {
            CHANGED.wait_timeout(now, pause).unwrap_or_else(PoisonError::into_inner).0
        } else {
            CHANGED.wait(now).unwrap_or_else(PoisonError::into_inner)
        };
        if world.is_closing.load(Ordering::Acquire) {
            drop(now);
            pause = if world.tend() { (pause * 2).min(CLOSING_PAUSES.1) } else { CLOSING_PAUSES.0 };
            now = phase();
        }
    }
}

/// Ends MPI before the process does, without which its launcher takes the process for a failed one.
/// It waits for the other processes of the world, as every program that uses MPI does.
extern "C" fn at_exit() {
    let mut now = phase();
    let Phase::Ready(world) = &*now else { return };
    if world.process != std::process::id() {
        // A copy of the process, without its threads.
        return;
    }
    *now = Phase::Ending(world);
    CHANGED.notify_all();
    while !matches!(*now, Phase::Ended) {
        now = CHANGED.wait(now).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Everything that takes all processes of the world.
fn start(is_ours: bool) -> Result<World, String> {
    if environment::is_finalized() {
        return Err("the program has called MPI_Finalize".to_owned());
    }
    if is_ours {
        let started = environment::initialize_with_threading(Threading::Serialized);
        let Some((universe, threading)) = started else {
            return Err("MPI was started by somebody else just now".to_owned());
        };
        // It would end MPI when it is dropped.
        std::mem::forget(universe);
        if threading < Threading::Serialized {
            return Err("this MPI was built without support for threads".to_owned());
        }
    } else if environment::threading_support() < Threading::Multiple {
        return Err(
            "the program has started MPI without MPI_THREAD_MULTIPLE, so that only it may \
                    call MPI"
                .to_owned(),
        );
    }
    world().map_err(|error| error.to_string())
}

fn world() -> Result<World, MpiError> {
    let mut communicator = MaybeUninit::uninit();
    // SAFETY: MPI is started; `MPI_COMM_WORLD` is a constant of its library.
    let code = unsafe { ffi::MPI_Comm_dup(ffi::RSMPI_COMM_WORLD, communicator.as_mut_ptr()) };
    check("MPI_Comm_dup", code)?;
    // SAFETY: set, since there is no error.
    let communicator = unsafe { communicator.assume_init() };
    // SAFETY: a communicator of ours and a constant of the library.
    let code = unsafe { ffi::MPI_Comm_set_errhandler(communicator, ffi::RSMPI_ERRORS_RETURN) };
    check("MPI_Comm_set_errhandler", code)?;
    let (mut rank, mut size): (c_int, c_int) = (0, 0);
    // SAFETY: a communicator of ours.
    check("MPI_Comm_rank", unsafe { ffi::MPI_Comm_rank(communicator, &raw mut rank) })?;
    // SAFETY: a communicator of ours.
    check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(communicator, &raw mut size) })?;
    // SAFETY: a constant of the library.
    let channel = Channel { communicator, bytes: unsafe { ffi::RSMPI_UINT8_T } };
    let mut id = if rank == 0 { draw() } else { [0; 8] };
    let at: *mut c_void = id.as_mut_ptr().cast();
    // SAFETY: eight bytes that this thread owns.
    check("MPI_Bcast", unsafe { ffi::MPI_Bcast(at, 8, channel.bytes, 0, communicator) })?;
    let number = |n: c_int| u32::try_from(n).expect("ranks and sizes are not negative");
    Ok(World {
        channel,
        rank: number(rank),
        size: number(size),
        id: u64::from_le_bytes(id),
        next_tag: AtomicI32::new(0),
        tag_max: tag_max(communicator)?,
        calls: Mutex::new(Calls { ended: false, closing: Vec::new() }),
        is_closing: AtomicBool::new(false),
        process: std::process::id(),
    })
}

/// Eight bytes that no other world has drawn. They keep nobody out, so that time and process are
/// good enough where the system has no random numbers.
fn draw() -> [u8; 8] {
    let random = paceline_rendezvous::RunId::random();
    let bytes = random.map_or([0; 16], |run_id| *run_id.as_bytes());
    let mut id = [0; 8];
    id.copy_from_slice(&bytes[..8]);
    id
}

/// What MPI guarantees at least.
const TAGS_MIN: i32 = 32_767;

fn tag_max(communicator: ffi::MPI_Comm) -> Result<i32, MpiError> {
    let mut value: *const c_int = std::ptr::null();
    let mut is_set = 0;
    let place: *mut c_void = (&raw mut value).cast();
    let key = c_int::try_from(ffi::MPI_TAG_UB).expect("keys are small numbers");
    // SAFETY: for this key the value is the address of an integer, stored to `place`.
    let code = unsafe { ffi::MPI_Comm_get_attr(communicator, key, place, &raw mut is_set) };
    check("MPI_Comm_get_attr", code)?;
    if is_set == 0 || value.is_null() {
        return Ok(TAGS_MIN);
    }
    // SAFETY: MPI stores the address of an integer that lives as long as the library.
    Ok(unsafe { *value })
}

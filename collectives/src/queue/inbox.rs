//! Where submissions wait, and who takes care of them.
//!
//! 1. At most one thread has the turn: that of the queue, or one that waits for a handle.
//! 2. What has come is taken by who has the turn, at its beginning.
//! 3. Whatever is not complete has somebody: who has the turn, a caller who waits for it, or the thread
//!    of the queue, which was woken or wakes by itself in time.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::error::{Failed, QueueError};
use super::handle::Promise;
use super::request::Request;
use super::task::Task;

/// How often ranks with nothing to do ask the others whether they wait.
pub(super) const IDLE_LOOK: Duration = Duration::from_millis(500);

/// How often the queue's thread looks whether somebody else has taken care, while others do that: what
/// a submission may have to wait that was expected to be waited for at once.
const WATCH: Duration = Duration::from_millis(2);

pub(super) struct Submission {
    pub(super) name: Arc<str>,
    pub(super) request: Arc<Request>,
    pub(super) task: Box<dyn Task>,
}

/// What has come since the last look.
#[derive(Default)]
pub(super) struct News {
    pub(super) submissions: Vec<Submission>,
    pub(super) join: Option<Promise<u32>>,
    pub(super) closing: Option<Closing>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.submissions.is_empty() && self.join.is_none() && self.closing.is_none()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// When everything that was submitted here is complete.
    AfterWork,
    /// In the next round.
    Now,
}

/// What a caller who waits for a handle has to do.
pub(super) enum Help {
    /// To take the turn.
    Turn(News),
    /// To look whether the handle is complete.
    Look,
    /// Nothing: the queue has ended.
    Ended,
}

pub(super) struct Inbox {
    state: Mutex<State>,
    /// Wakes the queue's thread.
    changed: Condvar,
    /// Wakes callers who wait for a turn to end.
    turn_ended: Condvar,
}

struct State {
    news: News,
    /// What is under way.
    names: HashSet<Arc<str>>,
    has_joined: bool,
    ended: Option<QueueError>,
    /// Who has the turn.
    turn_of: Option<ThreadId>,
    /// When the next turn is due without news.
    next_turn: Instant,
    /// That is sooner than where nothing is under way.
    is_due_soon: bool,
    /// Callers who wait for handles, and how many of them sleep.
    callers: usize,
    sleeping_callers: usize,
    /// Turns that callers have taken.
    callers_turns: u64,
    /// The queue's thread wakes soon, whether it is woken or not.
    is_watched: bool,
}

impl State {
    fn is_work_left(&self) -> bool {
        let is_under_way = !self.names.is_empty() || self.has_joined;
        !self.news.is_empty() || is_under_way || self.is_due_soon
    }
}

impl Inbox {
    pub(super) fn new() -> Self {
        let state = State {
            news: News::default(),
            names: HashSet::new(),
            has_joined: false,
            ended: None,
            turn_of: None,
            next_turn: Instant::now() + IDLE_LOOK,
            is_due_soon: false,
            callers: 0,
            sleeping_callers: 0,
            callers_turns: 0,
            is_watched: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), turn_ended: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a submission, or completes it with an error.
    pub(super) fn submit(&self, name: Arc<str>, request: Request, task: Box<dyn Task>) {
        let mut state = self.state();
        let refused = if let Some(error) = &state.ended {
            Some(error.clone())
        } else if state.has_joined {
            Some(QueueError::Joined { name: name.to_string() })
        } else if state.names.contains(&*name) {
            Some(QueueError::Duplicate { name: name.to_string() })
        } else {
            None
        };
        if let Some(error) = refused {
            drop(state);
            return task.finish(Err(error));
        }
        // Where callers take care of their own they need not wake anybody.
        let is_alone = state.news.is_empty() && state.names.is_empty();
        let wakes = !(state.is_watched && is_alone);
        state.names.insert(Arc::clone(&name));
        state.news.submissions.push(Submission { name, request: Arc::new(request), task });
        self.tell(state, wakes);
    }

    /// Tells of news: callers who have paused, or else the queue's thread if it needs to know.
    fn tell(&self, state: MutexGuard<'_, State>, wakes_thread: bool) {
        let wakes_callers = state.turn_of.is_none() && state.sleeping_callers > 0;
        drop(state);
        if wakes_callers {
            self.turn_ended.notify_all();
        } else if wakes_thread {
            self.changed.notify_one();
        }
    }

    pub(super) fn join(&self, promise: Promise<u32>) {
        let mut state = self.state();
        let refused = match &state.ended {
            Some(error) => Some(error.clone()),
            None => state.has_joined.then(|| QueueError::Joined { name: "join".to_owned() }),
        };
        match refused {
            Some(error) => {
                drop(state);
                promise.complete(Err(Failed { error, buffer: None }));
            }
            None => {
                state.has_joined = true;
                state.news.join = Some(promise);
                self.tell(state, true);
            }
        }
    }

    pub(super) fn close(&self, closing: Closing) {
        let mut state = self.state();
        state.news.closing = Some(closing);
        self.tell(state, true);
    }

    /// Sleeps until the queue's thread has the turn; `None` when there are no more.
    pub(super) fn wait_for_turn(&self) -> Option<News> {
        let mut state = self.state();
        let mut seen = state.callers_turns;
        loop {
            if state.ended.is_some() {
                return None;
            }
            let now = Instant::now();
            let is_due = !state.news.is_empty() || now >= state.next_turn;
            // Callers who wait do the work; if none of them gets to it, this thread does.
            let is_left = state.callers == 0 || now >= state.next_turn + WATCH;
            if state.turn_of.is_none() && is_due && is_left {
                return Some(Self::begin(&mut state));
            }
            // Who has the turn wakes this thread, if anything is left and nobody else is there.
            let due = match (state.turn_of, state.callers) {
                (Some(_), _) => IDLE_LOOK,
                (None, 0) => state.next_turn - now,
                (None, _) => state.next_turn + WATCH - now,
            };
            state.is_watched = state.callers_turns != seen;
            seen = state.callers_turns;
            let limit = if state.is_watched { due.min(WATCH) } else { due };
            let waited = self.changed.wait_timeout(state, limit);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.is_watched = false;
        }
    }

    /// A caller begins, or ends, to wait for a handle. What it leaves is the thread's.
    pub(super) fn count_caller(&self, is_there: bool) {
        let mut state = self.state();
        if is_there {
            state.callers += 1;
            return;
        }
        state.callers -= 1;
        let wakes = state.callers == 0 && state.is_work_left() && !state.is_watched;
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
    }

    /// Has the turn, as soon as nobody has it and it is due; returns before, when somebody's turn has
    /// ended. For callers who are counted.
    pub(super) fn help(&self) -> Help {
        let mut state = self.state();
        if state.ended.is_some() {
            return Help::Ended;
        }
        let now = Instant::now();
        let is_due = !state.news.is_empty() || now >= state.next_turn;
        if state.turn_of.is_none() && is_due {
            state.callers_turns += 1;
            return Help::Turn(Self::begin(&mut state));
        }
        let limit = if state.turn_of.is_some() { IDLE_LOOK } else { state.next_turn - now };
        state.sleeping_callers += 1;
        let waited = self.turn_ended.wait_timeout(state, limit);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.sleeping_callers -= 1;
        Help::Look
    }

    fn begin(state: &mut State) -> News {
        state.turn_of = Some(thread::current().id());
        std::mem::take(&mut state.news)
    }

    /// Ends a turn. The next one is due in `pause`, or when there is news.
    pub(super) fn end_turn(&self, pause: Duration) {
        let mut state = self.state();
        state.turn_of = None;
        state.next_turn = Instant::now() + pause;
        state.is_due_soon = pause < IDLE_LOOK;
        let has_sleepers = state.sleeping_callers > 0;
        let wakes = state.callers == 0 && state.is_work_left();
        drop(state);
        if has_sleepers {
            self.turn_ended.notify_all();
        }
        if wakes {
            self.changed.notify_one();
        }
    }

    /// More that has come during a turn.
    pub(super) fn more(&self) -> News {
        std::mem::take(&mut self.state().news)
    }

    /// Whether this thread has the turn.
    pub(super) fn is_my_turn(&self) -> bool {
        self.state().turn_of == Some(thread::current().id())
    }

    /// Lets names be used again. Comes before the handles are completed.
    pub(super) fn release<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) {
        let mut state = self.state();
        for name in names {
            state.names.remove(name);
        }
    }

    /// Lets this rank submit again, and join again.
    pub(super) fn release_join(&self) {
        self.state().has_joined = false;
    }

    /// Nothing is taken any more, and what was is given back with the error. There are no more turns.
    pub(super) fn end(&self, error: &QueueError) {
        let mut state = self.state();
        state.ended = Some(error.clone());
        state.names.clear();
        state.turn_of = None;
        let news = std::mem::take(&mut state.news);
        drop(state);
        self.changed.notify_all();
        self.turn_ended.notify_all();
        for submission in news.submissions {
            submission.task.finish(Err(error.clone()));
        }
        if let Some(promise) = news.join {
            promise.complete(Err(Failed { error: error.clone(), buffer: None }));
        }
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

//! Where submissions wait for the thread of the queue.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Failed, QueueError};
use super::handle::Promise;
use super::request::Request;
use super::task::Task;

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

#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    news: News,
    /// What is under way.
    names: HashSet<Arc<str>>,
    has_joined: bool,
    ended: Option<QueueError>,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a submission, or completes it with an error.
    pub(super) fn submit(&self, name: String, request: Request, task: Box<dyn Task>) {
        let mut state = self.state();
        let refused = if let Some(error) = &state.ended {
            Some(error.clone())
        } else if state.has_joined {
            Some(QueueError::Joined { name: name.clone() })
        } else if state.names.contains(&*name) {
            Some(QueueError::Duplicate { name: name.clone() })
        } else {
            None
        };
        if let Some(error) = refused {
            drop(state);
            return task.finish(Err(error));
        }
        let name: Arc<str> = Arc::from(name);
        state.names.insert(Arc::clone(&name));
        state.news.submissions.push(Submission { name, request: Arc::new(request), task });
        drop(state);
        self.changed.notify_one();
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
                drop(state);
                self.changed.notify_one();
            }
        }
    }

    pub(super) fn close(&self, closing: Closing) {
        self.state().news.closing = Some(closing);
        self.changed.notify_one();
    }

    /// Sleeps until there is news, but not longer than `limit`.
    pub(super) fn wait(&self, limit: Duration) -> News {
        let start = Instant::now();
        let mut state = self.state();
        while state.news.is_empty() {
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                break;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut state.news)
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

    /// Nothing is taken any more, and what was is given back with the error.
    pub(super) fn end(&self, error: &QueueError) {
        let mut state = self.state();
        state.ended = Some(error.clone());
        state.names.clear();
        let news = std::mem::take(&mut state.news);
        drop(state);
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

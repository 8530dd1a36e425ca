//! What a submission returns: the place where its result will be.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::error::{Failed, QueueError};

/// What becomes of a submission.
pub type Outcome<B> = Result<B, Failed<B>>;

/// An operation under way, and its result once it is complete.
///
/// It is also a [`Future`], of any executor. Dropping it changes nothing: the operation is carried
/// out all the same, as the other ranks rely on.
#[must_use = "the result, and the buffer, come through the handle"]
pub struct Handle<B> {
    shared: Arc<Shared<B>>,
    /// Who can be helped along while waiting.
    driver: Option<Arc<Driver>>,
}

struct Shared<B> {
    state: Mutex<State<B>>,
    complete: Condvar,
}

struct State<B> {
    outcome: Option<Outcome<B>>,
    waker: Option<Waker>,
    /// Somebody sleeps until it is complete: waking nobody costs a system call, too.
    has_sleeper: bool,
}

/// The other end of a handle. It completes the handle once; dropped without, with an error.
pub(super) struct Promise<B>(Option<Arc<Shared<B>>>);

/// A handle and its promise, which is kept by `driver`.
pub(super) fn promise<B>(driver: Option<&Arc<Driver>>) -> (Promise<B>, Handle<B>) {
    let state = Mutex::new(State { outcome: None, waker: None, has_sleeper: false });
    let shared = Arc::new(Shared { state, complete: Condvar::new() });
    (Promise(Some(Arc::clone(&shared))), Handle { shared, driver: driver.cloned() })
}

impl<B> Shared<B> {
    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, outcome: Outcome<B>) {
        let mut state = self.state();
        state.outcome = Some(outcome);
        let (waker, has_sleeper) = (state.waker.take(), state.has_sleeper);
        drop(state);
        if has_sleeper {
            self.complete.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<B> Promise<B> {
    pub(super) fn complete(mut self, outcome: Outcome<B>) {
        if let Some(shared) = self.0.take() {
            shared.complete(outcome);
        }
    }
}

impl<B> Drop for Promise<B> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            let message = "an operation was lost".to_owned();
            let error = QueueError::Panicked { message };
            shared.complete(Err(Failed { error, buffer: None }));
        }
    }
}

impl<B> Handle<B> {
    /// Whether the result is there, so that [`wait`](Self::wait) returns at once.
    #[doc(alias = "poll")]
    pub fn is_complete(&self) -> bool {
        self.shared.state().outcome.is_some()
    }

    /// Waits for the result. It comes within the deadlines of the [queue](super::QueueOptions).
    ///
    /// Meanwhile this thread does the work of the queue, also that for other handles; operators of the
    /// user's and wakers may be called on it. It returns after the operation that completes the handle.
    ///
    /// # Errors
    /// [`Failed`] with the cause and the buffer.
    #[doc(alias = "synchronize")]
    pub fn wait(self) -> Outcome<B> {
        if let Some(driver) = &self.driver {
            driver.help_until(|| self.is_complete());
        }
        let mut state = self.shared.state();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            state.has_sleeper = true;
            state = self.shared.complete.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for the result, but not longer than `limit`. It does nothing for the queue meanwhile.
    ///
    /// # Errors
    /// The handle, if the result is not there yet.
    pub fn wait_timeout(self, limit: Duration) -> Result<Outcome<B>, Self> {
        let start = Instant::now();
        let mut state = self.shared.state();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return Ok(outcome);
            }
            let Some(left) = limit.checked_sub(start.elapsed()) else {
                drop(state);
                return Err(self);
            };
            state.has_sleeper = true;
            let waited = self.shared.complete.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<B> Future for Handle<B> {
    type Output = Outcome<B>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<B>> {
        let mut state = self.shared.state();
        match state.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<B> fmt::Debug for Handle<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("is_complete", &self.is_complete()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_future_is_woken_when_the_result_is_there() {
        let (promise, mut handle) = promise::<u32>(None);
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut handle).poll(&mut context).is_pending());
        promise.complete(Ok(7));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(matches!(Pin::new(&mut handle).poll(&mut context), Poll::Ready(Ok(7))));
    }

    #[test]
    fn a_wait_with_a_limit_gives_the_handle_back() {
        let (promise, handle) = promise::<u32>(None);
        let handle = handle.wait_timeout(Duration::ZERO).unwrap_err();
        assert!(!handle.is_complete());
        promise.complete(Ok(7));
        assert!(matches!(handle.wait_timeout(Duration::ZERO), Ok(Ok(7))));
    }

    #[test]
    fn a_lost_promise_is_an_error_and_no_hang() {
        let (promise, handle) = promise::<u32>(None);
        drop(promise);
        assert!(matches!(handle.wait().unwrap_err().error, QueueError::Panicked { .. }));
    }
}

//! Sends what was held back.
//!
//! A rank that only sends (to the root of gathers, say) would spend its time in system calls for messages
//! of a few bytes, each of which costs its peer as much. So after some such operations in a row its
//! messages wait for more of them ([`Wire::hold_back`]), until there is a bufferful or the rank waits for
//! something itself. It may also leave for a long computation instead; then a thread sends what is left.

mod calls;

use std::io;
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::engine::Wire;

use calls::Calls;

/// What [`calls`] is made of; under loom it is made of loom's.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};
    pub(super) use std::thread::{Thread, park};
}

/// How long a message waits for the courier, at most, if a core is free.
const ROUND: Duration = Duration::from_micros(100);

/// The same while another thread has the wire, or a peer takes nothing.
const ROUND_MAX: Duration = Duration::from_millis(10);

/// Rounds without anything to send after which the courier sleeps until it is called.
const ROUNDS_IN_VAIN_MAX: u32 = 20;

/// A thread that sends what was held back.
#[derive(Debug)]
pub(crate) struct Courier {
    calls: Arc<Calls>,
    thread: Option<JoinHandle<()>>,
}

impl Courier {
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start(wire: &Arc<Mutex<Wire>>) -> io::Result<Self> {
        let calls = Arc::new(Calls::new());
        let (orders, wire) = (Arc::clone(&calls), Arc::clone(wire));
        let rounds = move || make_rounds(&orders, &wire);
        let thread = thread::Builder::new().name("paceline-courier".to_owned()).spawn(rounds)?;
        Ok(Self { calls, thread: Some(thread) })
    }

    /// Something was held back. The caller must not have the wire any more.
    #[inline]
    pub(crate) fn call(&self) {
        if let Some(thread) = &self.thread {
            self.calls.call(thread.thread());
        }
    }
}

impl Drop for Courier {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.calls.stop(thread.thread());
            // It cannot panic, and nothing depends on it any more.
            let _ = thread.join();
        }
    }
}

fn make_rounds(calls: &Calls, wire: &Mutex<Wire>) {
    while calls.wait() {
        let (mut in_vain, mut round) = (0, ROUND);
        while in_vain < ROUNDS_IN_VAIN_MAX && !calls.are_over() {
            thread::park_timeout(round);
            let mut wire = match wire.try_lock() {
                Ok(wire) => wire,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    // Whoever has it is in an operation, most likely, which holds nothing back or calls
                    // again. Still, nothing is taken for delivered that was not seen to be.
                    round = (round * 2).min(ROUND_MAX);
                    continue;
                }
            };
            in_vain = if wire.deliver() { 0 } else { in_vain + 1 };
            // A peer that takes nothing, since it is stopped, say, is not asked all the time.
            round = if wire.holds_any_back() { (round * 2).min(ROUND_MAX) } else { ROUND };
        }
    }
}

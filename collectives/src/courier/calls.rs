//! How the courier is called. `loom/` runs this very file under loom, which tries every order.
//!
//! A caller first holds something back, then raises the flag. Who takes the flag down sees all that was held
//! back before it was raised, and what comes later raises it again; so nothing is left behind unnoticed,
//! and a call while the flag is up costs no system call.

use super::sync::{AtomicBool, Ordering, Thread, park};

#[derive(Debug)]
pub(super) struct Calls {
    called: AtomicBool,
    over: AtomicBool,
}

impl Calls {
    pub(super) fn new() -> Self {
        Self { called: AtomicBool::new(false), over: AtomicBool::new(false) }
    }

    #[inline]
    pub(super) fn call(&self, courier: &Thread) {
        // Whoever raised it wakes the courier, or is about to.
        if !self.called.swap(true, Ordering::Release) {
            courier.unpark();
        }
    }

    /// There are no calls any more.
    pub(super) fn stop(&self, courier: &Thread) {
        self.over.store(true, Ordering::Release);
        courier.unpark();
    }

    pub(super) fn are_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// For the courier: sleeps until it is called. Returns whether there is more to wait for.
    pub(super) fn wait(&self) -> bool {
        while !self.are_over() {
            if self.called.swap(false, Ordering::Acquire) {
                return true;
            }
            park();
        }
        false
    }
}

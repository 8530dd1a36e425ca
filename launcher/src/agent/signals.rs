//! Signals to the agent itself.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// The signals that the agent itself receives.
pub(super) struct OwnSignals {
    child: SignalStream,
    terminate: SignalStream,
    interrupt: SignalStream,
    hang_up: SignalStream,
}

impl OwnSignals {
    /// Listens from now on.
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The number of a signal that asks for the end, or `None` if a child has ended.
    pub(super) async fn next(&mut self) -> Option<i32> {
        let signal = tokio::select! {
            _ = self.child.recv() => return None,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.hang_up.recv() => Signal::HUP,
        };
        Some(signal.as_raw())
    }
}

//! Moving a rank's output from its pipe to the launcher, no faster than the launcher takes it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};

use super::Reporter;
use crate::output::Stream;
use crate::protocol::messages::Report;
use crate::protocol::{OUTPUT_BYTES_MAX, WINDOW_BYTES, link};

/// Once no process of the job is left, a pipe that is open and silent for this long is held by a
/// stranger to whom a rank gave it; nothing of ours will come out of it.
const SILENCE_AFTER_END: Duration = Duration::from_millis(500);

/// The bytes of one stream that may still be sent.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    bytes: Arc<Semaphore>,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self { bytes: Arc::new(Semaphore::new(usize::try_from(WINDOW_BYTES).unwrap_or(0))) }
    }

    /// The launcher has taken so many bytes.
    pub(crate) fn grant(&self, bytes: u32) {
        // A launcher that grants more than it was sent must not overflow the counter.
        let missing = usize::try_from(WINDOW_BYTES)
            .unwrap_or(0)
            .saturating_sub(self.bytes.available_permits());
        self.bytes.add_permits(usize::try_from(bytes).unwrap_or(0).min(missing));
    }

    /// Nobody takes bytes any more: the pump discards from here on.
    pub(crate) fn close(&self) {
        self.bytes.close();
    }

    async fn take(&self, bytes: usize) -> bool {
        let Ok(count) = u32::try_from(bytes) else { return false };
        match self.bytes.acquire_many(count).await {
            Ok(permits) => {
                permits.forget();
                true
            }
            Err(_closed) => false,
        }
    }
}

/// Reads the pipe until its end and reports what it says.
///
/// The pipe is always read to its end, even when the bytes go nowhere: a rank that is being ended
/// must not hang on a full pipe while it saves its state.
pub(crate) async fn pump(
    rank: u32,
    stream: Stream,
    pipe: AsyncFd<OwnedFd>,
    window: Window,
    reporter: Reporter,
    mut all_ended: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; OUTPUT_BYTES_MAX];
    loop {
        let count = tokio::select! {
            biased;
            outcome = link::read(&pipe, &mut buffer) => outcome.unwrap_or(0),
            () = silence(&mut all_ended) => 0,
        };
        if count == 0 {
            break;
        }
        if window.take(count).await {
            reporter.send(&Report::Output { rank, stream, bytes: buffer[..count].to_vec() });
        }
    }
    reporter.send(&Report::Closed { rank, stream });
}

async fn silence(all_ended: &mut watch::Receiver<bool>) {
    // An error means that the supervisor is gone, which it never is before its pumps.
    let _ = all_ended.wait_for(|ended| *ended).await;
    tokio::time::sleep(SILENCE_AFTER_END).await;
}

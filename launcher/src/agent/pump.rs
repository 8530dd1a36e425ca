//! Moving a rank's output from its pipe to the launcher, no faster than the launcher takes it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Reporter;
use crate::output::Stream;
use crate::protocol::messages::Report;
use crate::protocol::window::Window;
use crate::protocol::{OUTPUT_BYTES_MAX, link};

/// Once no process of the job is left, a pipe that is open and silent for this long is held by a
/// stranger to whom a rank gave it; nothing of ours will come out of it.
const SILENCE_AFTER_END: Duration = Duration::from_millis(500);

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
            reporter.send_output(rank, stream, &buffer[..count]);
        }
    }
    reporter.send(&Report::Closed { rank, stream });
}

async fn silence(all_ended: &mut watch::Receiver<bool>) {
    // An error means that the supervisor is gone, which it never is before its pumps.
    let _ = all_ended.wait_for(|ended| *ended).await;
    tokio::time::sleep(SILENCE_AFTER_END).await;
}

//! Moving the launcher's standard input to a rank that was chosen to get it.

use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::Reporter;
use crate::protocol::link;
use crate::protocol::messages::Report;

/// The way into a rank. Dropping it is the end of its input.
pub(super) type Input = UnboundedSender<Vec<u8>>;

/// Feeds what is sent to the returned end into the pipe; each piece is acknowledged once the pipe
/// has taken it, so the launcher sends the next one only then.
pub(super) fn start(rank: u32, pipe: AsyncFd<OwnedFd>, reporter: Reporter) -> Input {
    let (input, pieces) = mpsc::unbounded_channel();
    tokio::spawn(feed(rank, pipe, pieces, reporter));
    input
}

async fn feed(
    rank: u32,
    pipe: AsyncFd<OwnedFd>,
    mut pieces: UnboundedReceiver<Vec<u8>>,
    reporter: Reporter,
) {
    while let Some(piece) = pieces.recv().await {
        // A rank that has closed its input, or ended, misses the rest, as with any pipe.
        let _ = link::write_all(&pipe, &piece).await;
        reporter.send(&Report::InputTaken { rank });
    }
}

//! Reading our standard input for the ranks that were chosen to get it.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rustix::io::{Errno, read};
use rustix::stdio::stdin;

use super::RunError;
use crate::job::StdinTarget;

/// Bytes per read: what a pipe holds.
const PIECE_BYTES: usize = 64 << 10;

/// The reading thread, which waits until every recipient has taken the piece before the next.
///
/// A thread, because a terminal that we share must not be made non-blocking. It is never joined:
/// a read from a terminal may take for ever.
#[derive(Debug)]
pub(super) struct Input {
    recipients: Vec<u32>,
    permits: Sender<()>,
    /// Recipients that have not taken the latest piece.
    outstanding: usize,
}

impl Input {
    /// Starts reading, if anybody is to get it. The empty piece is the end.
    pub(super) fn start(
        target: StdinTarget,
        world_size: u32,
        on_piece: impl Fn(Vec<u8>) + Send + 'static,
    ) -> Result<Option<Self>, RunError> {
        let recipients = match target {
            StdinTarget::None => return Ok(None),
            StdinTarget::Rank(rank) => vec![rank],
            StdinTarget::All => (0..world_size).collect(),
        };
        let (permits, wait) = mpsc::channel();
        thread::Builder::new()
            .name("paceline-stdin".to_owned())
            .spawn(move || read_all(&on_piece, &wait))
            .map_err(|source| RunError::System { operation: "read standard input", source })?;
        Ok(Some(Self { recipients, permits, outstanding: 0 }))
    }

    /// Who gets the piece that has just been read.
    pub(super) fn recipients(&mut self) -> Vec<u32> {
        self.outstanding = self.recipients.len();
        self.recipients.clone()
    }

    /// A recipient has taken its piece.
    pub(super) fn taken(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            // The thread is gone after the end of the input.
            let _ = self.permits.send(());
        }
    }
}

fn read_all(on_piece: &impl Fn(Vec<u8>), permits: &Receiver<()>) {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = match read(stdin(), &mut buffer) {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            // A standard input that cannot be read, being closed or a directory, holds nothing.
            Err(_) => 0,
        };
        on_piece(buffer[..count].to_vec());
        if count == 0 || permits.recv().is_err() {
            return;
        }
    }
}

//! What comes by way of ssh's standard error: ssh's own words, the remote shell's and the agent's.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::protocol::link::{self, LinkError};

/// Lines that are kept for the report.
const LINES_MAX: usize = 20;

/// Bytes of a line that are kept.
const LINE_BYTES_MAX: usize = 1024;

/// How long the end may take to come once ssh is dead: others may hold its standard error open.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Lines, as they come.
#[derive(Debug)]
pub(super) struct Words {
    heard: Arc<Mutex<Heard>>,
    listener: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Heard {
    lines: VecDeque<String>,
    /// The last one, so far.
    partial: Vec<u8>,
    is_passed_on: bool,
}

impl Words {
    /// Whatever is not kept, `pass_on` gets.
    pub(super) fn listen(
        errors: OwnedFd,
        pass_on: impl Fn(String) + Send + 'static,
    ) -> Result<Self, LinkError> {
        let errors = link::asynchronous(errors)?;
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = Arc::clone(&heard);
        let listener = tokio::spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = link::read(&errors, &mut buffer).await {
                lock(&shared).push(&buffer[..count], &pass_on);
            }
            lock(&shared).push(b"\n", &pass_on);
        });
        Ok(Self { heard, listener })
    }

    /// What a stream that was to be the agent's said instead, in order, comes before all that was kept.
    pub(super) fn instead(&self) -> impl FnOnce(&[u8]) + Send + 'static {
        let heard = Arc::clone(&self.heard);
        move |bytes| lock(&heard).instead(bytes)
    }

    /// From now on lines are not kept but told at once.
    pub(super) fn pass_on(&self) {
        lock(&self.heard).is_passed_on = true;
    }

    /// All lines that were kept, once there will be no more.
    pub(super) async fn last(&mut self) -> Vec<String> {
        let _ = tokio::time::timeout(END_TIMEOUT, &mut self.listener).await;
        std::mem::take(&mut lock(&self.heard).lines).into()
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Heard {
    fn push(&mut self, bytes: &[u8], pass_on: &impl Fn(String)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE_BYTES_MAX.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() {
                    self.line(line, pass_on);
                }
            }
        }
    }

    fn instead(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        for line in lines.rev().take(LINES_MAX - self.lines.len()) {
            self.lines.push_front(line.chars().take(LINE_BYTES_MAX).collect());
        }
    }

    fn line(&mut self, line: String, pass_on: &impl Fn(String)) {
        if self.is_passed_on {
            return pass_on(line);
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_each_within_bounds() {
        let mut heard = Heard::default();
        let nobody = |line: String| panic!("{line} is kept");
        heard.push(b"a\r\n\nb", &nobody);
        heard.push("ü\nrest".as_bytes(), &nobody);
        assert_eq!(heard.lines, ["a", "bü"]);
        heard.push(b"\n", &nobody);
        assert_eq!(heard.lines, ["a", "bü", "rest"]);
        heard.push(&[b'x'; 1 << 20], &nobody);
        heard.push(b"\n", &nobody);
        assert_eq!(heard.lines.back().map(String::len), Some(LINE_BYTES_MAX));
        heard.instead("Welcome!\r\n\nCome back later.\n".as_bytes());
        assert_eq!(
            heard.lines.iter().take(2).collect::<Vec<_>>(),
            ["Welcome!", "Come back later."]
        );
        (0..100).for_each(|line| heard.push(format!("{line}\n").as_bytes(), &nobody));
        assert_eq!((heard.lines.len(), heard.lines.back()), (LINES_MAX, Some(&"99".to_owned())));
    }
}

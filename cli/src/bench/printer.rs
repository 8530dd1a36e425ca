//! What the user sees while the benchmark runs: lines that stay, and one that is painted over.

use std::io::{Write, stderr, stdout};

use super::terminal::{Terminals, width};

/// The stream that progress is painted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// Rank 0's output; the other ranks say nothing.
#[derive(Debug)]
pub(super) struct Printer {
    /// Where the lines go; `None` on ranks that say nothing, and once nobody reads them.
    lines: Option<Stream>,
    /// Where progress is painted, and how many columns it may take.
    progress: Option<(Stream, usize)>,
    painted: bool,
    width: usize,
    closed: bool,
}

impl Printer {
    /// A printer of which nothing is seen.
    pub(super) const fn silent() -> Self {
        Self { lines: None, progress: None, painted: false, width: 0, closed: false }
    }

    /// Prints to standard output, or to standard error where standard output is for the record.
    pub(super) fn new(terminals: Terminals, stdout_is_for_record: bool, can_repaint: bool) -> Self {
        let lines = if stdout_is_for_record { Stream::Stderr } else { Stream::Stdout };
        let terminal = match lines {
            Stream::Stdout => terminals.stdout,
            Stream::Stderr => terminals.stderr,
        };
        // On the stream of the lines if that is a terminal: two streams may overtake each other.
        let progress = match (terminal, terminals.stderr) {
            _ if !can_repaint => None,
            (Some(columns), _) => Some((lines, columns)),
            (None, Some(columns)) => Some((Stream::Stderr, columns)),
            (None, None) => None,
        };
        Self { lines: Some(lines), progress, painted: false, width: width(terminal), closed: false }
    }

    /// Columns of what is drawn.
    pub(super) const fn width(&self) -> usize {
        self.width
    }

    /// Whether the reader of the lines has left.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Prints whole lines.
    pub(super) fn lines(&mut self, text: &str) {
        self.clear();
        if let Some(stream) = self.lines
            && write(stream, text.as_bytes()).is_err()
        {
            self.lines = None;
            self.progress = None;
            self.closed = true;
        }
    }

    /// Shows what is going on, in place of what was shown before.
    pub(super) fn progress(&mut self, text: &str) {
        if let Some((stream, columns)) = self.progress {
            // One column less: some terminals wrap when the last one is written.
            let text: String = text.chars().take(columns.saturating_sub(1)).collect();
            self.painted = write(stream, format!("\r{CLEAR}{text}").as_bytes()).is_ok();
        }
    }

    /// Removes the progress line.
    pub(super) fn clear(&mut self) {
        if let Some((stream, _)) = self.progress.filter(|_| self.painted) {
            // If the terminal is gone there is nothing to clear.
            let _ = write(stream, format!("\r{CLEAR}").as_bytes());
            self.painted = false;
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Clears from the cursor to the end of the line.
const CLEAR: &str = "\x1b[K";

fn write(stream: Stream, bytes: &[u8]) -> std::io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut stdout = stdout().lock();
            stdout.write_all(bytes)?;
            stdout.flush()
        }
        Stream::Stderr => stderr().write_all(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_for_terminals_only() {
        let printer = |stdout, stderr, record, can_repaint| {
            Printer::new(Terminals { stdout, stderr }, record, can_repaint).progress
        };
        assert_eq!(printer(None, None, false, true), None);
        assert_eq!(printer(Some(80), Some(90), false, true), Some((Stream::Stdout, 80)));
        assert_eq!(printer(None, Some(90), false, true), Some((Stream::Stderr, 90)));
        assert_eq!(printer(Some(80), Some(90), true, true), Some((Stream::Stderr, 90)));
        assert_eq!(printer(Some(80), None, true, true), None);
        assert_eq!(printer(Some(80), Some(90), false, false), None);
    }
}

//! The last lines of a rank's standard error, for the failure report.

use std::collections::VecDeque;

/// More than a report shows: 20 lines of 200 bytes, twice over.
const TAIL_BYTES_MAX: usize = 8 << 10;

/// Keeps the end of a stream in bounded memory.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        self.cut |= kept.len() < bytes.len();
        let excess = (self.bytes.len() + kept.len()).saturating_sub(TAIL_BYTES_MAX);
        self.cut |= excess > 0;
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// The last `count` lines, oldest first, without line ends; unprintable bytes replaced.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<&str> = text.split('\n').map(last_repaint).collect();
        if lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        if self.cut && lines.len() > 1 {
            // The first one has lost its beginning.
            lines.remove(0);
        }
        let first = lines.len().saturating_sub(count);
        lines[first..].iter().map(|line| printable(line)).collect()
    }
}

/// What is left on the screen of a line that was repainted.
fn last_repaint(line: &str) -> &str {
    line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default()
}

/// Without control characters: a report must not move the cursor or change colours.
fn printable(line: &str) -> String {
    line.chars().filter(|character| *character == '\t' || !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        tail.push(b"no end");
        assert_eq!(tail.lines(3), ["line 9998", "line 9999", "no end"]);
        assert!(tail.bytes.len() <= TAIL_BYTES_MAX);
    }

    #[test]
    fn shows_what_a_progress_bar_ended_with_and_no_escapes() {
        let mut tail = Tail::default();
        tail.push(b"10%\r20%\r\n\x1b[31mred\xff\n");
        assert_eq!(tail.lines(20), ["20%", "[31mred\u{fffd}"]);
    }

    #[test]
    fn one_huge_line_keeps_its_end() {
        let mut tail = Tail::default();
        tail.push(&vec![b'x'; 3 * TAIL_BYTES_MAX]);
        assert_eq!(tail.lines(20).len(), 1);
    }
}

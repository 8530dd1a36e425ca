//! Cutting a stream of bytes into lines, pieces of overlong lines, and repaints.

use std::mem;

/// A line is held back until it is complete or this long; then it goes out in pieces.
///
/// 64 KiB is what a pipe holds: a longer line was not written in one go by its program either.
pub(crate) const PIECE_BYTES_MAX: usize = 64 << 10;

/// How a segment ends on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With a line feed: the line is complete.
    Line,
    /// With a carriage return: the next segment repaints it (progress bars).
    Repaint,
    /// In the middle of a line.
    Open,
}

/// Cuts one stream of one rank. Pure: bytes in, segments out; no loss, no invention.
///
/// The concatenation of all segments is the concatenation of all bytes that were pushed.
#[derive(Debug, Default)]
pub(crate) struct LineCutter {
    held: Vec<u8>,
    /// The held bytes follow a carriage return: they are a progress bar that has been painted,
    /// and its program will say no more until the next step.
    repainting: bool,
}

impl LineCutter {
    /// Takes bytes and hands every segment that is complete to `emit`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], End)) {
        if self.held.last() == Some(&b'\r') && !bytes.is_empty() && bytes[0] != b'\n' {
            self.emit_held(End::Repaint, &mut emit);
        }
        while !bytes.is_empty() {
            let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) else {
                return self.hold(bytes, &mut emit);
            };
            let (is_return, next) = (bytes[at] == b'\r', bytes.get(at + 1).copied());
            if is_return && next.is_none() {
                // Perhaps the first half of "\r\n": the next byte decides.
                return self.hold(bytes, &mut emit);
            }
            let (length, end) = match (is_return, next) {
                (false, _) => (at + 1, End::Line),
                (true, Some(b'\n')) => (at + 2, End::Line),
                (true, _) => (at + 1, End::Repaint),
            };
            let (segment, rest) = bytes.split_at(length);
            bytes = rest;
            self.complete(segment, end, &mut emit);
        }
    }

    /// Whether a painted progress bar is being held back.
    pub(crate) fn holds_repaint(&self) -> bool {
        !self.held.is_empty() && (self.repainting || self.held.ends_with(b"\r"))
    }

    /// Gives out a held progress bar: its program is silent, so it is time to show it.
    pub(crate) fn flush_repaint(&mut self, mut emit: impl FnMut(&[u8], End)) {
        if self.holds_repaint() {
            let end = if self.held.ends_with(b"\r") { End::Repaint } else { End::Open };
            self.emit_held(end, &mut emit);
        }
    }

    /// The stream has ended: gives out a last line without a line end.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(&[u8], End)) {
        if !self.held.is_empty() {
            self.emit_held(End::Open, &mut emit);
        }
    }

    fn complete(&mut self, segment: &[u8], end: End, emit: &mut impl FnMut(&[u8], End)) {
        if self.held.is_empty() {
            emit(segment, end);
            self.repainting = end == End::Repaint;
        } else {
            self.held.extend_from_slice(segment);
            self.emit_held(end, emit);
        }
    }

    fn hold(&mut self, bytes: &[u8], emit: &mut impl FnMut(&[u8], End)) {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE_BYTES_MAX {
            self.emit_held(End::Open, emit);
        }
    }

    fn emit_held(&mut self, end: End, emit: &mut impl FnMut(&[u8], End)) {
        let mut held = mem::take(&mut self.held);
        emit(&held, end);
        held.clear();
        // Keep the allocation: the next line of this rank is likely to be held as well.
        self.held = held;
        // What follows a piece of a progress bar still belongs to it.
        self.repainting = end == End::Repaint || (end == End::Open && self.repainting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(Vec<u8>, End)> {
        let mut cutter = LineCutter::default();
        let mut segments = Vec::new();
        for chunk in chunks {
            cutter.push(chunk, |bytes, end| segments.push((bytes.to_vec(), end)));
        }
        cutter.finish(|bytes, end| segments.push((bytes.to_vec(), end)));
        segments
    }

    fn texts(segments: &[(Vec<u8>, End)]) -> Vec<(String, End)> {
        segments
            .iter()
            .map(|(bytes, end)| (String::from_utf8_lossy(bytes).into_owned(), *end))
            .collect()
    }

    #[test]
    fn lines_survive_any_split() {
        let text = "one\ntwé\r\n\n\rthree\r 50%\r100%\r\nlast".as_bytes();
        let whole = cut(&[text]);
        for at in 0..text.len() {
            let (head, tail) = text.split_at(at);
            assert_eq!(texts(&cut(&[head, tail])), texts(&whole), "split at {at}");
        }
        let bytewise: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(texts(&cut(&bytewise)), texts(&whole));
        assert_eq!(whole.last().map(|(_, end)| *end), Some(End::Open));
    }

    #[test]
    fn carriage_returns_repaint() {
        assert_eq!(
            texts(&cut(&[b"\r 10%", b"\r 20%", b"\ndone\n"])),
            [
                ("\r".into(), End::Repaint),
                (" 10%\r".into(), End::Repaint),
                (" 20%\n".into(), End::Line),
                ("done\n".into(), End::Line),
            ]
        );
    }

    #[test]
    fn a_silent_progress_bar_is_shown_and_a_silent_partial_line_is_not() {
        let mut cutter = LineCutter::default();
        let mut shown = Vec::new();
        cutter.push(b"\r 10%", |bytes, _| shown.extend_from_slice(bytes));
        assert!(cutter.holds_repaint());
        cutter.flush_repaint(|bytes, end| {
            assert_eq!(end, End::Open);
            shown.extend_from_slice(bytes);
        });
        assert_eq!(shown, b"\r 10%");
        cutter.push(b"\nplain", |bytes, _| shown.extend_from_slice(bytes));
        assert!(!cutter.holds_repaint());
        cutter.flush_repaint(|_, _| panic!("a plain partial line must wait"));
    }

    #[test]
    fn an_overlong_line_goes_out_in_pieces_without_loss() {
        let line = vec![b'x'; 5 * PIECE_BYTES_MAX / 2];
        let chunks: Vec<&[u8]> = line.chunks(1000).collect();
        let segments = cut(&chunks);
        assert!(segments.len() >= 3);
        assert!(segments.iter().all(|(bytes, _)| bytes.len() < PIECE_BYTES_MAX + 1000));
        let together: Vec<u8> = segments.into_iter().flat_map(|(bytes, _)| bytes).collect();
        assert_eq!(together, line);
    }

    #[test]
    fn invalid_utf8_passes_as_bytes() {
        assert_eq!(cut(&[b"\xff\xfe\n"]), [(b"\xff\xfe\n".to_vec(), End::Line)]);
    }
}

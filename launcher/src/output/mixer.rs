//! Merging the segments of many ranks into one stream that a person can read.

use std::collections::BTreeSet;

use super::fold::Shown;
use super::lines::End;
use super::prefix::Prefixes;

/// Prefixes lines and keeps ranks from writing into each other's lines. Pure.
#[derive(Debug)]
pub(crate) struct Mixer {
    /// Without them the bytes stay those of the ranks.
    prefix: Option<Prefixes>,
    /// The rank whose segment the stream now ends with, where that segment is not a whole line.
    open: Option<Unfinished>,
    /// Ranks whose last segment was ended because another rank spoke.
    cut: BTreeSet<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Unfinished {
    rank: u32,
    /// It ended with a carriage return, so more from the same rank starts a fresh line.
    repaint: bool,
}

impl Mixer {
    pub(crate) fn new(prefix: Option<Prefixes>) -> Self {
        Self { prefix, open: None, cut: BTreeSet::new() }
    }

    /// Appends a segment of a rank, or a line of several, to `out`.
    ///
    /// If another rank's line is still open it is ended first: it stays readable, and its rest is
    /// prefixed again when it comes, unless that is only the end of the line. Nor is a carriage
    /// return alone a line: programs write one before they paint a bar.
    pub(crate) fn add(&mut self, shown: Shown<'_>, out: &mut Vec<u8>) {
        let Shown { ranks, segment, end, age } = shown;
        let speaker = if let [rank] = ranks { Some(*rank) } else { None };
        let is_own = self.open.is_some_and(|open| speaker == Some(open.rank));
        // Who was cut is in the middle of a line, which is nobody else's.
        let was_cut = speaker.is_some_and(|rank| self.cut.remove(&rank));
        let is_only_end = segment == b"\r" || (was_cut && matches!(segment, b"\n" | b"\r\n"));
        if self.prefix.is_some() && !is_own && is_only_end {
            return;
        }
        let continues = match self.open {
            Some(open) if is_own => !open.repaint,
            Some(open) => {
                self.cut.insert(open.rank);
                out.push(b'\n');
                false
            }
            None => false,
        };
        if let (Some(prefix), false) = (&self.prefix, continues) {
            prefix.put(ranks, age, out);
        }
        out.extend_from_slice(segment);
        let unfinished = |repaint| speaker.map(|rank| Unfinished { rank, repaint });
        self.open = match end {
            End::Line => None,
            End::Repaint => unfinished(true),
            End::Open => unfinished(false),
        };
    }

    /// Appends a line of the launcher's own; a line that a rank left open is ended first, as by
    /// another rank.
    pub(crate) fn say(&mut self, text: &str, out: &mut Vec<u8>) {
        if let Some(open) = self.open.take() {
            self.cut.insert(open.rank);
            out.push(b'\n');
        }
        out.extend_from_slice(format!("paceline: {text}\n").as_bytes());
    }

    /// Ends a line that a rank left open, so that what comes next starts on its own line.
    ///
    /// Without prefixes the bytes stay exactly those of the ranks.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() && self.prefix.is_some() {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::prefix::PrefixTemplate;

    fn mix(prefix: bool, segments: &[(u32, &str, End)]) -> String {
        let prefixes = || Prefixes::new(PrefixTemplate::default(), Vec::new());
        let mut mixer = Mixer::new(prefix.then(prefixes));
        let mut out = Vec::new();
        for (rank, text, end) in segments {
            mixer.add(Shown::of(&[*rank], text.as_bytes(), *end), &mut out);
        }
        mixer.finish(&mut out);
        String::from_utf8(out).expect("test text is UTF-8")
    }

    #[test]
    fn whole_lines_are_prefixed() {
        let segments = [(0, "a\n", End::Line), (11, "b\n", End::Line)];
        assert_eq!(mix(true, &segments), "[0] a\n[11] b\n");
        assert_eq!(mix(false, &segments), "a\nb\n");
    }

    #[test]
    fn a_line_of_several_ranks_ends_what_is_open() {
        let prefixes = Prefixes::new(PrefixTemplate::default(), Vec::new());
        let (mut mixer, mut out) = (Mixer::new(Some(prefixes)), Vec::new());
        mixer.add(Shown::of(&[0], b"10%\r", End::Repaint), &mut out);
        mixer.add(Shown::of(&[1, 2, 3, 7], b"x\n", End::Line), &mut out);
        mixer.add(Shown::of(&[0], b"\n", End::Line), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "[0] 10%\r\n[1-3,7] x\n");
    }

    #[test]
    fn pieces_of_one_line_join_unless_another_rank_speaks() {
        let alone = [(0, "aa", End::Open), (0, "bb\n", End::Line)];
        assert_eq!(mix(true, &alone), "[0] aabb\n");
        let cut = [(0, "aa", End::Open), (1, "x\n", End::Line), (0, "bb\n", End::Line)];
        assert_eq!(mix(true, &cut), "[0] aa\n[1] x\n[0] bb\n");
    }

    #[test]
    fn repaints_are_prefixed_each_time_and_never_overwritten_by_others() {
        let bar = [(0, "10%\r", End::Repaint), (0, "20%\r", End::Repaint), (1, "x\n", End::Line)];
        assert_eq!(mix(true, &bar), "[0] 10%\r[0] 20%\r\n[1] x\n");
    }

    #[test]
    fn the_launcher_speaks_between_lines() {
        let prefixes = Prefixes::new(PrefixTemplate::default(), Vec::new());
        let (mut mixer, mut out) = (Mixer::new(Some(prefixes)), Vec::new());
        mixer.say("one", &mut out);
        mixer.add(Shown::of(&[0], b" 10%", End::Open), &mut out);
        mixer.say("two", &mut out);
        mixer.add(Shown::of(&[0], b" 20%\n", End::Line), &mut out);
        assert_eq!(out, b"paceline: one\n[0]  10%\npaceline: two\n[0]  20%\n");
    }

    #[test]
    fn what_paints_nothing_gets_no_line() {
        let (line, open, repaint) = (End::Line, End::Open, End::Repaint);
        let bars = [
            (0, "\r", repaint),
            (1, "\r", repaint),
            (0, " 10%", open),
            (1, " 10%", open),
            (0, "\r", repaint),
            (0, " 20%\r", repaint),
            (1, "\n", line),
            (1, "\n", line),
            (0, "\n", line),
        ];
        // Of rank 1's two line feeds one had already been written in its place.
        assert_eq!(mix(true, &bars), "[0]  10%\n[1]  10%\n[0]  20%\r\n[1] \n");
        let alone = [(0, "\r", repaint), (0, " 1%", open), (0, "\r", repaint), (0, " 2%\n", line)];
        assert_eq!(mix(true, &alone), "[0]  1%\r[0]  2%\n");
        assert_eq!(mix(false, &alone), "\r 1%\r 2%\n");
    }

    #[test]
    fn a_last_line_without_an_end_is_ended_only_where_prefixes_are() {
        assert_eq!(mix(true, &[(0, "a", End::Open)]), "[0] a\n");
        assert_eq!(mix(false, &[(0, "a", End::Open)]), "a");
    }
}

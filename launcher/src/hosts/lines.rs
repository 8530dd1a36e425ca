//! Files that people write line by line: where something is wrong, for several lines at once.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// Most lines that are complained of; more would scroll the first one away.
const PROBLEMS_MAX: usize = 10;

/// What is wrong with a file, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFileError<P> {
    /// The file.
    pub path: PathBuf,
    /// The first lines that cannot be understood, at least one and at most ten.
    pub problems: Vec<LineProblem<P>>,
    /// Further such lines.
    pub left_out: usize,
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineProblem<P> {
    /// The line, from 1.
    pub line: usize,
    /// Where in the line, in letters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: P,
}

/// A problem that knows what may be done about it.
pub trait LineHint {
    /// What the user may do about it.
    fn hint(&self) -> Option<String>;
}

impl<P: LineHint> TextFileError<P> {
    /// What the user may do about the first problem for which there is advice.
    pub fn hint(&self) -> Option<String> {
        self.problems.iter().find_map(|line| line.problem.hint())
    }
}

/// One line of text for each: `FILE:LINE:COLUMN: PROBLEM`.
impl<P: fmt::Display> fmt::Display for TextFileError<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (number, LineProblem { line, column, problem }) in self.problems.iter().enumerate() {
            if number > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{path}:{line}:{column}: {problem}")?;
        }
        match self.left_out {
            0 => Ok(()),
            1 => write!(formatter, "\n{path}: another line cannot be understood, either"),
            more => write!(formatter, "\n{path}: {more} more lines cannot be understood"),
        }
    }
}

impl<P: fmt::Debug + fmt::Display> Error for TextFileError<P> {}

/// The problems of a file that is being read.
#[derive(Debug)]
pub(crate) struct Problems<P>(Vec<LineProblem<P>>);

impl<P> Problems<P> {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, line: usize, column: usize, problem: impl Into<P>) {
        self.0.push(LineProblem { line, column, problem: problem.into() });
    }

    /// What the file says, unless there are problems.
    pub(crate) fn unless_any<T>(mut self, path: &Path, value: T) -> Result<T, TextFileError<P>> {
        if self.is_empty() {
            return Ok(value);
        }
        // Some are found when the whole file has been read.
        self.0.sort_by_key(|problem| (problem.line, problem.column));
        let left_out = self.0.len().saturating_sub(PROBLEMS_MAX);
        self.0.truncate(PROBLEMS_MAX);
        Err(TextFileError { path: path.to_owned(), problems: self.0, left_out })
    }
}

/// The numbered lines that say something, without their comments and line ends.
pub(crate) fn content(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Editors on other systems put a mark at the beginning.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = (1..).zip(text.lines());
    let without_comment = |line: &'_ str| line.find('#').unwrap_or(line.len());
    lines
        .map(move |(number, line)| (number, line[..without_comment(line)].trim_end()))
        .filter(|(_, line)| !line.is_empty())
}

/// The words of a line, each with its column from 1. White space around `=` separates nothing.
pub(crate) fn words(line: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut joins = false;
    for (column, word) in plain_words(line) {
        match words.last_mut() {
            Some((_, before)) if joins || word.starts_with('=') => before.push_str(word),
            _ => words.push((column, word.to_owned())),
        }
        joins = word.ends_with('=');
    }
    words
}

fn plain_words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_whitespace().map(|word| {
        // A word is a part of its line, so its address says where.
        let at = word.as_ptr().addr() - line.as_ptr().addr();
        (line[..at].chars().count() + 1, word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_say_nothing() {
        let text = "\u{feff}a # one\r\n\n  # none\r\n b=1\t\r\n\u{a0}\n#\nc";
        let lines: Vec<_> = content(text).collect();
        assert_eq!(lines, [(1, "a"), (4, " b=1"), (7, "c")]);
        assert_eq!(content("").count(), 0);
    }

    #[test]
    fn words_have_columns_and_equals_signs_hold_them_together() {
        let found = |line| {
            let words = words(line).into_iter();
            words.map(|(column, word)| format!("{column}:{word}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found("a slots=2"), "1:a 3:slots=2");
        assert_eq!(found(" ä\tslots = 2  max=3"), "2:ä 4:slots=2 15:max=3");
        assert_eq!(found("a slots= 2 b =3"), "1:a 3:slots=2 12:b=3");
        assert_eq!(found("= a"), "1:=a");
        assert_eq!(found("  "), "");
    }

    #[test]
    fn ten_problems_are_told_in_order() {
        let mut problems = Problems::<String>::new();
        for line in (1..=12).rev() {
            problems.add(line, 2, "odd");
        }
        let error = problems.unless_any(Path::new("f"), ()).expect_err("problems");
        assert_eq!((error.problems.len(), error.left_out), (10, 2));
        let text = error.to_string();
        assert!(text.starts_with("f:1:2: odd\nf:2:2: odd\n"), "{text}");
        assert!(text.ends_with("f:10:2: odd\nf: 2 more lines cannot be understood"), "{text}");
        assert_eq!(Problems::<String>::new().unless_any(Path::new("f"), 3), Ok(3));
    }
}

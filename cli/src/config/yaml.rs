//! As much of YAML as a file of settings has: keys with values, some of them in sections.
//!
//! An alias is refused rather than followed, so that what is read is never more than what is there.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

/// A key and what it has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Of the key, from 1.
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, or null.
    Nothing,
    Text(String),
    List(Vec<String>),
    Section(Vec<Entry>),
}

/// What cannot be read, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// From 1.
    pub(super) line: usize,
    pub(super) message: String,
}

const IN_SECTIONS: &str = "a section has keys with values, and no sections or lists of lists";

/// The entries of a file; sections have no sections.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, Problem> {
    let mut events = Events(Parser::new_from_str(text));
    let mut entries = Vec::new();
    loop {
        match events.next()? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
            (Event::StreamEnd, _) => return Ok(entries),
            (Event::MappingStart(..), _) if entries.is_empty() => {
                entries = events.entries(true)?;
            }
            // A file of comments is a document without anything.
            (Event::Scalar(text, ScalarStyle::Plain, ..), _) if is_nothing(&text) => {}
            (Event::MappingStart(..), line) => {
                return Err(Problem::new(line, "there is a second document"));
            }
            (_, line) => return Err(Problem::new(line, "expected keys with values")),
        }
    }
}

impl Problem {
    fn new(line: usize, message: &str) -> Self {
        Self { line, message: message.to_owned() }
    }
}

struct Events<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Events<'a> {
    /// The next one and the line on which it begins.
    fn next(&mut self) -> Result<(Event<'a>, usize), Problem> {
        let next: Option<Result<(Event<'a>, Span), ScanError>> = self.0.next_event();
        let (event, span) = match next {
            Some(Ok(found)) => found,
            Some(Err(error)) => return Err(Problem::new(error.marker().line(), error.info())),
            None => return Err(Problem::new(1, "the file ends too early")),
        };
        let line = span.start.line();
        match &event {
            Event::Alias(_) => {
                Err(Problem::new(line, "an alias is not understood: repeat what it stands for"))
            }
            Event::Scalar(.., Some(tag))
            | Event::SequenceStart(_, Some(tag))
            | Event::MappingStart(_, Some(tag))
                if !is_plain(tag) =>
            {
                Err(Problem { line, message: format!("the tag {} is not understood", shown(tag)) })
            }
            _ => Ok((event, line)),
        }
    }

    /// What follows the start of a mapping, to its end.
    fn entries(&mut self, may_have_sections: bool) -> Result<Vec<Entry>, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (key, line) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(key, ..), line) => (key.into_owned(), line),
                (_, line) => return Err(Problem::new(line, "a key is a word")),
            };
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let message = format!("{key} is here a second time, after line {}", first.line);
                return Err(Problem { line, message });
            }
            let value = match self.next()? {
                (Event::Scalar(text, ScalarStyle::Plain, ..), _) if is_nothing(&text) => {
                    Value::Nothing
                }
                (Event::Scalar(text, ..), _) => Value::Text(text.into_owned()),
                (Event::SequenceStart(..), _) => Value::List(self.list()?),
                (Event::MappingStart(..), _) if may_have_sections => {
                    Value::Section(self.entries(false)?)
                }
                (_, line) => return Err(Problem::new(line, IN_SECTIONS)),
            };
            entries.push(Entry { key, line, value });
        }
    }

    /// What follows the start of a list, to its end.
    fn list(&mut self) -> Result<Vec<String>, Problem> {
        let mut texts = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(texts),
                (Event::Scalar(text, ..), _) => texts.push(text.into_owned()),
                (_, line) => return Err(Problem::new(line, IN_SECTIONS)),
            }
        }
    }
}

fn is_nothing(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Whether it says nothing that would not be clear without it. `!!python/…` is of the same schema as
/// `!!int`.
fn is_plain(tag: &Tag) -> bool {
    const PLAIN: [&str; 7] = ["str", "int", "float", "bool", "null", "map", "seq"];
    tag.is_yaml_core_schema() && PLAIN.contains(&&*tag.suffix)
}

fn shown(tag: &Tag) -> String {
    format!("{}{}", tag.handle, tag.suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn entry(key: &str, line: usize, value: Value) -> Entry {
        Entry { key: key.to_owned(), line, value }
    }

    #[test]
    fn keys_lists_and_sections_have_lines() {
        let file = "---\n# a job\nverbose: true\nparams:\n  a: 3.5\n  b: 'x: y'\n\
            nics: [eth0, \"eth1\"]\nhosts:\n- a:4\n- b:4\nnone:\ntilde: ~\nempty: {}\nsaid: \"\"\n";
        let lists = |texts: &[&str]| Value::List(texts.iter().map(|&t| t.to_owned()).collect());
        let section = vec![entry("a", 5, text("3.5")), entry("b", 6, text("x: y"))];
        let expected = vec![
            entry("verbose", 3, text("true")),
            entry("params", 4, Value::Section(section)),
            entry("nics", 7, lists(&["eth0", "eth1"])),
            entry("hosts", 8, lists(&["a:4", "b:4"])),
            entry("none", 11, Value::Nothing),
            entry("tilde", 12, Value::Nothing),
            entry("empty", 13, Value::Section(vec![])),
            entry("said", 14, text("")),
        ];
        assert_eq!(parse(file), Ok(expected));
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse("# nothing\n---\n"), Ok(vec![]));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (file, line, said) in [
            ("a: 1\nb: [1\n", 3, ""),
            ("a: 1\n  b: 2\n", 2, ""),
            ("a: 1\na: 2\n", 2, "a is here a second time, after line 1"),
            ("a:\n  b:\n    c: 1\n", 3, IN_SECTIONS),
            ("a: [[1]]\n", 1, IN_SECTIONS),
            ("- a\n", 1, "expected keys with values"),
            ("a: 1\n---\nb: 2\n", 3, "there is a second document"),
            ("? [a]\n: 1\n", 1, "a key is a word"),
            ("a: &x 1\nb: *x\n", 2, "an alias is not understood"),
            ("a: !!int 1\nb: !!python/name:os.system 1\n", 2, "the tag "),
            ("a: !secret 1\n", 1, "the tag !secret is not understood"),
        ] {
            let problem = parse(file).unwrap_err();
            assert_eq!(problem.line, line, "{file:?}: {problem:?}");
            assert!(problem.message.starts_with(said), "{file:?}: {problem:?}");
        }
    }

    #[test]
    fn nothing_grows_beyond_what_is_there() {
        let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n";
        assert!(parse(laughs).unwrap_err().message.contains("alias"));
        for piece in ["[", "{", "- ", "? ", "a: ", "&", "!", "\"", "{a: ", "%", "a:\n "] {
            for before in ["", "a: "] {
                let entries = parse(&format!("{before}{}", piece.repeat(200_000)));
                assert!(entries.unwrap_or_default().len() <= 1, "{before}{piece}");
            }
        }
    }
}

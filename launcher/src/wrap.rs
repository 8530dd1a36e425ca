//! `--wrap`: what each rank runs under, such as `numactl` or a profiler. Pure.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A command that is put before the program of each rank, as its words.
///
/// In a word `{rank}`, `{local_rank}` and `{host}` stand for those of the rank.
///
/// # Invariants
/// There is at least one word, and the first one is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapper {
    words: Vec<String>,
}

/// Why a text is no [`Wrapper`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WrapError {
    /// Nothing.
    #[error("--wrap has no command in it")]
    Empty,
    /// A quote without the other, or a backslash at the end.
    #[error("--wrap {text:?} ends within a quotation")]
    Quote {
        /// The whole text.
        text: String,
    },
    /// Arguments cannot hold it.
    #[error("--wrap has a NUL in it")]
    Nul,
}

impl FromStr for Wrapper {
    type Err = WrapError;

    /// Splits the text into words as a shell does: at spaces that are not quoted. Nothing is expanded.
    fn from_str(text: &str) -> Result<Self, WrapError> {
        if text.contains('\0') {
            return Err(WrapError::Nul);
        }
        let words = shlex::split(text).ok_or_else(|| WrapError::Quote { text: text.to_owned() })?;
        match words.first() {
            Some(first) if !first.is_empty() => Ok(Self { words }),
            _ => Err(WrapError::Empty),
        }
    }
}

impl Wrapper {
    /// The words as they were written.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// The program to wrap with; fields in it mean nothing.
    pub(crate) fn program(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The words behind it for one rank.
    pub(crate) fn arguments(&self, rank: u32, local_rank: u32, host: &str) -> Vec<String> {
        let (rank, local_rank) = (rank.to_string(), local_rank.to_string());
        let fields = [("{rank}", &*rank), ("{local_rank}", &*local_rank), ("{host}", host)];
        let word = |word: &String| {
            fields.iter().fold(word.clone(), |word, (field, value)| word.replace(field, value))
        };
        self.words.iter().skip(1).map(word).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let wrapper: Wrapper = text.parse().expect("well formed");
        let arguments = wrapper.arguments(12, 3, "n1");
        std::iter::once(wrapper.program().to_owned()).chain(arguments).collect()
    }

    #[test]
    fn words_are_split_as_in_a_shell_and_nothing_is_expanded() {
        assert_eq!(words("numactl --cpunodebind=0 --"), ["numactl", "--cpunodebind=0", "--"]);
        assert_eq!(words(r#"a 'b c' "d $HOME" e\ f *"#), ["a", "b c", "d $HOME", "e f", "*"]);
        assert_eq!(words("a ''"), ["a", ""]);
    }

    #[test]
    fn fields_are_the_ranks_own_and_other_braces_stay() {
        let expected = ["nsys", "-o", "r.12.3.n1", "{x}", "{}"];
        assert_eq!(words("nsys -o r.{rank}.{local_rank}.{host} {x} {}"), expected);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let error = |text: &str| text.parse::<Wrapper>().expect_err("refused");
        for text in ["", "  ", "''", "'' a", "# nothing"] {
            assert_eq!(error(text), WrapError::Empty, "{text}");
        }
        for text in ["a 'b", "a \"b", "a\\"] {
            assert!(matches!(error(text), WrapError::Quote { .. }), "{text}");
        }
        assert_eq!(error("a\0"), WrapError::Nul);
    }
}

//! What ranks run.

use std::ffi::OsString;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::program::Program;
use crate::protocol::text;

/// A program, its arguments, and variables for it alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The program.
    pub program: Program,
    /// Its arguments, passed on untouched.
    #[serde(with = "text::list")]
    pub arguments: Vec<OsString>,
    /// Variables of the ranks that run it, over those of all ranks.
    #[serde(with = "text::pairs")]
    pub variables: Vec<(OsString, OsString)>,
}

impl Task {
    /// A program without variables of its own.
    pub fn new(program: Program, arguments: Vec<OsString>) -> Self {
        Self { program, arguments, variables: Vec::new() }
    }

    /// The words of its command, as a person would type them.
    pub(crate) fn words(&self) -> Vec<String> {
        let program = match &self.program {
            Program::Module(module) => {
                vec!["python3".to_owned(), "-m".to_owned(), module.display().to_string()]
            }
            program => vec![program.display()],
        };
        let arguments = self.arguments.iter().map(|word| word.display().to_string());
        program.into_iter().chain(arguments).collect()
    }
}

/// Ranks that run something else than the first ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoreRanks {
    /// How many.
    pub count: NonZeroU32,
    /// What they run.
    pub task: Task,
}

//! Why a host does not start the ranks it was asked to start.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ExitCode;

/// A host's reason for not starting its ranks, found before or while the first one starts.
///
/// It is reported once, however many ranks the host was to run.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such file.
    #[error("{program}: no such program on {host}")]
    NotFound {
        /// As the user wrote it.
        program: String,
        /// Where it was looked for.
        host: String,
    },
    /// The program names an interpreter that is missing, or needs a library that is.
    #[error("{program} on {host} cannot start: its interpreter ({interpreter}) does not exist")]
    NoInterpreter {
        /// Path of the program.
        program: String,
        /// What its first line asks for.
        interpreter: String,
        /// Where.
        host: String,
    },
    /// The path is a directory.
    #[error("{program} on {host} is a directory, not a program")]
    IsDirectory {
        /// As the user wrote it.
        program: String,
        /// Where.
        host: String,
    },
    /// The file is there and the system does not execute it.
    #[error("{program} on {host} is not executable: {reason}")]
    NotExecutable {
        /// Path of the program.
        program: String,
        /// The system's words.
        reason: String,
        /// Where.
        host: String,
    },
    /// The working directory cannot be entered.
    #[error("cannot enter the working directory {} on {host}: {reason}", path.display())]
    WorkingDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        reason: String,
        /// Where.
        host: String,
    },
    /// There is no such GPU, or not so much of it.
    #[error("{host}: {problem}")]
    Device {
        /// What is wrong.
        problem: String,
        /// What the user may do about it.
        hint: Option<String>,
        /// Where.
        host: String,
    },
    /// Ranks cannot be bound as was asked.
    #[error("{host}: {problem}")]
    Binding {
        /// What is wrong.
        problem: String,
        /// Where.
        host: String,
    },
    /// The system is out of something.
    #[error("failed to {operation} on {host}: {reason}")]
    System {
        /// What was attempted, as the end of "failed to".
        operation: String,
        /// The system's words.
        reason: String,
        /// Where.
        host: String,
    },
}

impl Refusal {
    /// What the launcher returns for it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotFound { .. } | Self::NoInterpreter { .. } => ExitCode::NotFound,
            Self::IsDirectory { .. } | Self::NotExecutable { .. } => ExitCode::NotExecutable,
            Self::WorkingDirectory { .. }
            | Self::Device { .. }
            | Self::Binding { .. }
            | Self::System { .. } => ExitCode::LauncherFailed,
        }
    }

    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { program, .. } if program == "python" => Some(
                "only `python3` may be installed: try `python3`, or pass the .py file alone".into(),
            ),
            Self::NotFound { program, .. } if program.contains('/') => {
                Some("a relative path is taken from the working directory".into())
            }
            Self::NotFound { .. } => Some(
                "a name without `/` is looked up in PATH; write `./NAME` for a file that lies here"
                    .into(),
            ),
            Self::NoInterpreter { .. } => {
                Some("correct the `#!` line, or name the interpreter before the file".into())
            }
            Self::NotExecutable { program, reason, .. } if reason.starts_with("permission") => {
                Some(format!("chmod +x {program}"))
            }
            Self::System { reason, .. } if reason.contains("open files") => {
                Some("each rank needs two descriptors: raise `ulimit -n`".into())
            }
            Self::Device { hint, .. } => hint.clone(),
            Self::Binding { .. } => {
                Some("start fewer ranks there, or leave --bind-to out".to_owned())
            }
            Self::NotExecutable { .. }
            | Self::IsDirectory { .. }
            | Self::WorkingDirectory { .. }
            | Self::System { .. } => None,
        }
    }
}

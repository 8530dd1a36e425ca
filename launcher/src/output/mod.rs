//! What ranks write, on its way to the terminal and to files.
//!
//! Bytes are never interpreted beyond line ends: whatever a rank writes arrives, in its order,
//! broken only at ends of lines (or where a line is longer than [`lines::PIECE_BYTES_MAX`]).

pub(crate) mod files;
pub(crate) mod fold;
pub(crate) mod lines;
pub(crate) mod mixer;
pub(crate) mod prefix;
pub(crate) mod screen;
pub(crate) mod tail;
pub(crate) mod writer;

use serde::{Deserialize, Serialize};

/// One of a rank's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both, in the order of their descriptors.
    pub(crate) const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The name of the file that holds the stream.
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

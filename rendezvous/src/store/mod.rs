//! The key/value store in which ranks leave their addresses for each other.

mod file;
mod in_process;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use file::FileStore;
pub use in_process::InProcessStore;

use crate::control::ControlError;
use crate::message::{Abort, KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// A key/value store shared by the ranks of a job.
///
/// Keys have `1..=512` bytes, values at most 256 KiB. The network implementation is
/// [`ControlClient`](crate::control::ControlClient).
pub trait Store: Send + Sync {
    /// Stores `value` under `key`, replacing an older value, visible to all ranks on return.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// The value of `key`, as soon as it exists.
    ///
    /// # Errors
    /// [`StoreError::TimedOut`] at `deadline`, and other [`StoreError`]s.
    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, StoreError>;
}

/// Why a value was not stored or not found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nobody set the key in time.
    #[error("nobody set {key:?} within {:.1} s", waited.as_secs_f64())]
    TimedOut {
        /// The key.
        key: String,
        /// How long this process waited.
        waited: Duration,
    },
    /// The key is empty or too long.
    #[error("a key of {bytes} bytes is not in 1..={KEY_BYTES_MAX}")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
    /// The value is too long.
    #[error("the value of {key:?} has {bytes} bytes, more than {VALUE_BYTES_MAX}")]
    ValueTooLong {
        /// The key.
        key: String,
        /// Length of the value.
        bytes: usize,
    },
    /// The store refuses.
    #[error("the store refused {key:?}: {reason}")]
    Refused {
        /// The key.
        key: String,
        /// Its reason.
        reason: String,
    },
    /// The job ended while this process waited.
    #[error("the job was aborted while waiting for {key:?}: {abort}")]
    Aborted {
        /// The key.
        key: String,
        /// Why the job ended.
        abort: Abort,
    },
    /// The connection to the store failed.
    #[error("failed to reach the store for {key:?}")]
    Connection {
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: Box<ControlError>,
    },
    /// A file of the store cannot be read or written.
    #[error("failed to access {} of the store", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory of the store is open to other users.
    #[error("the store directory {} is not private to this user: {problem}", path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl StoreError {
    /// Whether time ran out.
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }
}

/// Refuses what no store takes.
pub(crate) fn check_key(key: &str) -> Result<(), StoreError> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        Ok(())
    } else {
        Err(StoreError::KeyLength { bytes: key.len() })
    }
}

/// Refuses what no store takes.
pub(crate) fn check_entry(key: &str, value: &[u8]) -> Result<(), StoreError> {
    check_key(key)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(StoreError::ValueTooLong { key: key.to_owned(), bytes: value.len() });
    }
    Ok(())
}

//! A store in a directory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::{Store, StoreError};

/// A store in a directory that all ranks see: one file per key.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// Opens the store in `directory`, which is made with mode 0700 unless it exists.
    ///
    /// # Errors
    /// [`StoreError::NotPrivate`], [`StoreError::File`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Ok(Self { directory: directory.to_owned() })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Store for FileStore {
    fn set(&self, _key: &str, _value: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    fn get(&self, _key: &str, _deadline: Instant) -> Result<Vec<u8>, StoreError> {
        todo!()
    }
}

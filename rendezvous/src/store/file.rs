//! A store in a directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::{Store, StoreError, check_entry, check_key};
use crate::hex;
use crate::message::VALUE_BYTES_MAX;
use crate::run::{SecretError, require_private};

/// First and last pause between two looks at the directory.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// Keys up to this length that are plain names become file names as they are.
const PLAIN_NAME_MAX: usize = 128;
/// Begins the names of files whose key is not a plain name.
const DIGEST_PREFIX: &str = "key-";
/// Ends the names of files that are being written.
const TEMPORARY_SUFFIX: &str = ".partial";

/// A store in a directory that all ranks see: one file of mode 0600 per key in a directory of
/// mode 0700.
///
/// A value appears at once and complete, by renaming. Waiting is polling every 1 to 50 ms, so this
/// store is for a handful of keys, such as the address at which ranks meet.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// Opens the store in `directory`, which is made with mode 0700 unless it exists. Its parent
    /// must exist.
    ///
    /// # Errors
    /// [`StoreError::NotPrivate`], [`StoreError::File`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self { directory: directory.to_owned() };
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(store.failed(directory)(error));
            }
            _ => {}
        }
        store.check_private()?;
        Ok(store)
    }

    /// Opens the store if its directory exists; for ranks that must not leave one behind.
    ///
    /// # Errors
    /// [`StoreError::NotPrivate`], [`StoreError::File`].
    pub fn open_existing(directory: &Path) -> Result<Option<Self>, StoreError> {
        let store = Self { directory: directory.to_owned() };
        match store.check_private() {
            Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            result => result.map(|()| Some(store)),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The value of `key`, if it exists now.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::ValueTooLong`], [`StoreError::NotPrivate`] for a file
    /// that others may have written.
    pub fn look_up(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_key(key)?;
        let path = self.path(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&path)(error)),
        };
        let metadata = file.metadata().map_err(self.failed(&path))?;
        require_private(&path, &metadata).map_err(|error| not_private(&path, &error))?;
        let mut value = Vec::new();
        let limit = VALUE_BYTES_MAX + 1;
        file.take(limit as u64).read_to_end(&mut value).map_err(self.failed(&path))?;
        if value.len() == limit {
            return Err(StoreError::ValueTooLong { key: key.to_owned(), bytes: limit });
        }
        Ok(Some(value))
    }

    /// Removes `key`, and the directory if nothing else is in it.
    ///
    /// # Errors
    /// [`StoreError::File`], when the file exists and cannot be removed.
    pub fn remove(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed(&path)(error));
            }
            _ => {}
        }
        // A directory that somebody else uses as well stays.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    fn check_private(&self) -> Result<(), StoreError> {
        let directory = &self.directory;
        // Not following a link: whoever made it could point it elsewhere later.
        let metadata = fs::symlink_metadata(directory).map_err(self.failed(directory))?;
        if !metadata.is_dir() {
            let problem = "it is not a directory".to_owned();
            return Err(StoreError::NotPrivate { path: directory.clone(), problem });
        }
        require_private(directory, &metadata).map_err(|error| not_private(directory, &error))
    }

    fn path(&self, key: &str) -> PathBuf {
        let is_plain = key.len() <= PLAIN_NAME_MAX
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !key.starts_with('.')
            && !key.starts_with(DIGEST_PREFIX)
            && !key.ends_with(TEMPORARY_SUFFIX);
        if is_plain {
            self.directory.join(key)
        } else {
            let digest = hex::encode(&Sha256::digest(key.as_bytes()));
            self.directory.join(format!("{DIGEST_PREFIX}{digest}"))
        }
    }

    fn failed(&self, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::File { path, source }
    }
}

fn not_private(path: &Path, error: &SecretError) -> StoreError {
    let problem = match error {
        SecretError::Exposed { mode, .. } => format!("it has mode {mode:04o}"),
        SecretError::ForeignOwner { owner, .. } => format!("it belongs to user {owner}"),
        other => other.to_string(),
    };
    StoreError::NotPrivate { path: path.to_owned(), problem }
}

impl Store for FileStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        /// Tells apart the writers of this process; the process id tells apart the others.
        static WRITER: AtomicU64 = AtomicU64::new(0);
        check_entry(key, value)?;
        let writer = WRITER.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!(
            ".{}-{writer}-{}{TEMPORARY_SUFFIX}",
            std::process::id(),
            hex::encode(&Sha256::digest(key.as_bytes())[..8]),
        ));
        let path = self.path(key);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(value))
            .and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            // What cannot be written can hardly be removed; the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
            self.failed(&path)(error)
        })
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, StoreError> {
        let started = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            if let Some(value) = self.look_up(key)? {
                return Ok(value);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(StoreError::TimedOut {
                    key: key.to_owned(),
                    waited: started.elapsed(),
                });
            }
            std::thread::sleep(pause.min(remaining));
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

//! A store in the memory of this process.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Store, StoreError, check_entry, check_key};

/// A store for ranks that are threads of one process; clones share their contents.
#[derive(Clone, Debug, Default)]
pub struct InProcessStore {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    values: Mutex<HashMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl InProcessStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A panic of another thread cannot leave the map half changed, so poisoning is ignored.
    fn values(&self) -> MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.shared.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for InProcessStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        check_entry(key, value)?;
        self.values().insert(key.to_owned(), value.to_vec());
        self.shared.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, StoreError> {
        check_key(key)?;
        let started = Instant::now();
        let mut values = self.values();
        loop {
            if let Some(value) = values.get(key) {
                return Ok(value.clone());
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(StoreError::TimedOut {
                    key: key.to_owned(),
                    waited: started.elapsed(),
                });
            }
            values = self
                .shared
                .changed
                .wait_timeout(values, remaining)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

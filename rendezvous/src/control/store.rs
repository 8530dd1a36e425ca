//! The control connection as a store.

use std::time::{Duration, Instant};

use super::{ControlClient, ControlError, NoAnswer};
use crate::message::{ToCoordinator, ToRank};
use crate::store::{Store, StoreError, check_entry, check_key};

/// How long an answer to a `Set` may take.
const SET_TIMEOUT: Duration = Duration::from_secs(30);

impl Store for ControlClient {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        check_entry(key, value)?;
        let started = Instant::now();
        let answer = self.request(started + SET_TIMEOUT, |request| ToCoordinator::Set {
            request,
            key: key.to_owned(),
            value: value.to_vec(),
        });
        match answer {
            Ok(ToRank::Refused { reason, .. }) => {
                Err(StoreError::Refused { key: key.to_owned(), reason })
            }
            Ok(_) => Ok(()),
            Err(NoAnswer::TimedOut) => Err(StoreError::Connection {
                key: key.to_owned(),
                source: Box::new(ControlError::TimedOut { address: self.address }),
            }),
            Err(no_answer) => Err(self.store_error(key, started, no_answer)),
        }
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, StoreError> {
        check_key(key)?;
        let started = Instant::now();
        let answer = self
            .request(deadline, |request| ToCoordinator::Get { request, key: key.to_owned() })
            .map_err(|no_answer| self.store_error(key, started, no_answer))?;
        let reason = match answer {
            ToRank::Value { value, .. } => return Ok(value),
            ToRank::Refused { reason, .. } => reason,
            _ => "the coordinator gave an answer of another kind".to_owned(),
        };
        Err(StoreError::Refused { key: key.to_owned(), reason })
    }
}

impl ControlClient {
    fn store_error(&self, key: &str, started: Instant, no_answer: NoAnswer) -> StoreError {
        let key = key.to_owned();
        match no_answer {
            NoAnswer::Aborted(abort) => StoreError::Aborted { key, abort },
            NoAnswer::TimedOut => StoreError::TimedOut { key, waited: started.elapsed() },
            NoAnswer::Lost(source) => {
                StoreError::Connection { key, source: Box::new(self.lost(source)) }
            }
        }
    }
}

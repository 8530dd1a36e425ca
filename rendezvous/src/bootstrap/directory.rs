//! Meeting in a directory: rank 0 leaves a card with its address and the secret.
//!
//! A card may be stale: left by a job that was killed and had the same name. So a rank that
//! cannot get anywhere with a card looks again until its deadline; a stale card cannot lead it
//! into the wrong job, because no other server knows its secret.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::BootstrapError;
use crate::control::{ControlClient, ControlError};
use crate::coordinator::Event;
use crate::hello::{HelloError, Identity};
use crate::run::{RunId, Secret};
use crate::status::observe;
use crate::store::{FileStore, Store as _, StoreError};

/// The key of the card in the directory.
const CARD: &str = "coordinator";
/// Longest time for one attempt with one card; the address of a stale one may belong to a service
/// that never answers.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// First and last pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How to reach the coordinator of a job.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) address: SocketAddr,
    pub(super) run_id: RunId,
    pub(super) secret: Secret,
}

/// The card as text.
#[derive(Serialize, Deserialize)]
struct CardText {
    address: SocketAddr,
    run_id: String,
    secret: String,
}

impl Card {
    fn parse(text: &[u8]) -> Option<Self> {
        let text: CardText = serde_json::from_slice(text).ok()?;
        Some(Self {
            address: text.address,
            run_id: text.run_id.parse().ok()?,
            secret: Secret::from_hex(&text.secret).ok()?,
        })
    }
}

/// The directory of a job, on rank 0. Dropping it removes the card.
#[derive(Debug)]
pub(super) struct JobDirectory {
    store: FileStore,
    /// Set when there is a card of ours to remove. Once removed, a later card is that of the next
    /// job of the same name.
    has_card: AtomicBool,
}

impl JobDirectory {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        FileStore::open(path).map(|store| Self { store, has_card: AtomicBool::new(true) })
    }

    pub(super) fn publish(
        &self,
        address: SocketAddr,
        run_id: RunId,
        secret: &Secret,
    ) -> Result<(), StoreError> {
        let text =
            CardText { address, run_id: run_id.to_string(), secret: secret.to_hex().to_string() };
        let text = serde_json::to_vec(&text).expect("a card has no failing serialisers");
        self.store.set(CARD, &text)
    }

    /// The card has served when everybody has read it: from then on not even a SIGKILL of rank 0
    /// leaves anything behind.
    pub(super) fn clean_when_all_joined(self: &Arc<Self>) -> impl FnMut(Event) + Send + 'static {
        let directory = Arc::downgrade(self);
        move |event| {
            if matches!(event, Event::AllJoined)
                && let Some(directory) = directory.upgrade()
            {
                directory.clean();
            }
        }
    }

    fn clean(&self) {
        if self.has_card.swap(false, Ordering::Relaxed) {
            // Nobody can be told; the next job of the name replaces what is left.
            let _ = self.store.remove(CARD);
        }
    }
}

impl Drop for JobDirectory {
    fn drop(&mut self) {
        self.clean();
    }
}

/// Waits until no other rank 0 answers in the directory `path`. Returns false if one still does at
/// `deadline`: ranks that are on their way have found that one, or will, and must not find another.
pub(super) fn wait_until_vacant(path: &Path, deadline: Instant) -> Result<bool, StoreError> {
    while let Some(card) = look(path)? {
        // Not cut short by the deadline: one that has no time to answer is there all the same.
        let attempt_deadline = Instant::now() + ATTEMPT_TIMEOUT;
        if observe(card.address, card.run_id, &card.secret, attempt_deadline).is_err() {
            // It is stale.
            break;
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(PAUSES.1);
    }
    Ok(true)
}

/// Waits for rank 0 in the directory `path` and connects to it.
pub(super) fn join(
    path: &Path,
    deadline: Instant,
    identity: impl Fn(RunId) -> Identity,
) -> Result<(Card, ControlClient), BootstrapError> {
    let started = Instant::now();
    let mut pause = PAUSES.0;
    let mut last_error = None;
    loop {
        if let Some(card) = look(path)? {
            let attempt_deadline = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            match ControlClient::connect_once(
                card.address,
                identity(card.run_id),
                &card.secret,
                attempt_deadline,
            ) {
                Ok(control) => return Ok((card, control)),
                Err(error) if is_final(&error) => return Err(error.into()),
                Err(error) => last_error = Some(Box::new(error)),
            }
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(BootstrapError::RankZeroAbsent {
                directory: path.to_owned(),
                waited: now - started,
                source: last_error,
            });
        }
        std::thread::sleep(pause.min(deadline - now));
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn look(path: &Path) -> Result<Option<Card>, StoreError> {
    let Some(store) = FileStore::open_existing(path)? else { return Ok(None) };
    Ok(store.look_up(CARD)?.and_then(|text| Card::parse(&text)))
}

/// Whether another card would not help: the right coordinator has answered, and it said no.
const fn is_final(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Hello {
            source: HelloError::Refused { .. } | HelloError::EpochMismatch { .. },
            ..
        }
    )
}

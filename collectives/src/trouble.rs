//! How ranks that connect tell each other that it does not work.

use std::cell::Cell;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

use paceline_rendezvous::{Store, StoreError};
use paceline_transports::{EstablishError, TransportKind, Weight};
use serde::{Deserialize, Serialize};

/// Why a rank could not connect, as the others are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    rank: u32,
    #[serde(with = "WeightName")]
    weight: Weight,
    reason: String,
    hint: Option<String>,
}

/// [`Weight`] as it is published.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Weight")]
enum WeightName {
    Consequence,
    Waited,
    Peer,
    Own,
}

impl Trouble {
    /// What `error` means on `rank`.
    pub(crate) fn new(rank: u32, kind: TransportKind, error: &EstablishError) -> Self {
        let (rank, reason) = match error {
            EstablishError::OnRank { rank, reason, .. } => (*rank, reason.clone()),
            error => (rank, error.explain()),
        };
        let hint = match kind {
            TransportKind::Shm => Some(
                "ranks share memory if they are in the same network namespace and their limits \
                 allow it; --transport auto uses tcp where they cannot"
                    .to_owned(),
            ),
            TransportKind::Mpi => Some(
                "start the ranks with MPI's launcher, e.g. mpirun -np 4 PROGRAM; a program that \
                 starts MPI itself must ask for MPI_THREAD_MULTIPLE"
                    .to_owned(),
            ),
            _ => error.hint(),
        };
        Self { rank, weight: error.weight(), reason, hint }
    }

    pub(crate) fn into_error(self) -> EstablishError {
        let Self { rank, weight, reason, hint } = self;
        EstablishError::OnRank { rank, weight, reason, hint }
    }
}

/// The trouble that the others come of. Higher ranks call lower ones, so that a rank which is cut
/// off from the others is the lowest that does not reach somebody.
pub(crate) fn cause(troubles: impl Iterator<Item = Trouble>) -> Option<Trouble> {
    troubles.max_by_key(|trouble| (trouble.weight, Reverse(trouble.rank)))
}

/// A key of the store that exists when a rank has failed.
///
/// Ranks connect within milliseconds. Who has to wait longer looks for the key, ever more rarely.
pub(crate) struct Alarm<'a> {
    store: &'a dyn Store,
    key: String,
    next_look: Cell<Instant>,
    pause: Cell<Duration>,
    is_raised: Cell<bool>,
}

/// First and last pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(50);

impl<'a> Alarm<'a> {
    pub(crate) fn new(store: &'a dyn Store, key: String) -> Self {
        Self {
            store,
            key,
            next_look: Cell::new(Instant::now() + PAUSES.0),
            pause: Cell::new(PAUSES.0),
            is_raised: Cell::new(false),
        }
    }

    /// Tells all ranks that this one has failed.
    pub(crate) fn raise(&self) -> Result<(), StoreError> {
        self.store.set(&self.key, b"")
    }

    /// Whether a rank has failed, or the job is over.
    pub(crate) fn is_raised(&self) -> bool {
        if !self.is_raised.get() && Instant::now() >= self.next_look.get() {
            let found = self.store.get(&self.key, Instant::now() + LOOK_TIMEOUT);
            // A store that does not work any more ends the wait as well.
            self.is_raised.set(!found.is_err_and(|error| error.is_timeout()));
            self.pause.set((self.pause.get() * 2).min(PAUSES.1));
            self.next_look.set(Instant::now() + self.pause.get());
        }
        self.is_raised.get()
    }
}

#[cfg(test)]
mod tests {
    use paceline_rendezvous::InProcessStore;

    use super::*;

    fn trouble(rank: u32, weight: Weight) -> Trouble {
        Trouble { rank, weight, reason: String::new(), hint: None }
    }

    #[test]
    fn the_weightiest_trouble_of_the_lowest_rank_is_the_cause() {
        let cause_of = |troubles: &[Trouble]| cause(troubles.iter().cloned());
        assert_eq!(cause_of(&[]), None);
        let cut_off = [
            trouble(0, Weight::Consequence),
            trouble(1, Weight::Consequence),
            trouble(2, Weight::Peer),
            trouble(3, Weight::Peer),
        ];
        assert_eq!(cause_of(&cut_off), Some(trouble(2, Weight::Peer)));
        let poor = [trouble(1, Weight::Peer), trouble(2, Weight::Waited), trouble(3, Weight::Own)];
        assert_eq!(cause_of(&poor), Some(trouble(3, Weight::Own)));
    }

    #[test]
    fn an_alarm_is_heard_by_who_waits() {
        let store = InProcessStore::new();
        let (ours, theirs) = (Alarm::new(&store, "a".into()), Alarm::new(&store, "a".into()));
        ours.next_look.set(Instant::now());
        assert!(!ours.is_raised());
        theirs.raise().unwrap();
        let give_up = Instant::now() + Duration::from_secs(60);
        while !ours.is_raised() {
            assert!(Instant::now() < give_up, "nobody hears it");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_trouble_is_published_with_everything() {
        let error = EstablishError::Missing { missing: vec![3], waited_ms: 7 };
        let trouble = Trouble::new(1, TransportKind::Tcp, &error);
        assert_eq!((trouble.weight, trouble.hint.is_some()), (Weight::Waited, true));
        let text = serde_json::to_string(&trouble).unwrap();
        assert_eq!(serde_json::from_str::<Trouble>(&text).unwrap(), trouble);
        let reason = "rank 1: rank(s) 3 did not connect within 7 ms";
        assert_eq!(trouble.clone().into_error().to_string(), reason);
        // Who is told of it tells it on as it is.
        assert_eq!(Trouble::new(2, TransportKind::Tcp, &trouble.clone().into_error()), trouble);
    }
}

//! How the ranks of a context come together: cards in the store, then connections.

mod cards;
#[cfg(feature = "testing")]
mod hostile;
mod ways;

use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::context_keys;
use paceline_transports::tcp::check_interface;
use paceline_transports::{Endpoint, EstablishError, Group, Patience, TransportKind, Weight};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::{ContextOptions, TransportChoice};
use crate::engine::Wire;
use crate::error::SetupError;
use crate::job::Job;
use crate::node::NodeGroup;
use crate::plan::PlanFacts;
use crate::trouble::{Alarm, Trouble, cause};
use cards::{Card, Terms, allowed_cpus, is_oversubscribed};
#[cfg(feature = "testing")]
pub use hostile::check_cards;

/// How long to try to share memory at most where there is TCP to fall back to. On one node it takes
/// milliseconds, or fails at once.
pub(crate) const SHARING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to look for what another rank should have published by then.
const LOOK_TIMEOUT: Duration = Duration::from_millis(50);

/// What there is to say of MPI in a program that was built without it.
#[cfg(not(feature = "mpi"))]
pub(crate) const WITHOUT_MPI: &str = "this program was built without the transport mpi; build it with --features mpi, which needs an \
     MPI with headers (libopenmpi-dev) and clang (libclang-dev)";

/// How many ranks that did not come are named.
const MISSING_NAMED_MAX: usize = 8;

/// How long before the end of a start its failure is told to the others at the latest.
const TELLING_TIMEOUT: Duration = Duration::from_secs(2);

/// What comes of connecting.
pub(crate) struct Connected {
    pub(crate) facts: PlanFacts,
    pub(crate) wire: Wire,
    /// Shared memory, where the ranks have it.
    pub(crate) node: Option<NodeGroup>,
    /// Whether ranks of one node exchange messages in memory while others do not.
    pub(crate) mixed: bool,
    /// Why the preferred transport is not used.
    pub(crate) fallback: Option<String>,
}

impl Connected {
    /// By connections in a simulated network.
    pub(crate) fn simulated(
        endpoints: Vec<Option<Box<dyn Endpoint>>>,
        options: &ContextOptions,
        oversubscribed: bool,
    ) -> Self {
        let world_size = u32::try_from(endpoints.len()).expect("world sizes are below 2^32");
        let facts = PlanFacts { oversubscribed, ..facts(world_size, TransportKind::Sim, options) };
        Self { facts, wire: Wire::new(endpoints), node: None, mixed: false, fallback: None }
    }

    fn alone(options: &ContextOptions) -> Self {
        let facts = facts(1, TransportKind::Shm, options);
        Self { facts, wire: Wire::new(vec![None]), node: None, mixed: false, fallback: None }
    }
}

/// What is known of the ranks before their cards are.
fn facts(world_size: u32, transport: TransportKind, options: &ContextOptions) -> PlanFacts {
    PlanFacts {
        forced: options.algorithm,
        any_plan: options.any_plan,
        ..PlanFacts::plain(world_size, transport)
    }
}

/// Connects all ranks of a job for its context number `number`.
pub(crate) fn connect(
    job: &Job,
    number: u32,
    options: &ContextOptions,
) -> Result<Connected, SetupError> {
    if job.rank_info().world_size == 1 {
        check_interface(&options.interface).map_err(SetupError::Interface)?;
        return Ok(Connected::alone(options));
    }
    Joining { job, options, number, deadline: Instant::now() + options.start_timeout }.connect()
}

/// A context that is being made.
struct Joining<'a> {
    job: &'a Job,
    options: &'a ContextOptions,
    number: u32,
    deadline: Instant,
}

impl Joining<'_> {
    fn connect(&self) -> Result<Connected, SetupError> {
        self.compare_terms()?;
        match self.options.transport {
            TransportChoice::Only(TransportKind::Shm) => self.over_shared_memory(),
            TransportChoice::Only(TransportKind::Mpi) => self.over_mpi(),
            TransportChoice::Auto if self.job.rank_info().is_on_one_node() => {
                // It succeeds on all ranks or on none, so that all fall back together.
                match self.over_shared_memory() {
                    Err(SetupError::Establish { transport, source }) => {
                        let fallback =
                            format!("cannot connect the ranks over {transport}: {source}");
                        let apart = source.weight() < Weight::Own;
                        Ok(Connected { fallback: Some(fallback), ..self.over_tcp(apart)? })
                    }
                    outcome => outcome,
                }
            }
            TransportChoice::Auto => self.over_tcp_between_nodes(),
            TransportChoice::Only(_) => self.over_tcp(false),
        }
    }

    /// Runs `connect` on all ranks. It succeeds on all or on none, and then all return the same
    /// error, which names the rank that failed.
    fn together<T>(
        &self,
        kind: TransportKind,
        connect: impl FnOnce(&Patience<'_>) -> Result<T, EstablishError>,
    ) -> Result<T, SetupError> {
        let store = self.job.rendezvous().store.as_ref();
        let alarm = Alarm::new(store, format!("{}/{kind}-alarm", self.prefix()));
        let in_vain = || alarm.is_raised();
        let deadline = self.deadline_of(kind);
        let outcome = connect(&Patience { deadline, in_vain: &in_vain });
        let rank = self.job.rank_info().rank;
        let trouble = outcome.as_ref().err().map(|error| Trouble::new(rank, kind, error));
        if trouble.is_some() {
            alarm.raise()?;
        }
        let all: Vec<Option<Trouble>> = self.collect(&format!("{kind}-outcome"), &trouble)?;
        match cause(all.into_iter().flatten()) {
            Some(trouble) => Err(failed(kind, trouble.into_error())),
            None => outcome.map_err(|source| failed(kind, source)),
        }
    }

    /// Until when to try to connect: early enough to tell the others what became of it, and where
    /// there is another transport to fall back to, early enough for that.
    fn deadline_of(&self, kind: TransportKind) -> Instant {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let may_fall_back =
            kind == TransportKind::Shm && self.options.transport == TransportChoice::Auto;
        let kept = if may_fall_back {
            (remaining / 3 * 2).max(remaining.saturating_sub(SHARING_TIMEOUT))
        } else {
            (remaining / 10).min(TELLING_TIMEOUT)
        };
        self.deadline.checked_sub(kept).unwrap_or(self.deadline)
    }

    fn group<'a>(&'a self, addresses: &'a [Vec<u8>]) -> Group<'a> {
        Group {
            rank: self.job.rank_info().rank,
            run_id: self.job.rendezvous().run_id,
            epoch: self.job.rank_info().epoch,
            checksum: self.options.checksum,
            secret: &self.job.rendezvous().secret,
            addresses,
        }
    }

    fn facts(&self, transport: TransportKind, cards: &[Card]) -> PlanFacts {
        PlanFacts {
            oversubscribed: is_oversubscribed(cards),
            shared_memory: transport == TransportKind::Shm,
            ..facts(self.job.rank_info().world_size, transport, self.options)
        }
    }

    /// Publishes this rank's card and collects everybody's. A rank that cannot use the transport
    /// says so, lest the others wait for it.
    fn exchange<T>(
        &self,
        kind: TransportKind,
        transport: Result<T, EstablishError>,
        address: impl Fn(&T) -> Vec<u8>,
        on_node: Option<Vec<u8>>,
    ) -> Result<(T, Vec<Card>), SetupError> {
        let info = self.job.rank_info();
        let trouble = |error: &EstablishError| Trouble::new(info.rank, kind, error);
        let card = Card {
            address: transport.as_ref().map(address).map_err(trouble),
            on_node,
            cpus: allowed_cpus(),
            node_rank: info.node_rank,
        };
        let cards: Vec<Card> = self.collect(kind.name(), &card)?;
        let troubles = cards.iter().filter_map(|card| card.address.as_ref().err().cloned());
        match (cause(troubles), transport) {
            (None, Ok(transport)) => Ok((transport, cards)),
            (Some(trouble), _) => Err(failed(kind, trouble.into_error())),
            (None, Err(source)) => Err(failed(kind, source)),
        }
    }

    /// Makes sure that all ranks were given the same options, and have what these name.
    fn compare_terms(&self) -> Result<(), SetupError> {
        let rank = self.job.rank_info().rank;
        let ours = Terms::new(self.options);
        let lack = check_interface(&self.options.interface).err();
        let lack = lack.map(|error| Trouble::new(rank, TransportKind::Tcp, &error));
        let all: Vec<(Terms, Option<Trouble>)> = self.collect("terms", &(&ours, &lack))?;
        if let Some((peer, (theirs, _))) = (0..).zip(&all).find(|(_, (theirs, _))| *theirs != ours)
        {
            let what = format!("{theirs}; rank {rank} has {ours}; they must be equal on all ranks");
            return Err(SetupError::Peer { peer, what });
        }
        match cause(all.into_iter().filter_map(|(_, lack)| lack)) {
            Some(lack) => Err(SetupError::Interface(lack.into_error())),
            None => Ok(()),
        }
    }

    /// What the keys of this context begin with in the store.
    fn prefix(&self) -> String {
        format!("{}{}", context_keys(self.job.rank_info().epoch), self.number)
    }

    /// Publishes this rank's part and collects everybody's.
    fn collect<T: DeserializeOwned>(
        &self,
        what: &str,
        ours: &impl Serialize,
    ) -> Result<Vec<T>, SetupError> {
        let info = self.job.rank_info();
        let key = |rank: u32| format!("{}/{what}/{rank}", self.prefix());
        let text = serde_json::to_vec(ours).expect("it is plain data");
        let store = &self.job.rendezvous().store;
        store.set(&key(info.rank), &text)?;
        let mut all = Vec::new();
        let mut missing = Vec::new();
        for peer in 0..info.world_size {
            // Once the time is up a short look tells who is there from who is not.
            let until = self.deadline.max(Instant::now() + LOOK_TIMEOUT);
            match store.get(&key(peer), until) {
                Ok(text) => all.push(
                    serde_json::from_slice(&text)
                        .map_err(|error| SetupError::Peer { peer, what: error.to_string() })?,
                ),
                Err(error) if error.is_timeout() && missing.len() < MISSING_NAMED_MAX => {
                    missing.push(peer);
                }
                Err(error) if error.is_timeout() => break,
                Err(error) => return Err(error.into()),
            }
        }
        if missing.is_empty() {
            return Ok(all);
        }
        Err(SetupError::Absent { missing, waited: self.options.start_timeout })
    }
}

fn failed(transport: TransportKind, source: EstablishError) -> SetupError {
    SetupError::Establish { transport: transport.name(), source }
}

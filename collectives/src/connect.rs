//! How the ranks of a context come together: cards in the store, then connections.

use std::fmt;
use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::context_keys;
use paceline_transports::shm::ShmTransport;
use paceline_transports::tcp::{TcpConfig, TcpTransport};
use paceline_transports::{
    Endpoint, EstablishError, Group, Patience, Transport, TransportKind, Weight,
};
use rustix::thread::CpuSet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::context::{ContextOptions, TransportChoice};
use crate::engine::Wire;
use crate::error::SetupError;
use crate::job::Job;
use crate::node::{NodeGroup, arena_layout};
use crate::plan::{Algorithm, PlanFacts, Tuning};
use crate::trouble::{Alarm, Trouble, cause};

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

/// What must be equal on all ranks, as people write it. Compared first: with different transports the
/// ranks would wait for each other in different places.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Terms {
    transport: String,
    sockets_per_peer: u16,
    algorithm: String,
    tune: String,
    has_plan: bool,
    any_plan: bool,
}

impl Terms {
    fn new(options: &ContextOptions) -> Self {
        Self {
            transport: match options.transport {
                TransportChoice::Auto => "auto".to_owned(),
                TransportChoice::Only(kind) => kind.name().to_owned(),
            },
            sockets_per_peer: options.sockets_per_peer,
            algorithm: options.algorithm.map_or("auto", Algorithm::name).to_owned(),
            tune: options.tune.name().to_owned(),
            has_plan: options.plan.is_some(),
            any_plan: options.any_plan,
        }
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, sockets_per_peer, algorithm, tune, has_plan, any_plan } = self;
        write!(
            f,
            "transport {transport}, {sockets_per_peer} socket(s) per peer, algorithm {algorithm}"
        )?;
        let plan = if *has_plan { "a plan file" } else { "no plan file" };
        let order = if *any_plan { "any-plan" } else { "plan" };
        write!(f, ", tune {tune}, {plan}, deterministic {order}")
    }
}

/// What each rank tells the others before they connect.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    /// Where to find it, or why it cannot use the transport.
    address: Result<Vec<u8>, Trouble>,
    /// Where the ranks of its node find it, if they are to share memory where all ranks do not.
    on_node: Option<Vec<u8>>,
    /// The cores that it may run on: a launcher may have bound it to some of its node's.
    cpus: Vec<usize>,
    node_rank: u32,
}

/// The cores that this process may run on; empty if the system does not say.
fn allowed_cpus() -> Vec<usize> {
    let Ok(mask) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| mask.is_set(*cpu)).collect()
}

/// Whether on some node ranks outnumber the cores that they may run on, together.
fn is_oversubscribed(cards: &[Card]) -> bool {
    cards.iter().any(|card| {
        let node = cards.iter().filter(|other| other.node_rank == card.node_rank);
        let mut cpus: Vec<usize> = node.clone().flat_map(|other| other.cpus.clone()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        !cpus.is_empty() && node.count() > cpus.len()
    })
}

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
        let facts = PlanFacts {
            world_size: u32::try_from(endpoints.len()).expect("world sizes are below 2^32"),
            transport: TransportKind::Sim,
            oversubscribed,
            shared_memory: false,
            levels: None,
            forced: options.algorithm,
            any_plan: options.any_plan,
            tuning: Tuning::BUILT_IN,
        };
        Self { facts, wire: Wire::new(endpoints), node: None, mixed: false, fallback: None }
    }

    fn alone(options: &ContextOptions) -> Self {
        let facts = PlanFacts {
            world_size: 1,
            transport: TransportKind::Shm,
            oversubscribed: false,
            shared_memory: false,
            levels: None,
            forced: options.algorithm,
            any_plan: options.any_plan,
            tuning: Tuning::BUILT_IN,
        };
        Self { facts, wire: Wire::new(vec![None]), node: None, mixed: false, fallback: None }
    }
}

/// Connects all ranks of a job for its context number `number`.
pub(crate) fn connect(
    job: &Job,
    number: u32,
    options: &ContextOptions,
) -> Result<Connected, SetupError> {
    if job.rank_info().world_size == 1 {
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

    /// `apart`: whether ranks that were thought to be on one node did not reach each other there.
    fn over_tcp(&self, apart: bool) -> Result<Connected, SetupError> {
        let (transport, cards) = self.listen_on_tcp(apart, None)?;
        self.connect_tcp(transport, &cards, |_| true)
    }

    /// Ranks of one node exchange messages in memory, if that works on all nodes; the others over TCP.
    fn over_tcp_between_nodes(&self) -> Result<Connected, SetupError> {
        let info = self.job.rank_info();
        let listener = if info.local_size > 1 { ShmTransport::bind().ok() } else { None };
        let (transport, cards) = self.listen_on_tcp(false, listener.as_ref())?;
        let ours = info.node_rank;
        let on = |node: u32| (0..).zip(&cards).filter(move |(_, card)| card.node_rank == node);
        let crowded = cards.iter().any(|card| on(card.node_rank).count() > 1);
        if !crowded {
            return self.connect_tcp(transport, &cards, |_| true);
        }
        let members: Vec<u32> = on(ours).map(|(rank, _)| rank).collect();
        match self.share_on_node(listener, &cards, &members) {
            Ok(endpoints) => {
                let is_elsewhere = |card: &Card| card.node_rank != ours;
                let mut connected = self.connect_tcp(transport, &cards, is_elsewhere)?;
                connected.wire.add(endpoints);
                Ok(Connected { mixed: true, ..connected })
            }
            Err(SetupError::Establish { transport: kind, source }) => {
                let fallback = format!("cannot connect the ranks of a node over {kind}: {source}");
                let connected = self.connect_tcp(transport, &cards, |_| true)?;
                Ok(Connected { fallback: Some(fallback), ..connected })
            }
            Err(error) => Err(error),
        }
    }

    /// Connects the ranks of this node, while the others connect theirs; all or none.
    fn share_on_node(
        &self,
        listener: Option<ShmTransport>,
        cards: &[Card],
        members: &[u32],
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, SetupError> {
        let kind = TransportKind::Shm;
        let own = |card: &Card| card.on_node.clone().unwrap_or_default();
        let addresses: Vec<Vec<u8>> = cards.iter().map(own).collect();
        self.together(kind, |patience| match (listener, members.len()) {
            (_, 0..=1) => Ok(Vec::new()),
            (None, _) => Err(EstablishError::Os {
                what: "listen on a unix socket",
                source: std::io::ErrorKind::AddrNotAvailable.into(),
            }),
            (Some(transport), _) => {
                let group = self.group(&addresses);
                Ok(transport.connect_node(&group, members, None, patience)?.endpoints)
            }
        })
    }

    /// Opens this rank's socket and learns of everybody's.
    fn listen_on_tcp(
        &self,
        apart: bool,
        on_node: Option<&ShmTransport>,
    ) -> Result<(TcpTransport, Vec<Card>), SetupError> {
        let control = self.job.rendezvous().control.as_ref();
        let towards = control.map(|control| control.local_addr().ip());
        // Containers of one host have loopback interfaces of their own.
        let in_containers = apart && towards.is_some_and(|address| !address.is_loopback());
        let transport = TcpTransport::bind(&TcpConfig {
            interface: self.options.interface.clone(),
            port_range: self.options.port_range,
            sockets_per_peer: self.options.sockets_per_peer,
            one_node: self.job.rank_info().is_on_one_node() && !in_containers,
            towards,
        });
        let on_node = on_node.map(ShmTransport::address);
        self.exchange(TransportKind::Tcp, transport, TcpTransport::address, on_node)
    }

    /// Connects this rank to those whose card says that it should be.
    fn connect_tcp(
        &self,
        transport: TcpTransport,
        cards: &[Card],
        wanted: impl Fn(&Card) -> bool,
    ) -> Result<Connected, SetupError> {
        let kind = TransportKind::Tcp;
        let mut addresses = addresses(cards);
        for (address, _) in addresses.iter_mut().zip(cards).filter(|(_, card)| !wanted(card)) {
            address.clear();
        }
        let endpoints = self.together(kind, |patience| {
            Box::new(transport).connect(&self.group(&addresses), patience)
        })?;
        let facts = self.facts(kind, cards);
        Ok(Connected {
            facts,
            wire: Wire::new(endpoints),
            node: None,
            mixed: false,
            fallback: None,
        })
    }

    /// Between the processes of a world that MPI's launcher started.
    #[cfg(feature = "mpi")]
    fn over_mpi(&self) -> Result<Connected, SetupError> {
        use paceline_rendezvous::rank_info::Dialect;
        use paceline_transports::mpi::{MpiConfig, MpiTransport};

        let kind = TransportKind::Mpi;
        let launchers = [Dialect::OpenMpi, Dialect::Pmi, Dialect::Slurm];
        let transport = MpiTransport::join(&MpiConfig {
            is_launched: launchers.contains(&self.job.rank_info().dialect),
            deadline: self.deadline_of(kind),
        });
        let (transport, cards) = self.exchange(kind, transport, MpiTransport::address, None)?;
        let addresses = addresses(&cards);
        let endpoints = self.together(kind, |patience| {
            Box::new(transport).connect(&self.group(&addresses), patience)
        })?;
        let facts = self.facts(kind, &cards);
        Ok(Connected {
            facts,
            wire: Wire::new(endpoints),
            node: None,
            mixed: false,
            fallback: None,
        })
    }

    #[cfg(not(feature = "mpi"))]
    #[expect(clippy::unused_self, reason = "with the feature it is a method like the others")]
    fn over_mpi(&self) -> Result<Connected, SetupError> {
        Err(SetupError::Option(WITHOUT_MPI.to_owned()))
    }

    fn over_shared_memory(&self) -> Result<Connected, SetupError> {
        let kind = TransportKind::Shm;
        let (transport, cards) =
            self.exchange(kind, ShmTransport::bind(), ShmTransport::address, None)?;
        let addresses = addresses(&cards);
        let members: Vec<u32> = (0..self.job.rank_info().world_size).collect();
        let layout = arena_layout(self.job.rank_info().world_size);
        let node = self.together(kind, |patience| {
            transport.connect_node(&self.group(&addresses), &members, Some(layout), patience)
        })?;
        let facts = self.facts(kind, &cards);
        let wire = Wire::new(node.endpoints);
        Ok(Connected {
            facts,
            wire,
            node: node.arena.map(NodeGroup::new),
            mixed: false,
            fallback: None,
        })
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
            secret: &self.job.rendezvous().secret,
            addresses,
        }
    }

    fn facts(&self, transport: TransportKind, cards: &[Card]) -> PlanFacts {
        PlanFacts {
            world_size: self.job.rank_info().world_size,
            transport,
            oversubscribed: is_oversubscribed(cards),
            shared_memory: transport == TransportKind::Shm,
            levels: None,
            forced: self.options.algorithm,
            any_plan: self.options.any_plan,
            tuning: Tuning::BUILT_IN,
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

    /// Makes sure that all ranks were given the same options.
    fn compare_terms(&self) -> Result<(), SetupError> {
        let ours = Terms::new(self.options);
        let all: Vec<Terms> = self.collect("terms", &ours)?;
        let Some((peer, theirs)) = (0..).zip(&all).find(|(_, theirs)| **theirs != ours) else {
            return Ok(());
        };
        let rank = self.job.rank_info().rank;
        let what = format!("{theirs}; rank {rank} has {ours}; they must be equal on all ranks");
        Err(SetupError::Peer { peer, what })
    }

    /// What the keys of this context begin with in the store.
    fn prefix(&self) -> String {
        format!("{}{}", context_keys(self.job.rank_info().epoch), self.number)
    }

    /// Publishes this rank's part and collects everybody's.
    fn collect<T>(&self, what: &str, ours: &T) -> Result<Vec<T>, SetupError>
    where
        T: Serialize + DeserializeOwned,
    {
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

/// Reads `bytes` as everything that ranks publish before they connect: for tests.
#[doc(hidden)]
pub fn check_cards(bytes: &[u8]) {
    if let Ok(card) = serde_json::from_slice::<Card>(bytes) {
        is_oversubscribed(&[card]);
    }
    if let Ok(terms) = serde_json::from_slice::<Terms>(bytes) {
        let _ = terms.to_string();
    }
    if let Ok(Some(trouble)) = serde_json::from_slice::<Option<Trouble>>(bytes) {
        let told = cause([trouble.clone()].into_iter()).map(Trouble::into_error);
        let error = told.expect("there is one");
        assert_eq!(
            Trouble::new(0, TransportKind::Tcp, &error).into_error().explain(),
            error.explain()
        );
    }
}

fn failed(transport: TransportKind, source: EstablishError) -> SetupError {
    SetupError::Establish { transport: transport.name(), source }
}

fn addresses(cards: &[Card]) -> Vec<Vec<u8>> {
    cards.iter().filter_map(|card| card.address.clone().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oversubscribed(ranks: &[(u32, &[usize])]) -> bool {
        let card = |(node_rank, cpus): &(u32, &[usize])| Card {
            address: Ok(Vec::new()),
            on_node: None,
            cpus: cpus.to_vec(),
            node_rank: *node_rank,
        };
        is_oversubscribed(&ranks.iter().map(card).collect::<Vec<_>>())
    }

    #[test]
    fn cores_are_counted_per_node_however_ranks_are_bound() {
        assert!(!oversubscribed(&[(0, &[0, 1]), (0, &[0, 1])]));
        assert!(!oversubscribed(&[(0, &[0]), (0, &[1])]), "each bound to a core of its own");
        assert!(oversubscribed(&[(0, &[0]), (0, &[0])]), "both bound to the same core");
        assert!(oversubscribed(&[(0, &[0, 1]), (0, &[0, 1]), (0, &[0, 1])]));
        assert!(!oversubscribed(&[(0, &[0]), (1, &[0])]), "one core on each of two nodes");
        assert!(oversubscribed(&[(0, &[0, 1]), (1, &[0]), (1, &[0])]), "one node is enough");
        assert!(!oversubscribed(&[(0, &[]), (0, &[])]), "unknown");
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!allowed_cpus().is_empty());
    }
}

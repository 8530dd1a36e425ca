//! A process's part in a group: who it is, its connections, its plan.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use paceline_rendezvous::env::{self, Environment, PortRange};
use paceline_rendezvous::{
    Abort, BootstrapOptions, InProcessStore, OperationReport, ProcessEnvironment, RankInfo,
    Rendezvous, RunId, Secret, bootstrap,
};
use paceline_transports::shm::ShmTransport;
use paceline_transports::tcp::{InterfaceChoice, TcpConfig, TcpTransport};
use paceline_transports::{EstablishError, Group, Transport, TransportKind};
use serde::{Deserialize, Serialize};

use crate::communicator::Communicator;
use crate::engine::{IdlePolicy, Wire};
use crate::error::SetupError;
use crate::node::{NodeGroup, arena_layout};
use crate::plan::{Algorithm, PlanFacts};

/// A process that has found the others of its job, and through which contexts are made.
#[derive(Debug)]
pub struct Job {
    /// Present until it is dropped.
    rendezvous: Option<Rendezvous>,
    contexts: AtomicU32,
}

impl Job {
    /// Joins the job that the environment describes; without any variables, a job of one.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] says what is missing or wrong.
    pub fn from_environment() -> Result<Arc<Self>, SetupError> {
        let rendezvous = bootstrap(&ProcessEnvironment, &BootstrapOptions::default())?;
        Ok(Self::from_rendezvous(rendezvous))
    }

    /// Wraps what a bootstrap found.
    pub fn from_rendezvous(rendezvous: Rendezvous) -> Arc<Self> {
        Arc::new(Self { rendezvous: Some(rendezvous), contexts: AtomicU32::new(0) })
    }

    /// Jobs of `world_size` ranks that all live in this process, one per thread: for tests.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] if the system has no random numbers.
    pub fn in_process(world_size: u32) -> Result<Vec<Arc<Self>>, SetupError> {
        let secret = Secret::random().map_err(paceline_rendezvous::BootstrapError::from)?;
        let run_id = RunId::random().map_err(paceline_rendezvous::BootstrapError::from)?;
        let store = Arc::new(InProcessStore::new());
        let job = |rank| {
            let rank_info = RankInfo {
                rank,
                world_size,
                local_rank: rank,
                local_size: world_size,
                run_id: Some(run_id),
                ..RankInfo::alone()
            };
            let (secret, store) = (secret.clone(), store.clone());
            Self::from_rendezvous(Rendezvous::in_process(rank_info, run_id, secret, store))
        };
        Ok((0..world_size).map(job).collect())
    }

    /// Where this process stands in the job.
    pub fn rank_info(&self) -> &RankInfo {
        &self.rendezvous().rank_info
    }

    /// What this process was told about its place and its peers, and how.
    pub fn rendezvous(&self) -> &Rendezvous {
        self.rendezvous.as_ref().expect("present until the job is dropped")
    }

    /// Leaves the job now, as dropping it does, but with a deadline of the caller's and an error if
    /// it cannot be done in good order. While contexts of the job are alive it only lets go of this
    /// handle.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] if the others have not left at `deadline` (on a rank that hosts the
    /// coordinator) or the coordinator cannot be reached. The process has left all the same.
    pub fn finish(self: Arc<Self>, deadline: Instant) -> Result<(), SetupError> {
        let rendezvous = Arc::try_unwrap(self).ok().and_then(|mut job| job.rendezvous.take());
        match rendezvous {
            Some(rendezvous) => Ok(rendezvous.finish(deadline)?),
            None => Ok(()),
        }
    }

    pub(crate) fn report(&self, report: &OperationReport) {
        if let Some(control) = &self.rendezvous().control {
            // If the coordinator is gone, the next look for an abort says so.
            let _ = control.report(report);
        }
    }

    pub(crate) fn poll_abort(&self) -> Option<Abort> {
        self.rendezvous().control.as_ref()?.poll_abort()
    }
}

impl Drop for Job {
    /// Says goodbye, so that the end of this process is not taken for its death; a rank that hosts
    /// the coordinator also waits for the others. A panicking thread says nothing: that *is* a death.
    fn drop(&mut self) {
        if let Some(rendezvous) = self.rendezvous.take()
            && !std::thread::panicking()
        {
            // There is nobody left to tell of a failure, and the coordinator notices by itself.
            let _ = rendezvous.finish(Instant::now() + GOODBYE_TIMEOUT);
        }
    }
}

/// How long a rank that leaves waits for the coordinator, or for the other ranks if it hosts it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which transport to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// Shared memory if all ranks are on one node, else TCP.
    #[default]
    Auto,
    /// This one, or an error.
    Only(TransportKind),
}

/// How to make a context. Everything here must be equal on all ranks, except the interface.
#[derive(Clone, Debug)]
pub struct ContextOptions {
    /// Which transport carries the data.
    pub transport: TransportChoice,
    /// Which of this host's addresses to listen on.
    pub interface: InterfaceChoice,
    /// Which ports to listen on.
    pub port_range: PortRange,
    /// TCP sockets to each peer, 1 to 16.
    pub sockets_per_peer: u16,
    /// The algorithm for the collectives that know it; `None` chooses by size.
    pub algorithm: Option<Algorithm>,
    /// Longest time that an operation may take, default 60 s.
    pub timeout: Duration,
    /// Longest time until all ranks have met, default 30 s.
    pub start_timeout: Duration,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self {
            transport: TransportChoice::Auto,
            interface: InterfaceChoice::Auto,
            port_range: PortRange::ANY,
            sockets_per_peer: 1,
            algorithm: None,
            timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(30),
        }
    }
}

impl ContextOptions {
    /// The options that the `PACELINE_*` variables describe.
    ///
    /// # Errors
    /// [`SetupError`] names the variable whose value makes no sense.
    pub fn from_environment(environment: &(impl Environment + ?Sized)) -> Result<Self, SetupError> {
        let bootstrap_error =
            |error| SetupError::Bootstrap(paceline_rendezvous::BootstrapError::from(error));
        let text = |variable: &env::Variable| variable.text(environment).map_err(bootstrap_error);
        let mut options = Self::default();
        if let Some(name) = text(&env::TRANSPORT)? {
            options.transport = name.parse()?;
        }
        if let Some(name) = text(&env::INTERFACE)? {
            options.interface =
                name.parse().map_err(|error| invalid(&env::INTERFACE, &name, &error))?;
        }
        if let Some(range) = text(&env::PORT_RANGE)? {
            options.port_range =
                range.parse().map_err(|error| invalid(&env::PORT_RANGE, &range, &error))?;
        }
        if let Some(name) = text(&env::ALGORITHM)?.filter(|name| name != "auto") {
            let algorithm =
                name.parse().map_err(|error| invalid(&env::ALGORITHM, &name, &error))?;
            options.algorithm = Some(algorithm);
        }
        let seconds =
            |variable: &env::Variable| variable.seconds(environment).map_err(bootstrap_error);
        options.timeout = seconds(&env::TIMEOUT)?.unwrap_or(options.timeout);
        options.start_timeout = seconds(&env::START_TIMEOUT)?.unwrap_or(options.start_timeout);
        Ok(options)
    }
}

fn invalid(variable: &env::Variable, value: &str, error: &dyn std::fmt::Display) -> SetupError {
    SetupError::Option(format!("{variable}={value:?}: {error}"))
}

impl std::str::FromStr for TransportChoice {
    type Err = SetupError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "tcp" => Ok(Self::Only(TransportKind::Tcp)),
            "shm" => Ok(Self::Only(TransportKind::Shm)),
            _ => Err(SetupError::Option(format!(
                "unknown transport {name:?}; expected auto, tcp or shm"
            ))),
        }
    }
}

/// What each rank tells the others before they connect.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    transport: String,
    /// Where to find it, or why it cannot use the transport.
    address: Result<Vec<u8>, String>,
    cores: u32,
    local_size: u32,
    algorithm: u8,
}

/// A process's part in one group of ranks: connections to all others and an agreed plan.
///
/// There are no globals: several contexts may live in one process.
#[derive(Debug, Clone)]
pub struct Context {
    inner: Arc<ContextInner>,
}

/// What a context shares with its communicators.
#[derive(Debug)]
pub(crate) struct ContextInner {
    pub(crate) job: Arc<Job>,
    pub(crate) facts: PlanFacts,
    pub(crate) idle: IdlePolicy,
    pub(crate) timeout: Duration,
    wire: Mutex<Wire>,
    waiting: AtomicU32,
    /// Shared memory for the first communicator that is made.
    node: Mutex<Option<NodeGroup>>,
    communicators: AtomicU32,
    fallback: Option<String>,
}

impl ContextInner {
    /// The wire, for this thread alone until the guard is dropped.
    pub(crate) fn wire(&self) -> MutexGuard<'_, Wire> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Whether another thread wants the wire.
    pub(crate) fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn rank(&self) -> u32 {
        self.job.rank_info().rank
    }

    pub(crate) fn world_size(&self) -> u32 {
        self.job.rank_info().world_size
    }
}

impl Context {
    /// Joins the job that the environment describes, with the options that it describes: what a
    /// program started by `paceline run` calls first.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn from_environment() -> Result<Self, SetupError> {
        let options = ContextOptions::from_environment(&ProcessEnvironment)?;
        Self::new(&Job::from_environment()?, &options)
    }

    /// Connects all ranks of a job. All of them must make their contexts in the same order.
    ///
    /// # Errors
    /// [`SetupError`] names the step, and the peer if there is one.
    pub fn new(job: &Arc<Job>, options: &ContextOptions) -> Result<Self, SetupError> {
        let number = job.contexts.fetch_add(1, Ordering::Relaxed);
        let Connected { facts, wire, node, fallback } = if job.rank_info().world_size == 1 {
            Connected::alone(options)
        } else {
            Joining { job, options, number, deadline: Instant::now() + options.start_timeout }
                .connect()?
        };
        let inner = ContextInner {
            job: Arc::clone(job),
            idle: IdlePolicy::new(facts.oversubscribed),
            facts,
            timeout: options.timeout,
            wire: Mutex::new(wire),
            waiting: AtomicU32::new(0),
            node: Mutex::new(node),
            communicators: AtomicU32::new(0),
            fallback,
        };
        let context = Self { inner: Arc::new(inner) };
        context.agree()?;
        Ok(context)
    }

    /// The first operation on the new connections: all ranks compare what their plans follow from.
    fn agree(&self) -> Result<(), SetupError> {
        let mut hasher = DefaultHasher::new();
        self.inner.facts.hash(&mut hasher);
        let communicator = Communicator::new(&self.inner, AGREEMENT_COMMUNICATOR, None)?;
        communicator.agree(hasher.finish()).map_err(SetupError::Agreement)
    }

    /// A new communicator of all ranks. All of them must make theirs in the same order.
    ///
    /// Where the ranks share memory, the first communicator works in it directly; further ones
    /// exchange messages.
    ///
    /// # Errors
    /// [`SetupError::Memory`] if its staging memory cannot be had.
    pub fn communicator(&self) -> Result<Communicator, SetupError> {
        let id = self.inner.communicators.fetch_add(1, Ordering::Relaxed);
        let node = self.inner.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        Communicator::new(&self.inner, id, node)
    }

    /// Why the preferred transport is not used, if it is not.
    pub fn fallback(&self) -> Option<&str> {
        self.inner.fallback.as_deref()
    }

    /// This process's number, `0..world_size`.
    pub fn rank(&self) -> u32 {
        self.inner.rank()
    }

    /// How many ranks there are.
    pub fn world_size(&self) -> u32 {
        self.inner.world_size()
    }

    /// What carries the data.
    pub fn transport(&self) -> TransportKind {
        self.inner.facts.transport
    }

    /// What the plan follows from.
    pub fn plan_facts(&self) -> &PlanFacts {
        &self.inner.facts
    }

    /// Bytes sent and received on all connections so far, headers included.
    pub fn wire_bytes(&self) -> (u64, u64) {
        let wire = self.inner.wire();
        wire.endpoints.iter().flatten().fold((0, 0), |(sent, received), endpoint| {
            let bytes = endpoint.wire_bytes();
            (sent + bytes.0, received + bytes.1)
        })
    }
}

const AGREEMENT_COMMUNICATOR: u32 = u32::MAX;

fn cores() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// What comes of connecting.
struct Connected {
    facts: PlanFacts,
    wire: Wire,
    node: Option<NodeGroup>,
    fallback: Option<String>,
}

impl Connected {
    fn alone(options: &ContextOptions) -> Self {
        let facts = PlanFacts {
            world_size: 1,
            transport: TransportKind::Shm,
            oversubscribed: false,
            shared_memory: false,
            forced: options.algorithm,
        };
        Self { facts, wire: Wire::new(vec![None]), node: None, fallback: None }
    }
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
        match self.options.transport {
            TransportChoice::Only(TransportKind::Shm) => self.over_shared_memory(),
            TransportChoice::Auto if self.job.rank_info().is_on_one_node() => {
                // It succeeds on all ranks or on none, so that all fall back together.
                match self.over_shared_memory() {
                    Err(SetupError::Establish { transport, source }) => {
                        let fallback = Some(format!("{transport} cannot be used: {source}"));
                        Ok(Connected { fallback, ..self.over_tcp()? })
                    }
                    outcome => outcome,
                }
            }
            TransportChoice::Auto | TransportChoice::Only(_) => self.over_tcp(),
        }
    }

    fn over_tcp(&self) -> Result<Connected, SetupError> {
        let kind = TransportKind::Tcp;
        let control = self.job.rendezvous().control.as_ref();
        let transport = TcpTransport::bind(&TcpConfig {
            interface: self.options.interface.clone(),
            port_range: self.options.port_range,
            sockets_per_peer: self.options.sockets_per_peer,
            one_node: self.job.rank_info().is_on_one_node(),
            towards: control.map(|control| control.local_addr().ip()),
        });
        let cards = self.exchange(kind, &transport, TcpTransport::address)?;
        let transport = Box::new(transport.map_err(|source| failed(kind, source))?);
        let addresses = addresses(kind, &cards)?;
        let group = self.group(&addresses);
        let endpoints =
            transport.connect(&group, self.deadline).map_err(|source| failed(kind, source))?;
        let facts = self.facts(kind, &cards);
        Ok(Connected { facts, wire: Wire::new(endpoints), node: None, fallback: None })
    }

    fn over_shared_memory(&self) -> Result<Connected, SetupError> {
        let kind = TransportKind::Shm;
        let transport = ShmTransport::bind();
        let cards = self.exchange(kind, &transport, ShmTransport::address)?;
        let transport = transport.map_err(|source| failed(kind, source))?;
        let addresses = addresses(kind, &cards)?;
        let group = self.group(&addresses);
        let members: Vec<u32> = (0..self.job.rank_info().world_size).collect();
        let layout = arena_layout(self.job.rank_info().world_size);
        let node = transport
            .connect_node(&group, &members, Some(layout), self.deadline)
            .map_err(|source| failed(kind, source))?;
        let facts = self.facts(kind, &cards);
        let wire = Wire::new(node.endpoints);
        Ok(Connected { facts, wire, node: node.arena.map(NodeGroup::new), fallback: None })
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
            oversubscribed: cards.iter().any(|card| card.local_size > card.cores),
            shared_memory: transport == TransportKind::Shm,
            forced: self.options.algorithm,
        }
    }

    /// Publishes this rank's card and collects everybody's. A rank that cannot use the transport
    /// says so, lest the others wait for it.
    fn exchange<T>(
        &self,
        kind: TransportKind,
        transport: &Result<T, EstablishError>,
        address: impl Fn(&T) -> Vec<u8>,
    ) -> Result<Vec<Card>, SetupError> {
        let info = self.job.rank_info();
        let card = Card {
            transport: kind.name().to_owned(),
            address: transport.as_ref().map(address).map_err(ToString::to_string),
            cores: cores(),
            local_size: info.local_size,
            algorithm: self.options.algorithm.map_or(0, |algorithm| algorithm as u8),
        };
        let key = |rank: u32| format!("context/{}/{}/{kind}/{rank}", info.epoch, self.number);
        let text = serde_json::to_vec(&card).expect("a card is plain data");
        let store = &self.job.rendezvous().store;
        store.set(&key(info.rank), &text)?;
        (0..info.world_size)
            .map(|peer| {
                let text = store.get(&key(peer), self.deadline)?;
                let theirs: Card = serde_json::from_slice(&text)
                    .map_err(|error| SetupError::Peer { peer, what: error.to_string() })?;
                if theirs.algorithm == card.algorithm {
                    return Ok(theirs);
                }
                Err(SetupError::Peer {
                    peer,
                    what: format!(
                        "algorithm {}, but rank {} has {}; options must be equal on all ranks",
                        algorithm_name(theirs.algorithm),
                        info.rank,
                        algorithm_name(card.algorithm),
                    ),
                })
            })
            .collect()
    }
}

fn failed(transport: TransportKind, source: EstablishError) -> SetupError {
    SetupError::Establish { transport: transport.name(), source }
}

/// Everybody's address, unless somebody has none.
fn addresses(kind: TransportKind, cards: &[Card]) -> Result<Vec<Vec<u8>>, SetupError> {
    cards
        .iter()
        .enumerate()
        .map(|(rank, card)| {
            card.address.clone().map_err(|reason| {
                let reason = format!("rank {rank}: {reason}");
                failed(kind, EstablishError::Unusable { transport: kind.name(), reason })
            })
        })
        .collect()
}

fn algorithm_name(code: u8) -> &'static str {
    Algorithm::from_code(code).map_or("auto", Algorithm::name)
}

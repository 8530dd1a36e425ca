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
use paceline_transports::tcp::{InterfaceChoice, TcpConfig, TcpTransport};
use paceline_transports::{Group, Transport, TransportKind};
use serde::{Deserialize, Serialize};

use crate::communicator::Communicator;
use crate::engine::{IdlePolicy, Wire};
use crate::error::SetupError;
use crate::plan::{Algorithm, PlanFacts};

/// A process that has found the others of its job, and through which contexts are made.
#[derive(Debug)]
pub struct Job {
    rendezvous: Rendezvous,
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
        Arc::new(Self { rendezvous, contexts: AtomicU32::new(0) })
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
        &self.rendezvous.rank_info
    }

    /// What this process was told about its place and its peers, and how.
    pub fn rendezvous(&self) -> &Rendezvous {
        &self.rendezvous
    }

    pub(crate) fn report(&self, report: &OperationReport) {
        if let Some(control) = &self.rendezvous.control {
            // If the coordinator is gone, the next look for an abort says so.
            let _ = control.report(report);
        }
    }

    pub(crate) fn poll_abort(&self) -> Option<Abort> {
        self.rendezvous.control.as_ref()?.poll_abort()
    }
}

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
            options.interface = name.parse().map_err(|error| invalid(&env::INTERFACE, &error))?;
        }
        if let Some(range) = text(&env::PORT_RANGE)? {
            options.port_range =
                range.parse().map_err(|error| invalid(&env::PORT_RANGE, &error))?;
        }
        if let Some(name) = text(&env::ALGORITHM)?.filter(|name| name != "auto") {
            let algorithm = name.parse().map_err(|error| invalid(&env::ALGORITHM, &error))?;
            options.algorithm = Some(algorithm);
        }
        let seconds =
            |variable: &env::Variable| variable.seconds(environment).map_err(bootstrap_error);
        options.timeout = seconds(&env::TIMEOUT)?.unwrap_or(options.timeout);
        options.start_timeout = seconds(&env::START_TIMEOUT)?.unwrap_or(options.start_timeout);
        Ok(options)
    }
}

fn invalid(variable: &env::Variable, error: &dyn std::fmt::Display) -> SetupError {
    SetupError::Option(format!("{}: {error}", variable.name))
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

/// What each rank tells the others at the start.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    transport: String,
    address: Vec<u8>,
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
        let (facts, wire) = if job.rank_info().world_size == 1 {
            (Self::facts_alone(options), Wire::new(vec![None]))
        } else {
            Self::establish(job, options, number)?
        };
        let inner = ContextInner {
            job: Arc::clone(job),
            idle: IdlePolicy::new(facts.oversubscribed),
            facts,
            timeout: options.timeout,
            wire: Mutex::new(wire),
            waiting: AtomicU32::new(0),
        };
        let context = Self { inner: Arc::new(inner) };
        context.agree(options)?;
        Ok(context)
    }

    fn facts_alone(options: &ContextOptions) -> PlanFacts {
        PlanFacts {
            world_size: 1,
            transport: TransportKind::Shm,
            oversubscribed: false,
            shared_memory: true,
            direct_read: false,
            forced: options.algorithm,
        }
    }

    fn establish(
        job: &Arc<Job>,
        options: &ContextOptions,
        number: u32,
    ) -> Result<(PlanFacts, Wire), SetupError> {
        let deadline = Instant::now() + options.start_timeout;
        let info = job.rank_info();
        let failed = |source| SetupError::Establish { transport: "tcp", source };
        let transport = Box::new(
            TcpTransport::bind(&TcpConfig {
                interface: options.interface.clone(),
                port_range: options.port_range,
                sockets_per_peer: options.sockets_per_peer,
                one_node: info.is_on_one_node(),
                towards: job.rendezvous.control.as_ref().map(|control| control.local_addr().ip()),
            })
            .map_err(failed)?,
        );
        let card = Card {
            transport: transport.kind().name().to_owned(),
            address: transport.address(),
            cores: cores(),
            local_size: info.local_size,
            algorithm: options.algorithm.map_or(0, |algorithm| algorithm as u8),
        };
        let cards = exchange(job, number, &card, deadline)?;
        let facts = PlanFacts {
            world_size: info.world_size,
            transport: transport.kind(),
            oversubscribed: cards.iter().any(|card| card.local_size > card.cores),
            shared_memory: false,
            direct_read: false,
            forced: options.algorithm,
        };
        let addresses: Vec<Vec<u8>> = cards.into_iter().map(|card| card.address).collect();
        let group = Group {
            rank: info.rank,
            run_id: job.rendezvous.run_id,
            epoch: info.epoch,
            secret: &job.rendezvous.secret,
            addresses: &addresses,
        };
        let endpoints = transport.connect(&group, deadline).map_err(failed)?;
        Ok((facts, Wire::new(endpoints)))
    }

    /// The first operation on the new connections: all ranks compare what their plans follow from.
    fn agree(&self, options: &ContextOptions) -> Result<(), SetupError> {
        let mut hasher = DefaultHasher::new();
        self.inner.facts.hash(&mut hasher);
        let communicator = Communicator::new(&self.inner, AGREEMENT_COMMUNICATOR)?;
        communicator.agree(hasher.finish(), options.start_timeout).map_err(SetupError::Agreement)
    }

    /// The communicator of all ranks.
    ///
    /// # Errors
    /// [`SetupError::Memory`] if its staging memory cannot be had.
    pub fn communicator(&self) -> Result<Communicator, SetupError> {
        Communicator::new(&self.inner, WORLD_COMMUNICATOR)
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

const WORLD_COMMUNICATOR: u32 = 0;
const AGREEMENT_COMMUNICATOR: u32 = u32::MAX;

fn cores() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// Publishes this rank's card and collects everybody's.
fn exchange(
    job: &Job,
    number: u32,
    card: &Card,
    deadline: Instant,
) -> Result<Vec<Card>, SetupError> {
    let info = job.rank_info();
    let key = |rank: u32| format!("context/{}/{number}/card/{rank}", info.epoch);
    let text = serde_json::to_vec(card).expect("a card is plain data");
    job.rendezvous.store.set(&key(info.rank), &text)?;
    (0..info.world_size)
        .map(|peer| {
            let text = job.rendezvous.store.get(&key(peer), deadline)?;
            let theirs: Card = serde_json::from_slice(&text)
                .map_err(|error| SetupError::Peer { peer, what: error.to_string() })?;
            if theirs.transport == card.transport && theirs.algorithm == card.algorithm {
                return Ok(theirs);
            }
            Err(SetupError::Peer {
                peer,
                what: format!(
                    "transport {} and algorithm {}, but rank {} has {} and {}; options must be \
                     equal on all ranks",
                    theirs.transport,
                    algorithm_name(theirs.algorithm),
                    info.rank,
                    card.transport,
                    algorithm_name(card.algorithm),
                ),
            })
        })
        .collect()
}

fn algorithm_name(code: u8) -> &'static str {
    Algorithm::from_code(code).map_or("auto", Algorithm::name)
}

//! A process's part in a group: who it is, its connections, its plan.

mod options;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use paceline_rendezvous::message::GROUPS_MAX;
use paceline_rendezvous::{ActivitySource, ProcessEnvironment};
use paceline_transports::TransportKind;

pub(crate) use self::options::Sockets;
pub use self::options::{ContextOptions, TransportChoice};
use crate::communicator::Communicator;
use crate::connect::{Connected, connect};
use crate::counters::Counters;
use crate::courier::Courier;
use crate::engine::{IdlePolicy, Wire, WireTrace};
use crate::error::{AGREEMENT_COMMUNICATOR, SetupError};
use crate::job::Job;
use crate::members::Members;
use crate::meter::Meters;
use crate::node::NodeGroup;
use crate::plan::{Algorithm, PlanFacts};
use crate::simulated::Pace;
use crate::timeline::{self, Timeline};
use crate::tune::{Origin, tune};

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
    /// Its number among the contexts of the job, the same on all ranks.
    pub(crate) number: u32,
    pub(crate) facts: PlanFacts,
    pub(crate) idle: IdlePolicy,
    pub(crate) pace: Pace,
    pub(crate) timeout: Duration,
    pub(crate) meters: Arc<Meters>,
    timeline: OnceLock<Arc<Timeline>>,
    wire: Arc<Mutex<Wire>>,
    /// Absent as long as nothing was held back, `None` if there cannot be one.
    courier: OnceLock<Option<Courier>>,
    waiting: AtomicU32,
    /// Shared memory for the first communicator that is made.
    node: Mutex<Option<NodeGroup>>,
    communicators: AtomicU32,
    /// Groups that this rank has led, or was ready to lead.
    groups: AtomicU32,
    mixed: bool,
    origin: Origin,
    fallback: Option<String>,
    /// Whether ranks of one node may share memory where all ranks do not.
    shares_on_nodes: bool,
    /// As it was made.
    options: ContextOptions,
}

impl ContextInner {
    /// The wire, for this thread alone until the guard is dropped.
    pub(crate) fn wire(&self) -> MutexGuard<'_, Wire> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let guard = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// The wire, unless another thread has it.
    pub(crate) fn free_wire(&self) -> Option<MutexGuard<'_, Wire>> {
        match self.wire.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Who sends what this rank has held back, if it may hold back anything: not in a simulated world,
    /// which has no clock but its own.
    pub(crate) fn courier(&self) -> Option<&Courier> {
        let start = || matches!(self.pace, Pace::Real).then(|| Courier::start(&self.wire).ok());
        self.courier.get_or_init(|| start().flatten()).as_ref()
    }

    /// Whether another thread wants the wire.
    pub(crate) fn is_contended(&self) -> bool {
        self.waiting_for_wire() > 0
    }

    /// How many threads want the wire.
    pub(crate) fn waiting_for_wire(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Where events are recorded, if anywhere.
    #[inline]
    pub(crate) fn timeline(&self) -> Option<&Arc<Timeline>> {
        self.timeline.get()
    }

    /// A number for a group, should this rank lead it.
    pub(crate) fn reserve_group(&self) -> u32 {
        self.groups.fetch_add(1, Ordering::Relaxed)
    }

    /// It does not. The number is used again unless another one was reserved meanwhile.
    pub(crate) fn return_group(&self, number: u32) {
        let (order, last) = (Ordering::Relaxed, number.wrapping_add(1));
        let _ = self.groups.compare_exchange(last, number, order, order);
    }

    /// Whether ranks whose node is the same may be able to share memory; the same on all ranks.
    pub(crate) fn may_share_memory(&self) -> bool {
        self.facts.transport == TransportKind::Shm || self.shares_on_nodes
    }

    fn everybody(&self) -> Members {
        Members::everybody(self.rank(), self.world_size())
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
        let number = job.next_context();
        Self::connected(job, number, options, connect(job, number, options)?, Pace::Real)
    }

    /// Makes a context of connections.
    pub(crate) fn connected(
        job: &Arc<Job>,
        number: u32,
        options: &ContextOptions,
        connected: Connected,
        pace: Pace,
    ) -> Result<Self, SetupError> {
        let bound = matches!(
            options.algorithm,
            Some(Algorithm::TwoLevel | Algorithm::RecursiveDoubling | Algorithm::HalvingDoubling)
        );
        if let Some(algorithm) = options.algorithm.filter(|_| bound && options.any_plan) {
            let what = format!("the order of {algorithm} is its own: any-plan does without it");
            return Err(SetupError::Option(what));
        }
        let Connected { facts, wire, node, mixed, fallback } = connected;
        let connections = wire.endpoints.iter().flatten();
        let connections = connections.map(|endpoint| Arc::clone(endpoint.counters())).collect();
        let meters = Arc::new(Meters::new(number, connections));
        job.watch(&(Arc::clone(&meters) as Arc<dyn ActivitySource>));
        let inner = ContextInner {
            job: Arc::clone(job),
            number,
            idle: pace.idle_policy(facts.oversubscribed),
            pace,
            facts,
            timeout: options.timeout,
            meters,
            timeline: OnceLock::new(),
            wire: Arc::new(Mutex::new(wire)),
            courier: OnceLock::new(),
            waiting: AtomicU32::new(0),
            node: Mutex::new(node),
            communicators: AtomicU32::new(0),
            groups: AtomicU32::new(0),
            shares_on_nodes: options.transport == TransportChoice::Auto && fallback.is_none(),
            mixed,
            origin: Origin::BuiltIn,
            fallback,
            options: options.clone(),
        };
        let mut context = Self { inner: Arc::new(inner) };
        let Some(path) = &options.timeline else {
            context.settle(options)?;
            return Ok(context);
        };
        let failed = |source| SetupError::Timeline { path: path.clone(), source };
        // One rank of each host makes the file, before all agree; all open it afterwards. Later epochs
        // go on in it.
        let is_first = number == 0 && job.rank_info().epoch == job.rendezvous().rank_info.epoch;
        if is_first && job.rank_info().local_rank == 0 {
            timeline::create(path).map_err(failed)?;
        }
        context.settle(options)?;
        context.record_to(path).map_err(failed)?;
        Ok(context)
    }

    fn record_to(&self, path: &Path) -> io::Result<()> {
        let ContextInner { number: context, facts, .. } = &*self.inner;
        let (rank, context, transport) = (self.rank(), *context, facts.transport.name());
        let place = timeline::Place { rank, context, transport };
        let timeline = Arc::new(Timeline::open(path, place)?);
        let mut wire = self.inner.wire();
        let peers = wire.endpoints.len();
        wire.trace = Some(Box::new(WireTrace::new(Arc::clone(&timeline), peers)));
        drop(wire);
        self.inner.timeline.set(timeline).expect("it is set here, once");
        Ok(())
    }

    /// Gives up the epoch and makes a context like this one in the next, after an operation has failed
    /// without the loss of a rank. All ranks must call it, or [`Job::next_epoch`] and
    /// [`Context::new`]; it waits for them for as long as a start may take.
    ///
    /// Everything that belongs to the old epoch takes no more operations, also other contexts of the job.
    ///
    /// # Errors
    /// Those of [`Job::next_epoch`] and [`Context::new`].
    pub fn renew(&self) -> Result<Self, SetupError> {
        let Self { inner } = self;
        Self::new(&inner.job.next_epoch(inner.options.start_timeout)?, &inner.options)
    }

    /// The job, in the epoch that this context belongs to.
    pub fn job(&self) -> &Arc<Job> {
        &self.inner.job
    }

    /// The first operations on the new connections: all ranks compare what their plans follow from, and
    /// find the numbers for them.
    fn settle(&mut self, options: &ContextOptions) -> Result<(), SetupError> {
        let everybody = self.inner.everybody();
        let communicator = Communicator::new(&self.inner, AGREEMENT_COMMUNICATOR, everybody, None)?;
        let compare = |facts: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            facts(&mut hasher);
            let agreed = communicator.agree(hasher.finish());
            agreed.map_err(|error| SetupError::Agreement(Box::new(error)))
        };
        compare(&|hasher| self.inner.facts.hash(hasher))?;
        if self.world_size() == 1 {
            return Ok(());
        }
        let rank_info = self.inner.job.rank_info();
        let measures = options.measures(rank_info);
        let sockets = Sockets::new(options, rank_info);
        let (mut tuning, origin) = tune(&communicator, measures, options.plan.as_deref(), sockets)?;
        tuning.sockets = sockets.used(&tuning);
        communicator.use_channels(tuning.sockets);
        if origin != Origin::BuiltIn {
            compare(&|hasher| tuning.hash(hasher))?;
        }
        // Everybody has come here, so that nobody sends on the others any more.
        self.inner.wire().close_unused_channels();
        drop(communicator);
        let inner = Arc::get_mut(&mut self.inner).expect("nobody else has the context yet");
        inner.facts.tuning = tuning;
        inner.origin = origin;
        Ok(())
    }

    /// Where the numbers come from that plans depend on.
    pub fn plan_origin(&self) -> &Origin {
        &self.inner.origin
    }

    /// A new communicator of all ranks. All of them must make theirs in the same order.
    ///
    /// Where all ranks share memory, its collectives work in it directly. The first communicator takes
    /// what was shared when the context was made; for each further one the ranks share more, and
    /// wait for each other.
    ///
    /// # Errors
    /// [`SetupError::Split`] if the ranks that were to share memory did not come.
    pub fn communicator(&self) -> Result<Communicator, SetupError> {
        let id = self.inner.communicators.fetch_add(1, Ordering::Relaxed);
        let node = self.inner.node.lock().unwrap_or_else(PoisonError::into_inner).take();
        if id >= GROUPS_MAX {
            let what = format!("more than {GROUPS_MAX} communicators in one context");
            return Err(SetupError::Option(what));
        }
        let shares = node.is_some();
        let mut communicator = Communicator::new(&self.inner, id, self.inner.everybody(), node)?;
        if !shares {
            communicator.share_memory()?;
        }
        Ok(communicator)
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &ContextInner {
        &self.inner
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

    /// What carries the data: the name of the transport, or `tcp+shm` where ranks on several nodes use
    /// TCP between nodes and shared memory on each.
    pub fn carrier(&self) -> &'static str {
        if self.inner.mixed { "tcp+shm" } else { self.transport().name() }
    }

    /// What carries the data, between nodes if there are several.
    pub fn transport(&self) -> TransportKind {
        self.inner.facts.transport
    }

    /// What the plan follows from.
    pub fn plan_facts(&self) -> &PlanFacts {
        &self.inner.facts
    }

    /// Bytes of memory that this rank holds for its connections: queues, staging, messages that came
    /// early, and its part of shared memory. What its communicators hold
    /// ([`Communicator::memory_bytes`]) and the kernel's socket buffers come on top.
    ///
    /// It is bounded whatever the peers do, and all but constant: at most 1 MiB of early messages
    /// per peer and communicator, and tables for as many messages as may be posted.
    pub fn memory_bytes(&self) -> usize {
        let node = self.inner.node.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.wire().memory_bytes() + node.as_ref().map_or(0, NodeGroup::memory_bytes)
    }

    /// What has crossed the connections, what was done and waited for, and what is in progress.
    /// Never waits for an operation, so that it may be asked while one does not end.
    pub fn counters(&self) -> Counters {
        self.inner.meters.read(Instant::now())
    }

    /// Bytes sent and received on all connections so far, headers included.
    pub fn wire_bytes(&self) -> (u64, u64) {
        let peers = self.counters().peers;
        peers.iter().fold((0, 0), |(sent, received), peer| {
            (sent + peer.total.sent.wire_bytes, received + peer.total.received.wire_bytes)
        })
    }
}

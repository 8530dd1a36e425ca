//! Worlds for tests in which nothing is left to chance: all ranks in one process, over a simulated
//! network, in virtual time.
//!
//! What runs is all of a rank but its sockets: communicators, plans, engine, deadlines, messages,
//! frames. Each rank has a thread, but only one of them runs at a time, until it waits; then
//! another one has its turn, in an order that follows from the seed, and when all have waited a
//! tick of virtual time passes. So the same seed gives the same run, and a deadline of a minute
//! takes no time at all.
//!
//! ```
//! use paceline_collectives::simulated::SimulatedWorld;
//! use paceline_collectives::{CollectiveError, ReduceOp};
//! use paceline_transports::sim::{Fault, LinkProfile, SimConfig, SimNetwork, When};
//!
//! let network = SimNetwork::new(SimConfig {
//!     seed: 7,
//!     world_size: 3,
//!     streams_per_peer: 1,
//!     profile: LinkProfile::choppy(),
//! });
//! let midway = When::Sent { from: 1, to: 2, bytes: 10_000 };
//! network.schedule(midway, Fault::Cut { one: 1, other: 2 });
//! let outcomes = SimulatedWorld::new(network).run(|context| {
//!     let communicator = context.expect("nothing is broken yet").communicator().expect("nor here");
//!     communicator.barrier()?;
//!     let mut data = vec![1.0f32; 10_000];
//!     communicator.all_reduce(&mut data, ReduceOp::Sum)
//! });
//! assert!(outcomes.iter().any(Result::is_err));
//! ```
//!
//! Invariants:
//! 1. Whoever's turn it is runs; all others sleep.
//! 2. Time passes only when every rank that has not ended has waited since it last passed.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use paceline_transports::sim::SimNetwork;
use paceline_transports::{Checksum, Endpoint, Group, Patience, Transport, TransportKind};

use crate::connect::Connected;
use crate::context::{Context, ContextOptions, TransportChoice};
use crate::engine::IdlePolicy;
use crate::error::SetupError;
use crate::job::Job;
use crate::plan::Algorithm;

/// Virtual time after which a world that has not ended hangs: several default deadlines.
const TICKS_MAX: u64 = 1_000_000;

/// Rounds without a transfer before time passes faster: longer than any link delays.
const QUIET_ROUNDS: u64 = 100;

/// Ticks of a round at most: a rank that sees a whole second pass at once takes itself for one that
/// was stopped.
const TICKS_PER_ROUND_MAX: u64 = 250;

/// Readings of the clock in one turn that only a rank takes which moves something for ever.
const READINGS_MAX: u32 = 100_000;

/// A world over a simulated network.
#[derive(Debug)]
pub struct SimulatedWorld {
    network: SimNetwork,
    options: ContextOptions,
    oversubscribed: bool,
}

impl SimulatedWorld {
    /// With the default options of a context.
    pub fn new(network: SimNetwork) -> Self {
        // Not a choice that lets groups try to share memory: that takes sockets, and time.
        let transport = TransportChoice::Only(TransportKind::Sim);
        let options = ContextOptions { transport, ..ContextOptions::default() };
        Self { network, options, oversubscribed: false }
    }

    /// Forces an algorithm, as [`ContextOptions::algorithm`] does.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Option<Algorithm>) -> Self {
        self.options.algorithm = algorithm;
        self
    }

    /// How long an operation may take, in virtual time: a tick is a millisecond.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    /// Whether frames carry checksums, as [`ContextOptions::checksum`] does.
    #[must_use]
    pub fn checksum(mut self, checksum: Checksum) -> Self {
        self.options.checksum = checksum;
        self
    }

    /// Whether plans are made as if ranks outnumbered cores.
    #[must_use]
    pub fn oversubscribed(mut self, oversubscribed: bool) -> Self {
        self.oversubscribed = oversubscribed;
        self
    }

    /// Runs `body` as every rank, and returns what each returned. A context is an error where the
    /// network broke before its ranks had agreed.
    ///
    /// # Panics
    /// With the panic of a rank, and if the ranks are not done after a thousand seconds of virtual
    /// time; the message has the seed.
    pub fn run<R: Send>(&self, body: impl Fn(Result<Context, SetupError>) -> R + Sync) -> Vec<R> {
        let world_size = self.network.world_size();
        let jobs = Job::in_process(world_size).expect("the system has random numbers");
        // All connect before anybody runs: connecting does not wait.
        let connections: Vec<_> = jobs.iter().map(|job| self.connect(job)).collect();
        let turns = Arc::new(Turns::new(self.network.clone()));
        let rank = |job: Arc<Job>, connections: Connections| {
            let rank = job.rank_info().rank;
            let pace = Pace::Simulated { turns: Arc::clone(&turns), rank };
            let leaving = turns.begin(rank);
            let number = job.next_context();
            let connected = Connected::simulated(connections, &self.options, self.oversubscribed);
            let context = Context::connected(&job, number, &self.options, connected, pace);
            let outcome = body(context);
            drop(job);
            drop(leaving);
            outcome
        };
        thread::scope(|scope| {
            let start = |(job, connections)| {
                let rank = &rank;
                let builder = thread::Builder::new().name("rank".to_owned());
                builder.spawn_scoped(scope, move || rank(job, connections))
            };
            let ranks: Vec<_> = jobs.into_iter().zip(connections).map(start).collect();
            let ranks = ranks.into_iter().map(|rank| rank.expect("the system has threads"));
            let ended: Vec<_> = ranks.map(thread::ScopedJoinHandle::join).collect();
            ended.into_iter().map(|end| end.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    }

    fn connect(&self, job: &Job) -> Connections {
        let network = &self.network;
        let rendezvous = job.rendezvous();
        let addresses: Vec<Vec<u8>> =
            (0..network.world_size()).map(|rank| network.transport(rank).address()).collect();
        let rank = job.rank_info().rank;
        let group = Group {
            rank,
            run_id: rendezvous.run_id,
            epoch: job.rank_info().epoch,
            checksum: self.options.checksum,
            secret: &rendezvous.secret,
            addresses: &addresses,
        };
        let transport = Box::new(network.transport(rank));
        let patience = Patience::until(Instant::now());
        transport.connect(&group, &patience).expect("nobody runs yet, so nothing is broken")
    }
}

type Connections = Vec<Option<Box<dyn Endpoint>>>;

/// Where a context gets the time from, and what it does in place of sleeping.
#[derive(Debug)]
pub(crate) enum Pace {
    /// The system's clock; waiting is sleeping.
    Real,
    /// Virtual time; waiting lets the other ranks run.
    Simulated { turns: Arc<Turns>, rank: u32 },
}

impl Pace {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            Self::Simulated { turns, .. } => turns.now(),
        }
    }

    pub(crate) fn idle_policy(&self, oversubscribed: bool) -> IdlePolicy {
        match self {
            Self::Real => IdlePolicy::new(oversubscribed),
            Self::Simulated { .. } => IdlePolicy::SIMULATED,
        }
    }

    /// In a simulated world, lets the others have their turns and returns true.
    pub(crate) fn let_others_run(&self) -> bool {
        match self {
            Self::Real => false,
            Self::Simulated { turns, rank } => {
                turns.pass_on(*rank);
                true
            }
        }
    }
}

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Turns {
    network: SimNetwork,
    state: Mutex<State>,
    /// One for each rank.
    bells: Vec<Condvar>,
    readings: AtomicU32,
}

#[derive(Debug)]
struct State {
    current: u32,
    /// Ranks that have not ended.
    live: Vec<u32>,
    /// Those that have not had their turn in this round; the next one last.
    round: Vec<u32>,
    random: u64,
    quiet_rounds: u64,
    trace_hash: u64,
    /// Why all have to end.
    hang: Option<String>,
}

impl Turns {
    fn new(network: SimNetwork) -> Self {
        let ranks = network.world_size();
        let mut state = State {
            current: 0,
            live: (0..ranks).collect(),
            round: Vec::new(),
            random: network.seed(),
            quiet_rounds: 0,
            trace_hash: 0,
            hang: None,
        };
        state.next(&network);
        let bells = (0..ranks).map(|_| Condvar::new()).collect();
        Self { network, state: Mutex::new(state), bells, readings: AtomicU32::new(0) }
    }

    /// Waits for the first turn of a rank. It gives the turn up for good when what this returns is
    /// dropped.
    fn begin(&self, rank: u32) -> Leaving<'_> {
        drop(self.await_turn(rank, self.lock()));
        Leaving { turns: self, rank }
    }

    /// Waits until all others have had their turns.
    fn pass_on(&self, rank: u32) {
        let mut state = self.lock();
        state.next(&self.network);
        self.ring(&state);
        let state = self.await_turn(rank, state);
        let hang = state.hang.clone();
        drop(state);
        if let Some(hang) = hang {
            panic!("{hang}");
        }
    }

    fn await_turn<'a>(&self, rank: u32, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let bell = &self.bells[rank as usize];
        while state.current != rank && state.hang.is_none() {
            state = bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.readings.store(0, Ordering::Relaxed);
        state
    }

    fn ring(&self, state: &State) {
        if state.hang.is_some() {
            self.bells.iter().for_each(Condvar::notify_all);
        } else {
            self.bells[state.current as usize].notify_all();
        }
    }

    fn now(&self) -> Instant {
        let readings = self.readings.fetch_add(1, Ordering::Relaxed);
        let (seed, rank) = (self.network.seed(), self.lock().current);
        assert!(readings < READINGS_MAX, "seed {seed}: rank {rank} moves something for ever");
        self.network.instant()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Chooses who is next; lets time pass if all have had their turns.
    fn next(&mut self, network: &SimNetwork) {
        if self.round.is_empty() {
            self.begin_round(network);
        }
        if let Some(next) = self.round.pop() {
            self.current = next;
        }
    }

    fn begin_round(&mut self, network: &SimNetwork) {
        let trace_hash = network.trace_hash();
        let quiet = std::mem::replace(&mut self.trace_hash, trace_hash) == trace_hash;
        self.quiet_rounds = if quiet { self.quiet_rounds + 1 } else { 0 };
        let ticks = self.quiet_rounds.saturating_sub(QUIET_ROUNDS).clamp(1, TICKS_PER_ROUND_MAX);
        (0..ticks).for_each(|_| network.tick());
        if network.now() > TICKS_MAX {
            let (seed, last) = (network.seed(), network.recent_transfers());
            let Self { live, .. } = self;
            self.hang = Some(format!("seed {seed}: ranks {live:?} hang; last transfers: {last:?}"));
        }
        self.round.clone_from(&self.live);
        for last in (1..self.round.len()).rev() {
            let other = self.draw() % (last as u64 + 1);
            self.round.swap(last, usize::try_from(other).expect("64-bit"));
        }
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// A rank that has its turns until this is dropped.
struct Leaving<'a> {
    turns: &'a Turns,
    rank: u32,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.live.retain(|rank| *rank != self.rank);
        state.round.retain(|rank| *rank != self.rank);
        if state.current == self.rank && !state.live.is_empty() {
            state.next(&self.turns.network);
        }
        self.turns.ring(&state);
    }
}

#[cfg(test)]
mod tests {
    use paceline_devices::ReduceOp;
    use paceline_transports::sim::{Fault, LinkProfile, SimConfig, When};

    use super::*;
    use crate::error::CollectiveError;

    fn network(seed: u64, world_size: u32) -> SimNetwork {
        let profile = LinkProfile::choppy();
        SimNetwork::new(SimConfig { seed, world_size, streams_per_peer: 2, profile })
    }

    fn sums(network: &SimNetwork) -> Vec<Result<(), CollectiveError>> {
        SimulatedWorld::new(network.clone()).run(|context| {
            let communicator = context.unwrap().communicator().unwrap();
            for count in [1, 1000, 30_000] {
                let mut data = vec![communicator.rank(); count];
                communicator.all_reduce(&mut data, ReduceOp::Sum)?;
                let ranks = communicator.world_size();
                assert_eq!(data, vec![ranks * (ranks - 1) / 2; count]);
            }
            Ok(())
        })
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let trace = |seed| {
            let network = network(seed, 4);
            sums(&network).into_iter().for_each(|outcome| outcome.unwrap());
            (network.trace_hash(), network.now())
        };
        for seed in 0..5 {
            assert_eq!(trace(seed), trace(seed), "seed {seed}");
        }
        assert_ne!(trace(1), trace(2));
    }

    #[test]
    fn deadlines_pass_in_virtual_time() {
        let network = network(1, 3);
        network.schedule(When::Sent { from: 0, to: 1, bytes: 5000 }, Fault::Stop { rank: 0 });
        for (rank, outcome) in sums(&network).into_iter().enumerate() {
            let error = outcome.unwrap_err();
            let lost = matches!(error, CollectiveError::PeerLost { .. });
            assert!(error.is_timeout() || lost, "rank {rank}: {error}");
        }
        assert!(network.now() >= 60_000, "{} ticks", network.now());
    }

    #[test]
    #[should_panic(expected = "rank 1 of 2 is broken")]
    fn a_rank_that_panics_ends_the_run() {
        SimulatedWorld::new(network(1, 2)).run(|context| {
            let context = context.unwrap();
            assert!(context.rank() == 0, "rank 1 of 2 is broken");
            let _ = context.communicator().unwrap().barrier();
        });
    }

    #[test]
    #[should_panic(expected = "hang")]
    fn a_rank_that_waits_for_ever_is_noticed() {
        let forever = Duration::from_secs(1 << 20);
        SimulatedWorld::new(network(1, 2)).timeout(forever).run(|context| {
            let context = context.unwrap();
            if context.rank() == 0 {
                let _ = context.communicator().unwrap().recv(&mut [0u8], 1, 0);
            } else {
                let _ = context.communicator().unwrap().recv(&mut [0u8], 0, 0);
            }
        });
    }
}

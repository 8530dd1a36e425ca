use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pipe::{LinkProfile, Pipe};
use super::random::Random;
use super::transport::{Member, SimTransport};

/// What a tick stands for where a clock is asked for.
const TICK: Duration = Duration::from_millis(1);

/// Transfers that [`SimNetwork::recent_transfers`] shows.
const RECENT_MAX: usize = 64;

/// The simulated world.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// Ranks.
    pub world_size: u32,
    /// Streams between two ranks, 1 to 16.
    pub streams_per_peer: u16,
    /// How all links behave at first.
    pub profile: LinkProfile,
}

/// What can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// What `from` sends to `to` is lost, and nobody is told.
    Silence {
        /// The sender.
        from: u32,
        /// Who hears nothing.
        to: u32,
    },
    /// The connections between two ranks are reset; what was under way is lost.
    Cut {
        /// One of them.
        one: u32,
        /// The other.
        other: u32,
    },
    /// One bit of what `from` sends to `to` next is turned round.
    Corrupt {
        /// The sender.
        from: u32,
        /// The receiver.
        to: u32,
    },
    /// The process of a rank ends at once: what it sent still arrives, then its connections end.
    Kill {
        /// Whose.
        rank: u32,
    },
    /// The process of a rank stops: it stays connected, neither sends nor receives.
    Stop {
        /// Whose.
        rank: u32,
    },
    /// It goes on.
    Resume {
        /// Whose.
        rank: u32,
    },
}

/// When something breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// At this tick.
    Tick(u64),
    /// As soon as `from` has sent so many bytes to `to`.
    Sent {
        /// The sender.
        from: u32,
        /// The receiver.
        to: u32,
        /// Bytes, headers included.
        bytes: u64,
    },
}

/// One transfer of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// When.
    pub tick: u64,
    /// Who sent the bytes.
    pub from: u32,
    /// To whom.
    pub to: u32,
    /// On which of the streams between the two.
    pub channel: u16,
    /// Whether this is the write (else the read).
    pub write: bool,
    /// How many bytes.
    pub bytes: usize,
}

/// The network of a simulated job, shared by its ranks and the test that drives them.
///
/// It has a virtual clock that only [`tick`](Self::tick) moves. Stepped by one thread, the same
/// seed gives the same trace.
#[derive(Clone)]
pub struct SimNetwork {
    state: Arc<Mutex<State>>,
    epoch: Instant,
}

pub(super) struct State {
    config: SimConfig,
    tick: u64,
    pipes: Vec<Pipe>,
    stopped: Vec<bool>,
    killed: Vec<bool>,
    scheduled: Vec<(When, Fault)>,
    recent: VecDeque<Transfer>,
    trace_hash: u64,
    pub(super) members: Vec<Option<Member>>,
    pub(super) absent: Vec<u32>,
}

/// Which direction of which stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct PipeId {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) channel: u16,
}

impl SimNetwork {
    /// A network in which nothing has happened yet, at tick 0.
    pub fn new(mut config: SimConfig) -> Self {
        config.streams_per_peer = config.streams_per_peer.clamp(1, 16);
        let ranks = config.world_size as usize;
        let count = ranks * ranks * usize::from(config.streams_per_peer);
        let pipe = |at| Pipe::new(config.profile.clone(), Random::new(config.seed, at));
        let state = State {
            tick: 0,
            pipes: (0..count as u64).map(pipe).collect(),
            stopped: vec![false; ranks],
            killed: vec![false; ranks],
            scheduled: Vec::new(),
            recent: VecDeque::new(),
            trace_hash: 0xcbf2_9ce4_8422_2325,
            members: (0..ranks).map(|_| None).collect(),
            absent: Vec::new(),
            config,
        };
        Self { state: Arc::new(Mutex::new(state)), epoch: Instant::now() }
    }

    /// The transport of one rank.
    ///
    /// # Panics
    /// When the job has no such rank.
    pub fn transport(&self, rank: u32) -> SimTransport {
        assert!(rank < self.world_size(), "rank {rank} of {}", self.world_size());
        SimTransport::new(self.clone(), rank)
    }

    /// Ranks.
    pub fn world_size(&self) -> u32 {
        self.lock().config.world_size
    }

    /// The seed, for the message of a failing test.
    pub fn seed(&self) -> u64 {
        self.lock().config.seed
    }

    /// Moves the clock on by one tick; scheduled faults happen.
    pub fn tick(&self) {
        let mut state = self.lock();
        state.tick += 1;
        state.run_scheduled();
    }

    /// The virtual time in ticks.
    pub fn now(&self) -> u64 {
        self.lock().tick
    }

    /// The virtual time as the kind of clock that engines take: a millisecond per tick.
    pub fn instant(&self) -> Instant {
        self.epoch + TICK * u32::try_from(self.now()).unwrap_or(u32::MAX)
    }

    /// Changes how the link from one rank to another behaves from now on.
    pub fn set_profile(&self, from: u32, to: u32, profile: &LinkProfile) {
        self.lock().for_link(from, to, |pipe| pipe.set_profile(profile.clone()));
    }

    /// Breaks something now.
    pub fn inject(&self, fault: Fault) {
        self.lock().inject(fault);
    }

    /// Breaks something later.
    pub fn schedule(&self, when: When, fault: Fault) {
        self.lock().scheduled.push((when, fault));
    }

    /// These ranks never come: whoever connects is told so.
    pub fn set_absent(&self, ranks: &[u32]) {
        self.lock().absent = ranks.to_vec();
    }

    /// A number that stands for every transfer so far: who, when, how many bytes.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace_hash
    }

    /// The last transfers, oldest first.
    pub fn recent_transfers(&self) -> Vec<Transfer> {
        self.lock().recent.iter().copied().collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is a failing test; what it left is still good for reporting it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimNetwork")
            .field("seed", &state.config.seed)
            .field("tick", &state.tick)
            .field("trace_hash", &state.trace_hash)
            .finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn streams_per_peer(&self) -> u16 {
        self.config.streams_per_peer
    }

    pub(super) fn write(&mut self, id: PipeId, parts: [&[u8]; 3]) -> io::Result<usize> {
        self.check_alive(id.from)?;
        let tick = self.tick;
        let written = self.pipe(id).write(tick, parts)?;
        self.record(id, true, written);
        if !self.scheduled.is_empty() {
            self.run_scheduled();
        }
        Ok(written)
    }

    pub(super) fn read(
        &mut self,
        id: PipeId,
        first: &mut [u8],
        second: &mut [u8],
    ) -> io::Result<usize> {
        self.check_alive(id.to)?;
        let tick = self.tick;
        let read = self.pipe(id).read(tick, first, second)?;
        self.record(id, false, read);
        Ok(read)
    }

    /// The end of `rank` closes its side of a stream.
    pub(super) fn close(&mut self, rank: u32, peer: u32, channel: u16) {
        self.pipe(PipeId { from: rank, to: peer, channel }).ended = true;
        self.pipe(PipeId { from: peer, to: rank, channel }).deaf = true;
    }

    fn check_alive(&self, rank: u32) -> io::Result<()> {
        if self.killed[rank as usize] {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.stopped[rank as usize] {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    }

    pub(super) fn pipe(&mut self, id: PipeId) -> &mut Pipe {
        let ranks = self.config.world_size as usize;
        let link = id.from as usize * ranks + id.to as usize;
        let at = link * usize::from(self.config.streams_per_peer) + usize::from(id.channel);
        &mut self.pipes[at]
    }

    fn for_link(&mut self, from: u32, to: u32, mut change: impl FnMut(&mut Pipe)) {
        for channel in 0..self.config.streams_per_peer {
            change(self.pipe(PipeId { from, to, channel }));
        }
    }

    fn run_scheduled(&mut self) {
        let mut at = 0;
        while at < self.scheduled.len() {
            let (when, fault) = self.scheduled[at];
            let due = match when {
                When::Tick(tick) => self.tick >= tick,
                When::Sent { from, to, bytes } => {
                    let mut sent = 0;
                    self.for_link(from, to, |pipe| sent += pipe.carried);
                    sent >= bytes
                }
            };
            if due {
                self.scheduled.remove(at);
                self.inject(fault);
            } else {
                at += 1;
            }
        }
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Silence { from, to } => self.for_link(from, to, |pipe| pipe.silent = true),
            Fault::Cut { one, other } => {
                self.for_link(one, other, Pipe::reset);
                self.for_link(other, one, Pipe::reset);
            }
            Fault::Corrupt { from, to } => {
                self.pipe(PipeId { from, to, channel: 0 }).corrupt = true;
            }
            Fault::Kill { rank } => {
                self.killed[rank as usize] = true;
                for peer in (0..self.config.world_size).filter(|peer| *peer != rank) {
                    self.for_link(rank, peer, |pipe| pipe.ended = true);
                    self.for_link(peer, rank, |pipe| pipe.deaf = true);
                }
            }
            Fault::Stop { rank } => self.stopped[rank as usize] = true,
            Fault::Resume { rank } => self.stopped[rank as usize] = false,
        }
    }

    fn record(&mut self, id: PipeId, write: bool, bytes: usize) {
        let PipeId { from, to, channel } = id;
        let transfer = Transfer { tick: self.tick, from, to, channel, write, bytes };
        let numbers = [
            transfer.tick,
            u64::from(from) << 32 | u64::from(to),
            u64::from(channel) << 1 | u64::from(write),
            bytes as u64,
        ];
        for number in numbers {
            self.trace_hash = (self.trace_hash ^ number).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(transfer);
    }
}

//! Jobs whose hosts are played: the whole launcher, and as many agents as one likes as tasks of one
//! thread, which speak the agents' protocol over sockets. For tests and for measuring.
//!
//! Played are ssh, the agents and the ranks: nothing is started. Each agent takes two connections, in
//! place of ssh's pipes: one for orders and reports, one that stands for its standard error.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::JobEvent;
use crate::doctor::question::{Answer, Question};
use crate::output::Stream;
use crate::plan::LaunchPlan;
use crate::probe::{Door, Way};
use crate::process::build_id;
use crate::process::wait::{Ending, ResourceUsage};
use crate::protocol::facts::{self, AgentFacts, HostAddress};
use crate::protocol::link::{self, FrameReader, LinkError};
use crate::protocol::messages::{AgentConfig, Order, RankExit, Report};
use crate::run::agents::{Agent, FromAgent, Streams};
use crate::run::{Outcome, RunError, Source, run_from};

/// What the ranks do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// Each says a line and exits with 0.
    Success,
    /// Once all run, rank 0 exits with 1; the others end when they are told to.
    Failure,
}

/// What the agents were told, all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Agents that have had a job.
    pub agents: u32,
    /// Bytes of orders.
    pub bytes: u64,
    /// Most bytes of orders to one agent.
    pub bytes_max: u64,
}

/// Runs a job whose agents are played by whoever listens at `stage`.
///
/// # Errors
/// As [`run`](crate::run()).
pub fn run_on_stage(
    plan: LaunchPlan,
    stage: PathBuf,
    mut on_event: impl FnMut(&JobEvent),
) -> Result<Outcome, RunError> {
    let mut tell = |event: &JobEvent| {
        on_event(event);
        Vec::new()
    };
    run_from(plan, Source::Stage(stage), None, &mut tell)
}

/// The launcher's side of an agent: what starting ssh is elsewhere.
pub(crate) fn enter(
    stage: &Path,
    host: Option<&str>,
    on_event: impl Fn(FromAgent) + Clone + Send + 'static,
) -> Result<Agent, RunError> {
    let streams = || -> io::Result<Streams> {
        let output = UnixStream::connect(stage)?;
        let errors = UnixStream::connect(stage)?;
        let input = output.try_clone()?;
        Ok(Streams { input: input.into(), output: output.into(), errors: Some(errors.into()) })
    };
    let streams = streams()
        .map_err(|source| RunError::StartAgent { program: stage.to_path_buf(), source })?;
    Agent::over(streams, None, host, on_event)
}

/// Plays so many agents, until the launcher has dismissed all of them. Blocks.
///
/// # Errors
/// What the system has against it, or what a launcher says that makes no sense.
pub fn play(stage: UnixListener, agents: u32, world_size: u32, play: Play) -> io::Result<Heard> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        stage.set_nonblocking(true)?;
        let stage = tokio::net::UnixListener::from_std(stage)?;
        let scene = Arc::new(Scene {
            play,
            world_size,
            build: build_id::of_this_process(),
            started: watch::channel(0).0,
        });
        let mut players = JoinSet::new();
        for number in 0..agents {
            let (link, _) = stage.accept().await?;
            let (errors, _) = stage.accept().await?;
            players.spawn(perform(number, link.into_std()?, errors, Arc::clone(&scene)));
        }
        let mut heard = Heard::default();
        while let Some(bytes) = players.join_next().await {
            let bytes = bytes.map_err(io::Error::other)?.map_err(io::Error::other)?;
            heard.agents += 1;
            heard.bytes += bytes;
            heard.bytes_max = heard.bytes_max.max(bytes);
        }
        Ok(heard)
    })
}

/// What all agents share.
struct Scene {
    play: Play,
    world_size: u32,
    build: Option<String>,
    /// Ranks that have been started.
    started: watch::Sender<u32>,
}

/// One agent, until its launcher closes its input. Returns how many bytes it was told.
async fn perform(
    number: u32,
    stream: UnixStream,
    errors: tokio::net::UnixStream,
    scene: Arc<Scene>,
) -> Result<u64, LinkError> {
    let open = |source| LinkError::System { operation: "open", source };
    let output = link::asynchronous(OwnedFd::from(stream.try_clone().map_err(open)?))?;
    let mut orders = FrameReader::new(OwnedFd::from(stream))?;
    let (frames, queue) = mpsc::unbounded_channel();
    tokio::spawn(link::write_frames(output, queue));
    let mut player = Player { number, scene, frames, running: BTreeSet::new(), bytes: 0 };
    player.say(&Report::Ready { pid: player.pid(0), host: format!("host{number}") })?;
    let mut started = player.scene.started.subscribe();
    let world_size = player.scene.world_size;
    loop {
        let fails = player.scene.play == Play::Failure && player.running.contains(&0);
        tokio::select! {
            frame = orders.next() => match frame? {
                Some(frame) => {
                    player.bytes += u64::try_from(frame.body.len()).unwrap_or(u64::MAX);
                    player.obey(Order::decode(&frame)?)?;
                }
                None => break,
            },
            _ = started.wait_for(|started| *started == world_size), if fails => {
                player.end(0, Ending::Code(1))?;
            }
        }
    }
    drop(errors);
    Ok(player.bytes)
}

struct Player {
    number: u32,
    scene: Arc<Scene>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    running: BTreeSet<u32>,
    bytes: u64,
}

impl Player {
    fn say(&self, report: &Report) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        report.encode(&mut bytes)?;
        // A launcher that is gone hears nothing.
        let _ = self.frames.send(bytes);
        Ok(())
    }

    /// Some process id, of which no use is made.
    fn pid(&self, of: u32) -> i32 {
        i32::try_from(self.number.wrapping_mul(64).wrapping_add(of)).unwrap_or(0) + 1000
    }

    fn obey(&mut self, order: Order) -> Result<(), LinkError> {
        match order {
            Order::Ping => self.say(&Report::Alive),
            Order::Describe { .. } => self.say(&Report::Facts(Box::new(self.facts()))),
            Order::Examine { number, question } => {
                self.say(&Report::Examined { number, answer: answer(question) })
            }
            Order::Start(config) => self.start(&config),
            Order::Stop | Order::Kill => {
                let running = std::mem::take(&mut self.running);
                running.into_iter().try_for_each(|rank| self.end(rank, Ending::Signal(15)))?;
                self.say(&Report::Finished { survivors: Vec::new() })
            }
            _ => Ok(()),
        }
    }

    /// Those of a host that is on two networks, so that the launcher has to choose.
    fn facts(&self) -> AgentFacts {
        let address = |interface: &str, address: Ipv4Addr, prefix| HostAddress {
            interface: interface.to_owned(),
            address: IpAddr::V4(address),
            prefix,
            megabits_per_second: None,
        };
        // 10.0.0.0 is the launcher's.
        let own = Ipv4Addr::from((10 << 24) + 1 + self.number);
        let second = Ipv4Addr::from((192 << 24) + (168 << 16) + (1 + self.number) % (1 << 16));
        AgentFacts {
            version: facts::VERSION.to_owned(),
            build: self.scene.build.clone(),
            cores: 8,
            framework_ports: vec![20_001, 20_002],
            reached_at: Some(own.into()),
            reached_from: Some(Ipv4Addr::new(10, 0, 0, 0).into()),
            addresses: vec![
                address("lo", Ipv4Addr::LOCALHOST, 8),
                address("eth0", own, 8),
                address("ib0", second, 16),
            ],
        }
    }

    fn start(&mut self, config: &AgentConfig) -> Result<(), LinkError> {
        for (rank, local) in config.ranks.iter().map(|rank| rank.rank).zip(1..) {
            self.say(&Report::Started { rank, pid: self.pid(local), cpus: None })?;
            let bytes = format!("rank {rank} is here\n").into_bytes();
            self.say(&Report::Output { rank, stream: Stream::Stdout, bytes })?;
            self.running.insert(rank);
        }
        let count = u32::try_from(config.ranks.len()).unwrap_or(u32::MAX);
        self.scene.started.send_modify(|started| *started += count);
        if self.scene.play == Play::Success {
            let running = std::mem::take(&mut self.running);
            running.into_iter().try_for_each(|rank| self.end(rank, Ending::Code(0)))?;
            self.say(&Report::Finished { survivors: Vec::new() })?;
        }
        Ok(())
    }

    fn end(&mut self, rank: u32, ending: Ending) -> Result<(), LinkError> {
        self.running.remove(&rank);
        for stream in Stream::BOTH {
            self.say(&Report::Closed { rank, stream })?;
        }
        self.say(&Report::Exited(RankExit {
            rank,
            pid: self.pid(1),
            ending,
            ran: Duration::from_secs(1),
            usage: ResourceUsage::default(),
            out_of_memory: None,
        }))
    }
}

/// What an agent finds out about a network that leads everywhere, and equally well.
fn answer(question: Question) -> Answer {
    match question {
        Question::Doors { addresses, .. } => {
            let door = |address| Door { address, port: Ok(30_000) };
            Answer::Doors(addresses.into_iter().map(door).collect())
        }
        Question::Reach { .. } => Answer::Reach(Ok(())),
        Question::Way { .. } => Answer::Way(Ok(Way {
            local_address: Ipv4Addr::UNSPECIFIED.into(),
            p50_ns: 20_000,
            p99_ns: 30_000,
            round_trips: 20,
            mtu: Some(1500),
            burst_bytes: 4 << 20,
            burst_ns: 4_000_000,
        })),
        Question::Host | Question::Clock => Answer::Nothing { reason: "nobody asks".to_owned() },
    }
}

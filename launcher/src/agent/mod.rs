//! The process that starts and watches the ranks of one host.
//!
//! Locally and remotely it is the same process with the same protocol: orders on standard input,
//! reports on standard output, diagnostics on standard error. It has a session of its own, so that
//! no terminal reaches it, and is a subreaper, so that nothing its ranks start can leave its sight.
//!
//! Invariants:
//! * end of file on standard input ends every process of the job, then the agent.
//! * ranks are spawned by the main thread, which lives as long as the agent: the kernel kills
//!   ranks when it ends (PR_SET_PDEATHSIG).
//! * a process group is signalled only while its leader has not been reaped, so its id is not
//!   anybody else's.
//! * where the launcher is on another host, its silence for 20 s ends every process of the job,
//!   then the agent.

pub(crate) mod binding;
mod devices;
mod examiner;
mod feed;
mod lease;
mod pump;
mod ranks;
mod secret;
mod shares;
mod signals;
mod stacks;
mod supervisor;
mod tunnels;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::{self, ProcessEnvironment};
use paceline_rendezvous::jobs::JobsDirectory;
use rustix::process::{getpid, set_child_subreaper, setsid};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::ExitCode;
use crate::environment;
use crate::output::Stream;
use crate::process::heap;
use crate::protocol::codec::FrameError;
use crate::protocol::facts::AgentFacts;
use crate::protocol::link::{self, FrameReader, LinkError};
use crate::protocol::messages::{self, AgentConfig, Order, Report};
use examiner::Examiner;
pub(crate) use stacks::TOOL_TIMEOUT as STACKS_TIMEOUT;
use supervisor::Supervisor;
use tunnels::Tunnels;

/// How long a launcher that has started an agent may take to say what it wants.
const CONFIGURE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a launcher that examines this host may say nothing, though it asks every
/// [`PING_INTERVAL`](crate::protocol::PING_INTERVAL) whether we are there.
const EXAMINE_SILENCE_MAX: Duration = Duration::from_secs(20);

/// How long the last reports may take to leave once everything has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the agent of this host until its launcher is done or gone. Blocks.
///
/// Returns the exit code of the agent process; what became of the ranks is in its reports.
pub fn run_agent() -> ExitCode {
    // An error means that this process leads a group already, hence is out of the launcher's.
    let _ = setsid();
    heap::keep_buffers();
    // The name in `ps`; where it cannot be set it is that of the binary.
    let _ = rustix::thread::set_name(c"paceline-agent");
    let outcome = set_child_subreaper(Some(getpid()))
        .map_err(|error| LinkError::System { operation: "take orphans for", source: error.into() })
        .and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| LinkError::System { operation: "start", source })?;
            runtime.block_on(serve())
        });
    match outcome {
        Ok(()) => ExitCode::Success,
        Err(error) => {
            // The launcher shares our standard error; if even that is gone nobody is left to tell.
            let _ = writeln!(io::stderr(), "paceline agent: {}", describe(&error));
            ExitCode::LauncherFailed
        }
    }
}

fn describe(error: &LinkError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

async fn serve() -> Result<(), LinkError> {
    let duplicate = |descriptor: std::os::fd::BorrowedFd<'_>| {
        descriptor
            .try_clone_to_owned()
            .map_err(|source| LinkError::System { operation: "open", source })
    };
    let mut orders = FrameReader::new(duplicate(io::stdin().as_fd())?)?;
    let output = link::asynchronous(duplicate(io::stdout().as_fd())?)?;
    let (reports, queue) = mpsc::unbounded_channel();
    let writer = tokio::spawn(link::write_frames(output, queue));
    let reporter = Reporter { frames: reports };
    let host = host_name();
    reporter.send(&Report::Ready { pid: getpid().as_raw_pid(), host: host.clone() });

    let Some((secret, mut config)) = configuration(&mut orders, &reporter).await? else {
        return Ok(());
    };
    let tunnels =
        if config.is_remote {
            let tunnels = Tunnels::open(reporter.clone(), config.ranks.len()).await;
            Some(tunnels.map_err(|source| LinkError::System {
                operation: "listen for ranks for",
                source,
            })?)
        } else {
            None
        };
    if let Some(tunnels) = &tunnels {
        config.variables.push((env::RENDEZVOUS.name.into(), tunnels.address().to_string().into()));
    }
    let mut supervisor = Supervisor::new(reporter, config.grace, tunnels);
    supervisor.start(&config, &secret, &host);
    let launcher_is_there = supervisor.supervise(&mut orders).await;
    drop(supervisor);
    if !launcher_is_there && let Some(run_id) = environment::run_of(&config) {
        // It could not take its card along.
        JobsDirectory::of(&ProcessEnvironment).forget(run_id);
    }
    // Everything has ended. The launcher closes our input when it has read the last report.
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, writer).await;
    let _ = tokio::time::timeout(FAREWELL_TIMEOUT, until_closed(&mut orders)).await;
    Ok(())
}

async fn configuration(
    orders: &mut FrameReader,
    reporter: &Reporter,
) -> Result<Option<(Zeroizing<Vec<u8>>, AgentConfig)>, LinkError> {
    let mut secret = Zeroizing::new(Vec::new());
    let mut examiner: Option<Examiner> = None;
    let mut deadline = Instant::now() + CONFIGURE_TIMEOUT;
    loop {
        let Ok(frame) = tokio::time::timeout_at(deadline.into(), orders.next()).await else {
            let source = io::ErrorKind::TimedOut.into();
            return Err(LinkError::System { operation: "wait for the plan on", source });
        };
        let Some(frame) = frame? else { return Ok(None) };
        match Order::decode(&frame)? {
            Order::Secret(bytes) => secret = bytes,
            Order::Start(config) => return Ok(Some((secret, *config))),
            Order::Stop | Order::Kill => return Ok(None),
            Order::Ping => reporter.send(&Report::Alive),
            Order::Describe { ports } => {
                reporter.send(&Report::Facts(Box::new(AgentFacts::gather(ports))));
            }
            Order::Examine { number, question } => {
                let examiner = examiner.get_or_insert_with(Examiner::default);
                examiner.take(number, question, &secret, reporter);
            }
            // Nothing runs yet.
            Order::Signal(_)
            | Order::TellStacks
            | Order::Grant { .. }
            | Order::Input { .. }
            | Order::Tunnel { .. } => {}
        }
        if examiner.is_some() {
            // As long as it asks there is no plan to come, and A-4 holds wherever it is.
            deadline = Instant::now() + EXAMINE_SILENCE_MAX;
        }
    }
}

async fn until_closed(orders: &mut FrameReader) {
    while let Ok(Some(_)) = orders.next().await {}
}

pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Sends reports; silently into the void once the launcher is gone.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    frames: mpsc::UnboundedSender<Vec<u8>>,
}

impl Reporter {
    pub(crate) fn send(&self, report: &Report) {
        let mut bytes = Vec::new();
        self.send_encoded(report.encode(&mut bytes), bytes);
    }

    /// Reports bytes of a rank, which are copied once.
    pub(crate) fn send_output(&self, rank: u32, stream: Stream, output: &[u8]) {
        let mut bytes = Vec::with_capacity(output.len() + messages::OUTPUT_HEADER_BYTES);
        self.send_encoded(messages::encode_output(rank, stream, output, &mut bytes), bytes);
    }

    fn send_encoded(&self, encoded: Result<(), FrameError>, bytes: Vec<u8>) {
        match encoded {
            Ok(()) => {
                let _ = self.frames.send(bytes);
            }
            Err(error) => {
                // Only a list of tens of thousands of processes could be that large.
                let _ = writeln!(io::stderr(), "paceline agent: a report is lost: {error}");
            }
        }
    }
}

//! The launcher's end of an agent.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::sync::mpsc;

use super::RunError;
use super::words::Words;
use crate::process::descendants::killable;
use crate::process::descriptors::Found;
use crate::process::spawn::die_with_parent;
use crate::process::wait::Ending;
use crate::protocol::link::{self, FrameReader, LinkError};
use crate::protocol::messages::{Order, Report};

/// How an agent is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCommand {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments. They must never hold a secret: everybody may read them.
    pub arguments: Vec<OsString>,
}

impl AgentCommand {
    /// This very binary, whose `agent` subcommand must call [`crate::run_agent`].
    ///
    /// It is addressed through /proc, so it is the same even if the file was replaced.
    pub fn this_program() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["agent".into()] }
    }
}

/// Where the agents of a job come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// They are processes: this command on this host, on the others what ssh makes of it.
    Command(AgentCommand),
    /// Whoever listens at this socket plays all of them: see [`crate::stage`].
    #[cfg(feature = "testing")]
    Stage(PathBuf),
}

/// What comes from an agent.
#[derive(Debug)]
pub(crate) enum FromAgent {
    Report(Report),
    /// A line that is for the user, by way of ssh's standard error.
    Said(String),
    /// Its stream has ended, or makes no sense for the reason given.
    Closed(Option<LinkError>),
}

/// Our ends of the streams of an agent.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    /// Where ssh and the agent speak to people, if the agent is on another host.
    pub(crate) errors: Option<OwnedFd>,
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The agent, or the ssh that leads to it; `None` where a test plays it.
    child: Option<Child>,
    /// Encoded orders; dropped to close the agent's input.
    orders: Option<mpsc::UnboundedSender<Vec<u8>>>,
    /// What came by way of ssh's standard error.
    words: Option<Words>,
}

/// What the pipe from the agent on this host holds, if the kernel lets it: the most that users may ask
/// for by default (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: usize = 1 << 20;

impl Agent {
    /// Starts an agent, on this host or on `other_host`, with the limit of `descriptors` if that is not
    /// ours.
    pub(crate) fn start(
        command: &AgentCommand,
        other_host: Option<&str>,
        descriptors: Option<&Found>,
        on_event: impl Fn(FromAgent) + Clone + Send + 'static,
    ) -> Result<Self, RunError> {
        let failed = |source| RunError::StartAgent { program: command.program.clone(), source };
        let mut process = Command::new(&command.program);
        process.args(&command.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        if other_host.is_some() {
            // ^C in our terminal is for us, and we say what becomes of it.
            die_with_parent(&mut process);
            process.stderr(Stdio::piped());
        } else {
            process.arg0("paceline");
        }
        if let Some(found) = descriptors {
            found.give_to(&mut process);
        }
        let mut child = process.spawn().map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both streams were piped")
        };
        if other_host.is_none() {
            // What users may have in pipes is limited, so only this one is made larger: all output of
            // this host goes through it. Where it cannot be it is slower.
            let _ = rustix::pipe::fcntl_setpipe_size(&output, PIPE_BYTES);
        }
        let errors = child.stderr.take().map(OwnedFd::from);
        let streams = Streams { input: input.into(), output: output.into(), errors };
        Self::over(streams, Some(child), other_host, on_event)
    }

    /// The agent behind these streams.
    pub(crate) fn over(
        streams: Streams,
        child: Option<Child>,
        other_host: Option<&str>,
        on_event: impl Fn(FromAgent) + Clone + Send + 'static,
    ) -> Result<Self, RunError> {
        let input = link::asynchronous(streams.input)?;
        let reader = match other_host {
            Some(_) => FrameReader::after_login(streams.output)?,
            None => FrameReader::new(streams.output)?,
        };
        let (orders, queue) = mpsc::unbounded_channel();
        // An error there means that the agent is gone, which its output says too.
        tokio::spawn(async move { link::write_frames(input, queue).await.ok() });
        let said = on_event.clone();
        let words = match (other_host, streams.errors) {
            (Some(host), Some(errors)) => {
                let host = host.to_owned();
                let pass_on = move |line| said(FromAgent::Said(format!("{host}: {line}")));
                Some(Words::listen(errors, pass_on)?)
            }
            _ => None,
        };
        let instead = words.as_ref().map(Words::instead);
        tokio::spawn(read_reports(reader, instead, on_event));
        Ok(Self { child, orders: Some(orders), words })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).unwrap_or(0)
    }

    /// Whether that process is ssh, and the agent's own is on another host.
    pub(super) fn is_reached_by_ssh(&self) -> bool {
        self.words.is_some()
    }

    pub(crate) fn send(&self, order: &Order) -> Result<(), LinkError> {
        let mut bytes = Vec::new();
        order.encode(&mut bytes)?;
        if let Some(orders) = &self.orders {
            // If the agent is gone, its output says so.
            let _ = orders.send(bytes);
        }
        Ok(())
    }

    /// Closes its input.
    pub(super) fn close(&mut self) {
        self.orders = None;
    }

    /// Where frames for the agent go.
    pub(crate) fn orders(&self) -> Option<&mpsc::UnboundedSender<Vec<u8>>> {
        self.orders.as_ref()
    }

    /// It has come up: from now on what ssh says is passed on to the user at once.
    pub(crate) fn is_up(&self) {
        if let Some(words) = &self.words {
            words.pass_on();
        }
    }

    /// The last lines that came by way of ssh's standard error before the agent was up.
    pub(crate) async fn last_words(&mut self) -> Vec<String> {
        match &mut self.words {
            Some(words) => words.last().await,
            None => Vec::new(),
        }
    }

    /// Kills the agent; the kernel then kills its ranks.
    pub(crate) fn kill(&self) {
        if let Some(pid) = killable(self.pid()) {
            // It has not been reaped (only `ended` does that), so the id is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Closes its input and waits until it has ended; kills it if it takes too long.
    pub(crate) async fn ended(mut self, patience: Duration) -> Option<Ending> {
        self.finish(patience).await
    }

    /// The same, where somebody else owns it; nothing else is of use afterwards.
    pub(crate) async fn finish(&mut self, patience: Duration) -> Option<Ending> {
        self.close();
        if tokio::time::timeout(patience, self.exit()).await.is_err() {
            self.kill();
            self.exit().await;
        }
        self.child.as_mut()?.wait().ok().and_then(Ending::from_status)
    }

    /// Waits for the end without reaping.
    pub(crate) async fn exit(&self) {
        let handle = killable(self.pid())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK))
            .map_err(io::Error::from)
            .and_then(link::watch);
        if let Ok(handle) = handle
            && handle.readable().await.is_ok()
        {
            return;
        }
        // A kernel without process handles.
        while let Some(entry) = crate::process::table::ProcessEntry::read(self.pid()) {
            if entry.is_dead() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// `instead` gets what came where no agent did.
async fn read_reports(
    mut reader: FrameReader,
    instead: Option<impl FnOnce(&[u8]) + Send + 'static>,
    on_event: impl Fn(FromAgent) + Send + 'static,
) {
    let reason = loop {
        match reader.next().await {
            Ok(Some(frame)) => match Report::decode(frame) {
                Ok(report) => on_event(FromAgent::Report(report)),
                Err(error) => break Some(error.into()),
            },
            Ok(None) => {
                if let Some(instead) = instead {
                    instead(reader.noise());
                }
                break None;
            }
            Err(error) => break Some(error),
        }
    };
    on_event(FromAgent::Closed(reason));
}

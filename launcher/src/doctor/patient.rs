//! The launcher's side of an agent that is asked.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use paceline_rendezvous::Secret;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::question::{Answer, Question};
use crate::process::wait;
use crate::protocol::PING_INTERVAL;
use crate::protocol::link::LinkError;
use crate::protocol::messages::{Order, Report};
use crate::run::agents::{Agent, AgentCommand, FromAgent};
use crate::run::{RunError, Unreached};

/// How long an agent that has closed its output may take to be dead.
const DEATH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one that is told to end may take.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of a signal that wants the end, once there is one.
pub(super) type Interrupt = watch::Receiver<Option<i32>>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Loss {
    /// The agent, or ssh, has ended, or made no sense.
    Gone(Unreached),
    /// Nothing came in time.
    Silent(Duration),
    /// The user has had enough.
    Interrupted,
    /// The agent says so.
    Nothing(String),
}

impl Loss {
    /// As the end of a sentence about the host.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Gone(unreached) => cause(unreached),
            Self::Silent(limit) => format!("no answer within {} s", limit.as_secs()),
            Self::Interrupted => "interrupted".to_owned(),
            Self::Nothing(reason) => reason.clone(),
        }
    }
}

/// What is known of why an agent is gone. Of several lines the last one is the verdict; ssh's and the
/// shell's.
pub(super) fn cause(unreached: &Unreached) -> String {
    let said = unreached.reason.as_ref().or_else(|| unreached.words.last());
    match (said, unreached.ending) {
        (Some(said), _) => said.clone(),
        (None, Some(ending)) => format!("ssh {ending}"),
        (None, None) => "its stream has ended".to_owned(),
    }
}

/// A host that is examined.
pub(super) struct Patient {
    host: String,
    agent: Agent,
    pings: Option<JoinHandle<()>>,
    reports: UnboundedReceiver<FromAgent>,
    interrupt: Interrupt,
    asked: u32,
    is_up: bool,
}

impl Drop for Patient {
    fn drop(&mut self) {
        if let Some(pings) = &self.pings {
            // It keeps the agent's input open.
            pings.abort();
        }
    }
}

impl Patient {
    /// Starts the agent, here or by ssh.
    pub(super) fn start(
        host: &str,
        command: &AgentCommand,
        is_local: bool,
        interrupt: Interrupt,
    ) -> Result<Self, RunError> {
        let (events, reports) = mpsc::unbounded_channel();
        let on_event = move |event| {
            let _ = events.send(event);
        };
        let agent = Agent::start(command, (!is_local).then_some(host), None, on_event)?;
        let mut ping = Vec::new();
        let pings = match (agent.orders().cloned(), Order::Ping.encode(&mut ping)) {
            (Some(orders), Ok(())) => Some(tokio::spawn(async move {
                let mut times = tokio::time::interval(PING_INTERVAL);
                while !orders.is_closed() {
                    times.tick().await;
                    let _ = orders.send(ping.clone());
                }
            })),
            _ => None,
        };
        let host = host.to_owned();
        Ok(Self { host, agent, pings, reports, interrupt, asked: 0, is_up: false })
    }

    /// Waits until the agent is there.
    pub(super) async fn comes_up(&mut self, limit: Duration) -> Result<(), Loss> {
        let deadline = Instant::now() + limit;
        loop {
            if let Report::Ready { .. } = self.next(deadline, limit).await? {
                self.is_up = true;
                self.agent.is_up();
                return Ok(());
            }
        }
    }

    /// Tells it the secret of the run, over its pipe.
    pub(super) fn tell(&self, secret: &Secret) -> Result<(), LinkError> {
        self.agent.send(&Order::Secret(Zeroizing::new(secret.to_hex().as_bytes().to_vec())))
    }

    /// Asks it something.
    pub(super) async fn ask(
        &mut self,
        question: Question,
        limit: Duration,
    ) -> Result<Answer, Loss> {
        self.asked += 1;
        let expected = self.asked;
        let order = Order::Examine { number: expected, question };
        self.agent.send(&order).map_err(|error| Loss::Nothing(error.to_string()))?;
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline, limit).await? {
                Report::Examined { number, answer } if number == expected => {
                    return match answer {
                        Answer::Nothing { reason } => Err(Loss::Nothing(reason)),
                        answer => Ok(answer),
                    };
                }
                // Signs of life, and answers that have come too late.
                _ => {}
            }
        }
    }

    async fn next(&mut self, deadline: Instant, limit: Duration) -> Result<Report, Loss> {
        loop {
            let event = tokio::select! {
                event = self.reports.recv() => event,
                () = tokio::time::sleep_until(deadline.into()) => return Err(Loss::Silent(limit)),
                _ = self.interrupt.wait_for(Option::is_some) => return Err(Loss::Interrupted),
            };
            match event {
                Some(FromAgent::Report(report)) => return Ok(report),
                // If standard error is closed there is nobody to tell.
                Some(FromAgent::Said(line)) => drop(writeln!(io::stderr(), "paceline: {line}")),
                Some(FromAgent::Closed(error)) => {
                    return Err(Loss::Gone(self.autopsy(error).await));
                }
                None => return Err(Loss::Gone(self.autopsy(None).await)),
            }
        }
    }

    async fn autopsy(&mut self, error: Option<LinkError>) -> Unreached {
        let reason = error.map(|error| error.to_string());
        let mut ending = None;
        if reason.is_none() {
            // A process closes its files a moment before it can be waited for.
            let _ = tokio::time::timeout(DEATH_TIMEOUT, self.agent.exit()).await;
            ending = wait::peek(self.agent.pid());
        }
        self.agent.kill();
        let words = self.agent.last_words().await;
        Unreached { host: self.host.clone(), ending, words, reason }
    }

    /// What ssh has said so far, after which there is nothing to wait for any more.
    pub(super) async fn give_up(&mut self) -> Vec<String> {
        self.agent.kill();
        self.agent.last_words().await
    }

    /// Lets it end, and waits until it has.
    pub(super) async fn end(mut self) {
        if let Some(pings) = self.pings.take() {
            pings.abort();
            let _ = pings.await;
        }
        if !self.is_up {
            // ssh that still tries does not read its input.
            self.agent.kill();
        }
        self.agent.finish(EXIT_TIMEOUT).await;
    }
}

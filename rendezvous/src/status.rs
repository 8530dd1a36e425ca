//! What is known of a job, for people and programs that look at it from outside.
//!
//! An observer proves, as ranks do, that it knows the run's secret, gets one [`JobStatus`] and is
//! done. It is no rank: nothing in the job waits for it or changes by it.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};

use crate::activity::{Activity, Underway};
use crate::control::ControlError;
use crate::frame::{Decoder, Frame, FrameKind};
use crate::hello::{self, COORDINATOR_RANK, HelloError, Identity, Purpose};
use crate::message::Abort;
use crate::run::{RunId, Secret};
use crate::socket::{configure_control, is_retry, wait_ready};

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// A job as its coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Number of ranks.
    pub world_size: u32,
    /// The membership that the coordinator serves.
    pub epoch: u32,
    /// Why the epoch is over, if it is.
    pub aborted: Option<Abort>,
    /// Who keeps whom waiting, one sentence for each operation that somebody has waited in for more
    /// than a second; empty if nobody has.
    pub stalls: Vec<String>,
    /// The ranks, in order, also those that have not joined.
    pub ranks: Vec<RankStatus>,
}

/// Whether a rank is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RankPresence {
    /// It has not joined yet; programs that are no users of Paceline never do.
    Absent,
    /// It is connected.
    Present,
    /// It has said goodbye.
    Left,
    /// Its connection has ended without goodbye.
    Lost,
}

/// One rank as the coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankStatus {
    /// Its number.
    pub rank: u32,
    /// Whether it is there.
    pub presence: RankPresence,
    /// The name of its host, once it has said so.
    pub host: Option<String>,
    /// Its process there.
    pub pid: Option<u32>,
    /// Milliseconds since it was heard last. Ranks say something every second.
    pub heard_ms: Option<u64>,
    /// How many operations it has entered in each communicator.
    pub progress: Vec<Standing>,
    /// The operations that it is in.
    pub operations: Vec<OperationStatus>,
    /// What its contexts have moved and completed. Ages are as of now.
    pub contexts: Vec<Activity>,
}

/// How far a rank is in one communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The number of the context.
    pub context: u32,
    /// The number of the communicator in it.
    pub communicator: u32,
    /// How many of its operations the rank has entered.
    pub entered: u64,
}

/// An operation that a rank is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// The number of the context.
    pub context: u32,
    /// As messages name it, such as `all_reduce #412 of communicator 2`.
    pub label: String,
    /// What the rank itself has said; `for_ms` is as of now, and at least so long.
    #[serde(flatten)]
    pub underway: Underway,
    /// The ranks that it waits for; `None` if it has not waited for a second.
    pub waits_for: Option<Vec<u32>>,
}

/// Parts of a status: what fits into a frame whatever the size of the job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ToObserver {
    /// Everything but the ranks, of which so many follow.
    Job { status: Box<JobStatus>, ranks: u32 },
    /// The next rank.
    Rank { rank: Box<RankStatus> },
}

impl JobStatus {
    /// The messages that it falls into.
    pub(crate) fn into_messages(mut self) -> impl Iterator<Item = ToObserver> {
        let ranks = std::mem::take(&mut self.ranks);
        let count = u32::try_from(ranks.len()).expect("ranks are counted in u32");
        let first = ToObserver::Job { status: Box::new(self), ranks: count };
        let rank = |rank| ToObserver::Rank { rank: Box::new(rank) };
        std::iter::once(first).chain(ranks.into_iter().map(rank))
    }
}

impl ToObserver {
    /// What is short whatever a rank has said.
    pub(crate) fn without_details(mut self) -> Self {
        if let Self::Rank { rank } = &mut self {
            rank.progress.clear();
            rank.operations.clear();
            rank.contexts.clear();
        }
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a status has no maps and no failing serialisers")
    }
}

/// Asks the coordinator at `address` what it knows.
///
/// # Errors
/// [`ControlError::Connect`] if nobody listens there, [`ControlError::Hello`] if it serves another run
/// or the secret is wrong, [`ControlError::TimedOut`] if it does not answer before `deadline`.
pub fn observe(
    address: SocketAddr,
    run_id: RunId,
    secret: &Secret,
    deadline: Instant,
) -> Result<JobStatus, ControlError> {
    match observe_epoch(address, run_id, 0, secret, deadline) {
        Err(ControlError::Hello { source: HelloError::EpochMismatch { theirs, .. }, .. }) => {
            observe_epoch(address, run_id, theirs, secret, deadline)
        }
        outcome => outcome,
    }
}

fn observe_epoch(
    address: SocketAddr,
    run_id: RunId,
    epoch: u32,
    secret: &Secret,
    deadline: Instant,
) -> Result<JobStatus, ControlError> {
    let failed = |source| ControlError::Connect { address, source };
    let remaining = deadline.saturating_duration_since(Instant::now());
    // The standard library refuses a timeout of zero.
    let timeout = remaining.max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(failed)?;
    configure_control(&stream).map_err(failed)?;
    // The number of an observer means nothing.
    let identity = Identity { run_id, epoch, rank: 0, features: 0 };
    let purpose = Purpose::Observe;
    let session =
        hello::initiate(&mut stream, identity, purpose, COORDINATOR_RANK, secret, deadline)
            .map_err(|source| ControlError::Hello { address, source })?;
    let mut frames = Frames { stream, address, decoder: Decoder::new(session.receive_key) };
    let ToObserver::Job { mut status, ranks } = frames.next(deadline)? else {
        return Err(frames.nonsense("a rank before the job"));
    };
    for _ in 0..ranks {
        match frames.next(deadline)? {
            ToObserver::Rank { rank } => status.ranks.push(*rank),
            ToObserver::Job { .. } => return Err(frames.nonsense("a job among the ranks")),
        }
    }
    Ok(*status)
}

/// What comes to an observer.
struct Frames {
    stream: TcpStream,
    address: SocketAddr,
    decoder: Decoder,
}

impl Frames {
    fn next(&mut self, deadline: Instant) -> Result<ToObserver, ControlError> {
        let mut buffer = [0; READ_BYTES];
        loop {
            let pulled = self.decoder.pull().map_err(|error| self.nonsense(error))?;
            if let Some(Frame { kind: FrameKind::STATUS, payload }) = pulled {
                return serde_json::from_slice(&payload).map_err(|error| self.nonsense(error));
            }
            let address = self.address;
            let lost = |source| ControlError::Lost { address, source: std::sync::Arc::new(source) };
            if !wait_ready(&self.stream, PollFlags::IN, deadline).map_err(lost)? {
                return Err(ControlError::TimedOut { address });
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }

    fn nonsense(&self, what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ControlError {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        ControlError::Lost { address: self.address, source: std::sync::Arc::new(source) }
    }
}

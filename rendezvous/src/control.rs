//! The rank's end of the control connection.

mod error;
mod store;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use error::ControlError;
use rustix::event::PollFlags;

use crate::activity::{ActivitySource, ActivityTable};
use crate::epoch::EpochNews;
use crate::frame::{Decoder, Encoder, FrameKind};
use crate::heartbeat::{OperationCounter, ProgressTable};
use crate::hello::{self, COORDINATOR_RANK, Identity, Purpose};
use crate::message::{Abort, OperationReport, RequestId, ToCoordinator, ToRank, clip};
use crate::run::Secret;
use crate::socket::{configure_control, is_retry, wait_ready};

/// Bytes of one read. Aborts and answers are short; long values take several reads.
const READ_BYTES: usize = 16 << 10;
/// Bytes that may wait for a coordinator that does not read; it is given up then.
const OUTBOX_BYTES_MAX: usize = 8 << 20;
/// Longest time that a thread waits for the socket before it looks whether another thread has
/// something to send.
const READER_SLICE: Duration = Duration::from_millis(100);
/// How much later than the coordinator a rank gives up waiting for the next epoch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// First and last pause between two attempts to connect.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Control connection of one rank. It is the [`Store`](crate::store::Store) of a job over the network.
///
/// All methods may be called from any thread. No thread reads for it: whoever calls reads what has
/// arrived.
#[derive(Debug)]
pub struct ControlClient {
    stream: TcpStream,
    address: SocketAddr,
    local_addr: SocketAddr,
    /// The rank that runs the coordinator, where no launcher does.
    host: Option<u32>,
    state: Mutex<State>,
    /// Signalled when the reader has finished a turn.
    turn: Condvar,
    /// Changed only by who holds the state, too.
    news: Mutex<EpochNews>,
    progress: ProgressTable,
    activities: ActivityTable,
}

#[derive(Debug)]
struct State {
    encoder: Encoder,
    decoder: Decoder,
    scratch: Box<[u8]>,
    outbox: Vec<u8>,
    sent: usize,
    next_request: RequestId,
    /// Requests that somebody waits for, with their answers once they are there.
    answers: BTreeMap<RequestId, Option<ToRank>>,
    /// Whether a thread waits for the socket outside the lock. It reads for all.
    has_reader: bool,
    said_goodbye: bool,
    farewell: bool,
    failure: Option<Arc<io::Error>>,
}

/// Why an answer did not come.
enum NoAnswer {
    Aborted(Abort),
    TimedOut,
    Lost(Arc<io::Error>),
}

impl ControlClient {
    /// Connects to the coordinator at `address`, trying again until `deadline` while nobody
    /// listens there yet. `identity` is that of the rank.
    ///
    /// # Errors
    /// [`ControlError::Connect`], [`ControlError::Hello`].
    pub fn connect(
        address: SocketAddr,
        identity: Identity,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<Self, ControlError> {
        let mut pause = RETRY_PAUSES.0;
        loop {
            match Self::connect_once(address, identity, secret, deadline) {
                Err(ControlError::Connect { source, .. })
                    if may_come_up(&source) && Instant::now() + pause < deadline =>
                {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RETRY_PAUSES.1);
                }
                result => return result,
            }
        }
    }

    /// As [`ControlClient::connect`], without a second attempt.
    pub(crate) fn connect_once(
        address: SocketAddr,
        identity: Identity,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Connect { address, source };
        let remaining = deadline.saturating_duration_since(Instant::now());
        // The standard library refuses a timeout of zero.
        let mut stream =
            TcpStream::connect_timeout(&address, remaining.max(RETRY_PAUSES.0)).map_err(failed)?;
        let local_addr = stream.local_addr().map_err(failed)?;
        if local_addr == address {
            // While nobody listens on a port of the ephemeral range, a connection to it can end
            // up at itself.
            return Err(failed(io::ErrorKind::ConnectionRefused.into()));
        }
        configure_control(&stream).map_err(failed)?;
        let session = hello::initiate(
            &mut stream,
            identity,
            Purpose::Control,
            COORDINATOR_RANK,
            secret,
            deadline,
        )
        .map_err(|source| ControlError::Hello { address, source })?;
        let state = State {
            encoder: Encoder::new(session.send_key),
            decoder: Decoder::new(session.receive_key),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            outbox: Vec::new(),
            sent: 0,
            next_request: 0,
            answers: BTreeMap::new(),
            has_reader: false,
            said_goodbye: false,
            farewell: false,
            failure: None,
        };
        let client = Self {
            stream,
            address,
            local_addr,
            host: None,
            state: Mutex::new(state),
            turn: Condvar::new(),
            news: Mutex::new(EpochNews::new(identity.epoch)),
            progress: ProgressTable::default(),
            activities: ActivityTable::default(),
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = clip(&host).to_owned();
        // If the connection is dead already, its first use says so.
        let _ = client.post(&ToCoordinator::Introduction { host, pid: std::process::id() });
        Ok(client)
    }

    /// The same with the knowledge that the coordinator lives in the process of `rank`, so that its loss
    /// is that rank's.
    #[must_use]
    pub fn hosted_by(self, rank: u32) -> Self {
        Self { host: Some(rank), ..self }
    }

    /// The rank that runs the coordinator, where no launcher does.
    pub const fn host(&self) -> Option<u32> {
        self.host
    }

    /// The address of the coordinator.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// This process's address on the connection: one that the coordinator's host can reach.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Tells the coordinator what this rank is doing in `epoch`; never blocks.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn report(&self, epoch: u32, report: &OperationReport) -> Result<(), ControlError> {
        self.post(&ToCoordinator::Report { epoch, report: report.clone() })
    }

    /// Counts the operations of a communicator of `epoch`, for heartbeats to tell. The numbers are
    /// those that reports use.
    pub fn track(&self, epoch: u32, context: u32, communicator: u32) -> OperationCounter {
        match &*self.news() {
            news if news.epoch() == epoch => self.progress.track(context, communicator),
            _ => OperationCounter::default(),
        }
    }

    /// Lets heartbeats tell what a source knows, for as long as it lives.
    pub fn watch(&self, source: &Arc<dyn ActivitySource>) {
        self.activities.watch(source);
    }

    /// Tells the coordinator that this rank runs, how far it is, and what it is in and has moved; never
    /// blocks. A coordinator that has not taken what was sent before gets nothing more for now.
    ///
    /// # Errors
    /// When the connection has failed.
    pub fn heartbeat(&self) -> Result<(), ControlError> {
        let mut state = self.lock();
        self.flush(&mut state);
        if state.outbox.is_empty() {
            self.send_heartbeat(&mut state);
        }
        match &state.failure {
            Some(failure) => Err(self.lost(Arc::clone(failure))),
            None => Ok(()),
        }
    }

    fn send_heartbeat(&self, state: &mut State) {
        // Who has said goodbye says nothing more.
        if !state.said_goodbye {
            let epoch = self.news().epoch();
            let progress = self.progress.news();
            self.send(state, &ToCoordinator::Heartbeat { epoch, progress });
            for activity in self.activities.news(Instant::now()) {
                self.send(state, &ToCoordinator::Activity { activity });
            }
        }
    }

    /// Why the present epoch is over, if it is; at most one non-blocking system call.
    ///
    /// The loss of the coordinator is an abort, too.
    pub fn poll_abort(&self) -> Option<Abort> {
        if let Some(abort) = self.news().abort() {
            return Some(abort.clone());
        }
        // Who holds the lock, or waits for the socket, reads in our place.
        if let Ok(mut state) = self.state.try_lock()
            && !state.has_reader
        {
            self.read_once(&mut state);
        }
        self.news().abort().cloned()
    }

    /// Why the operations of a communicator of `epoch` are over, if they are: the epoch is, or the
    /// group alone.
    pub fn poll_abort_of(&self, epoch: u32, context: u32, communicator: u32) -> Option<Abort> {
        self.poll_abort();
        self.news().abort_of(epoch, context, communicator)
    }

    /// Gives up `epoch` and waits until all ranks have done so, at most for `timeout`. Returns the
    /// number of the epoch that has begun then, on all ranks.
    ///
    /// # Errors
    /// [`ControlError::NoEpoch`] on all ranks that came, with the names of those that did not; they may
    /// try again. [`ControlError::Lost`], [`ControlError::TimedOut`] if the coordinator is gone.
    pub fn next_epoch(&self, epoch: u32, timeout: Duration) -> Result<u32, ControlError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let started = Instant::now();
        let limit = timeout.saturating_add(ANSWER_TIMEOUT);
        let mut state = self.lock();
        self.news().ask();
        self.send(&mut state, &ToCoordinator::NextEpoch { epoch, timeout_ms });
        loop {
            if let Some(answer) = self.news().answer(epoch) {
                return answer.map_err(|abort| ControlError::NoEpoch { abort });
            }
            if let Some(failure) = &state.failure {
                return Err(self.lost(Arc::clone(failure)));
            }
            if started.elapsed() >= limit {
                return Err(ControlError::TimedOut { address: self.address });
            }
            state = self.take_turn(state, Instant::now() + READER_SLICE);
        }
    }

    /// Leaves the job in good order: returns when the coordinator knows.
    ///
    /// # Errors
    /// When the connection fails or `deadline` passes first.
    pub fn goodbye(&self, deadline: Instant) -> Result<(), ControlError> {
        let mut state = self.lock();
        if !state.said_goodbye {
            // Up to the last operation: whoever still waits then does not wait for this rank.
            self.send_heartbeat(&mut state);
            state.said_goodbye = true;
            self.send(&mut state, &ToCoordinator::Goodbye);
        }
        loop {
            if state.farewell {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(self.lost(Arc::clone(failure)));
            }
            if Instant::now() >= deadline {
                return Err(ControlError::TimedOut { address: self.address });
            }
            state = self.take_turn(state, deadline);
        }
    }

    fn news(&self) -> MutexGuard<'_, EpochNews> {
        // What it holds is replaced as a whole.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half changed in a way that matters: the worst is a frame
        // that was queued and not sent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, source: Arc<io::Error>) -> ControlError {
        ControlError::Lost { address: self.address, source }
    }

    /// Queues a message that has no answer and sends what the socket takes.
    fn post(&self, message: &ToCoordinator) -> Result<(), ControlError> {
        let mut state = self.lock();
        self.send(&mut state, message);
        match &state.failure {
            Some(failure) => Err(self.lost(Arc::clone(failure))),
            None => Ok(()),
        }
    }

    /// Queues a request, waits for its answer.
    fn request(
        &self,
        deadline: Instant,
        message: impl FnOnce(RequestId) -> ToCoordinator,
    ) -> Result<ToRank, NoAnswer> {
        let mut state = self.lock();
        let request = state.next_request;
        state.next_request += 1;
        state.answers.insert(request, None);
        self.send(&mut state, &message(request));
        loop {
            if let Some(Some(_)) = state.answers.get(&request)
                && let Some(Some(answer)) = state.answers.remove(&request)
            {
                return Ok(answer);
            }
            let no_answer = if let Some(abort) = self.news().abort() {
                NoAnswer::Aborted(abort.clone())
            } else if let Some(failure) = &state.failure {
                NoAnswer::Lost(Arc::clone(failure))
            } else if Instant::now() >= deadline {
                NoAnswer::TimedOut
            } else {
                state = self.take_turn(state, deadline);
                continue;
            };
            state.answers.remove(&request);
            self.send(&mut state, &ToCoordinator::Cancel { request });
            return Err(no_answer);
        }
    }

    /// Waits until something may have changed: as the reader if there is none, else for the
    /// reader.
    fn take_turn<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> MutexGuard<'a, State> {
        let until = deadline.min(Instant::now() + READER_SLICE);
        if state.has_reader {
            let timeout = until.saturating_duration_since(Instant::now());
            return self
                .turn
                .wait_timeout(state, timeout)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state.has_reader = true;
        let mut interest = PollFlags::IN;
        interest.set(PollFlags::OUT, state.sent < state.outbox.len());
        drop(state);
        let ready = wait_ready(&self.stream, interest, until);
        let mut state = self.lock();
        state.has_reader = false;
        match ready {
            Ok(true) => {
                self.flush(&mut state);
                self.read_once(&mut state);
            }
            Ok(false) => {}
            Err(error) => self.fail(&mut state, error),
        }
        self.turn.notify_all();
        state
    }

    fn send(&self, state: &mut State, message: &ToCoordinator) {
        if state.failure.is_some() {
            return;
        }
        state.outbox.drain(..state.sent);
        state.sent = 0;
        let encoded =
            state.encoder.encode(FrameKind::CONTROL, &message.encode(), &mut state.outbox);
        if let Err(error) = encoded {
            self.fail(state, io::Error::new(io::ErrorKind::InvalidInput, error));
        } else if state.outbox.len() > OUTBOX_BYTES_MAX {
            let text = "the coordinator does not read";
            self.fail(state, io::Error::new(io::ErrorKind::TimedOut, text));
        } else {
            self.flush(state);
        }
    }

    /// Sends what the socket takes now.
    fn flush(&self, state: &mut State) {
        while state.sent < state.outbox.len() {
            match (&self.stream).write(&state.outbox[state.sent..]) {
                Ok(count) => state.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_retry(&error) => return,
                Err(error) => return self.fail(state, error),
            }
        }
        state.outbox.clear();
        state.sent = 0;
    }

    /// One non-blocking read, and what it brings.
    fn read_once(&self, state: &mut State) {
        if state.failure.is_some() {
            return;
        }
        let count = match (&self.stream).read(&mut state.scratch) {
            Ok(0) => return self.fail(state, io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if is_retry(&error) => return,
            Err(error) => return self.fail(state, error),
        };
        let State { decoder, scratch, .. } = state;
        decoder.push(&scratch[..count]);
        loop {
            let message = match state.decoder.pull() {
                Ok(None) => return,
                Ok(Some(frame)) => ToRank::decode(&frame).map_err(invalid),
                Err(error) => Err(invalid(error)),
            };
            match message {
                Ok(message) => self.receive(state, message),
                Err(error) => return self.fail(state, error),
            }
        }
    }

    fn receive(&self, state: &mut State, message: ToRank) {
        match &message {
            ToRank::Stored { request }
            | ToRank::Value { request, .. }
            | ToRank::Refused { request, .. } => {
                // Answers to requests that were given up are dropped.
                if let Some(answer) = state.answers.get_mut(request) {
                    *answer = Some(message);
                }
            }
            ToRank::Farewell => state.farewell = true,
            other => {
                if self.news().hear(other) {
                    self.progress.clear();
                    self.activities.clear();
                }
            }
        }
    }

    /// The connection is over. Unless the rank has left, so is the job.
    fn fail(&self, state: &mut State, error: io::Error) {
        if state.failure.is_some() {
            return;
        }
        if !state.said_goodbye {
            let address = self.address;
            let reason = match self.host {
                Some(rank) => {
                    format!(
                        "rank {rank}, which ran the coordinator at {address}, was lost: {error}"
                    )
                }
                None => format!("the coordinator at {address} was lost: {error}"),
            };
            let mut news = self.news();
            let (epoch, culprit, timed_out) = (news.epoch(), self.host, false);
            news.end(Abort { epoch, culprit, timed_out, reason });
        }
        state.failure = Some(Arc::new(error));
    }
}

impl AsFd for ControlClient {
    /// Readable when [`ControlClient::poll_abort`] should be called; for parking.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Whether a failure to connect may pass when the other side has started.
fn may_come_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

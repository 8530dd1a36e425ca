//! One connection of the server: from stranger to rank.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::frame::{Decoder, Encoder, FrameKind};
use crate::hello::{
    FINISH_LEN, HELLO_LEN, HelloError, PendingFinish, Purpose, Responder, Session, Stage,
    check_hello_prefix,
};
use crate::message::{MessageError, ToCoordinator, ToRank};
use crate::socket::is_retry;
use crate::status::JobStatus;

/// Longest time from the acceptance of a connection to the end of its handshake.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer that was turned away may take to read why.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an observer may take to read what it is told.
const OBSERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that may wait for a rank that does not read. Holds a dozen of the longest values.
const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// How far a connection has come.
#[derive(Debug)]
enum Phase {
    Hello {
        responder: Box<Responder>,
        received: Vec<u8>,
    },
    Finish {
        pending: Box<PendingFinish>,
        received: Vec<u8>,
    },
    Open {
        rank: u32,
        encoder: Encoder,
        decoder: Decoder,
    },
    /// The peer was turned away and may still read the reply.
    Draining,
}

/// What reading from a connection has brought.
#[derive(Debug)]
pub(super) enum Progress {
    /// Nothing that matters to others.
    Nothing,
    /// The peer is a rank now.
    Joined { rank: u32 },
    /// The peer wants to be told about the job, by [`Connection::answer`].
    Observes { encoder: Encoder },
    /// Messages of a rank, and why the connection must be closed after them, if it must.
    Messages { rank: u32, messages: Vec<ToCoordinator>, end: Option<String> },
    /// A stranger to be forgotten now.
    Turned { error: HelloError },
    /// A stranger that is told why, see [`Phase::Draining`].
    Draining { error: HelloError },
    /// The connection of nobody has ended.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) from: SocketAddr,
    phase: Phase,
    /// When a connection that is not a rank's is closed.
    pub(super) deadline: Instant,
    outbox: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        from: SocketAddr,
        responder: Responder,
        now: Instant,
    ) -> Self {
        Self {
            stream,
            from,
            phase: Phase::Hello {
                responder: Box::new(responder),
                received: Vec::with_capacity(HELLO_LEN),
            },
            deadline: now + HANDSHAKE_TIMEOUT,
            outbox: Vec::new(),
            sent: 0,
        }
    }

    pub(super) const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) const fn rank(&self) -> Option<u32> {
        match self.phase {
            Phase::Open { rank, .. } => Some(rank),
            _ => None,
        }
    }

    pub(super) fn wants_to_send(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// The error of a handshake that took too long; `None` for a peer that was turned away before.
    pub(super) const fn timeout_error(&self) -> Option<HelloError> {
        match self.phase {
            Phase::Hello { .. } => Some(HelloError::TimedOut { stage: Stage::Hello }),
            Phase::Finish { .. } => Some(HelloError::TimedOut { stage: Stage::Finish }),
            Phase::Open { .. } | Phase::Draining => None,
        }
    }

    /// Reads once, up to the length of `scratch`, so that no connection starves the others.
    /// `admit` says which ranks may join.
    pub(super) fn receive(
        &mut self,
        scratch: &mut [u8],
        now: Instant,
        admit: impl Fn(u32) -> Result<(), HelloError>,
    ) -> Progress {
        // Handshake messages are read to their end and no further: what follows belongs to the
        // next phase.
        let wanted = match &self.phase {
            Phase::Hello { received, .. } => HELLO_LEN - received.len(),
            Phase::Finish { received, .. } => FINISH_LEN - received.len(),
            Phase::Open { .. } | Phase::Draining => scratch.len(),
        };
        let count = match self.stream.read(&mut scratch[..wanted]) {
            Ok(0) => return self.end_of_file("the connection was closed without goodbye"),
            Ok(count) => count,
            Err(error) if is_retry(&error) => return Progress::Nothing,
            Err(error) => return self.end_of_file(&format!("the connection failed: {error}")),
        };
        let bytes = &scratch[..count];
        match &mut self.phase {
            Phase::Hello { received, .. } => {
                received.extend_from_slice(bytes);
                self.hello(now, admit)
            }
            Phase::Finish { received, .. } => {
                received.extend_from_slice(bytes);
                self.finish(admit)
            }
            Phase::Open { rank, decoder, .. } => {
                decoder.push(bytes);
                let (messages, end) = pull_all(decoder);
                Progress::Messages { rank: *rank, messages, end }
            }
            Phase::Draining => Progress::Nothing,
        }
    }

    fn end_of_file(&self, reason: &str) -> Progress {
        match &self.phase {
            Phase::Hello { .. } => {
                Progress::Turned { error: HelloError::Closed { stage: Stage::Hello } }
            }
            Phase::Finish { .. } => {
                Progress::Turned { error: HelloError::Closed { stage: Stage::Finish } }
            }
            Phase::Open { rank, .. } => Progress::Messages {
                rank: *rank,
                messages: Vec::new(),
                end: Some(reason.to_owned()),
            },
            Phase::Draining => Progress::Closed,
        }
    }

    fn hello(&mut self, now: Instant, admit: impl Fn(u32) -> Result<(), HelloError>) -> Progress {
        let phase = std::mem::replace(&mut self.phase, Phase::Draining);
        let Phase::Hello { responder, received } = phase else {
            self.phase = phase;
            return Progress::Nothing;
        };
        if let Err(error) = check_hello_prefix(&received) {
            return match error {
                HelloError::VersionMismatch { .. } => {
                    self.turn_away(&responder.version_reply(), error, now)
                }
                error => Progress::Turned { error },
            };
        }
        let Some(hello) = received.first_chunk::<HELLO_LEN>() else {
            self.phase = Phase::Hello { responder, received };
            return Progress::Nothing;
        };
        let admit = |rank, purpose| match purpose {
            Purpose::Control => admit(rank),
            Purpose::Observe => Ok(()),
            _ => Err(HelloError::UnservedPurpose),
        };
        match responder.on_hello(hello, admit) {
            Ok((reply, pending)) => {
                self.outbox.extend_from_slice(&reply);
                self.phase = Phase::Finish {
                    pending: Box::new(pending),
                    received: Vec::with_capacity(FINISH_LEN),
                };
                Progress::Nothing
            }
            Err(turned) => match turned.reply {
                Some(reply) => self.turn_away(&reply, turned.error, now),
                None => Progress::Turned { error: turned.error },
            },
        }
    }

    fn finish(&mut self, admit: impl Fn(u32) -> Result<(), HelloError>) -> Progress {
        let phase = std::mem::replace(&mut self.phase, Phase::Draining);
        let Phase::Finish { pending, received } = phase else {
            self.phase = phase;
            return Progress::Nothing;
        };
        let Some(finish) = received.first_chunk::<FINISH_LEN>() else {
            self.phase = Phase::Finish { pending, received };
            return Progress::Nothing;
        };
        match pending.on_finish(finish) {
            Ok(session) if session.purpose == Purpose::Observe => {
                Progress::Observes { encoder: Encoder::new(session.send_key) }
            }
            Ok(Session { peer_rank: rank, send_key, receive_key, .. }) => {
                // Two processes may have been between hello and finish with the same rank.
                if let Err(error) = admit(rank) {
                    return Progress::Turned { error };
                }
                self.phase = Phase::Open {
                    rank,
                    encoder: Encoder::new(send_key),
                    decoder: Decoder::new(receive_key),
                };
                Progress::Joined { rank }
            }
            Err(error) => Progress::Turned { error },
        }
    }

    /// Tells an observer about the job; [`Connection::flush`] sends it, and the connection ends.
    pub(super) fn answer(&mut self, mut encoder: Encoder, status: JobStatus, now: Instant) {
        for message in status.into_messages() {
            let sent = encoder.encode(FrameKind::STATUS, &message.encode(), &mut self.outbox);
            if sent.is_err() {
                // Of everything that a rank says a bounded part is kept, and of some that is too much.
                let payload = message.without_details().encode();
                let _ = encoder.encode(FrameKind::STATUS, &payload, &mut self.outbox);
            }
        }
        self.deadline = now + OBSERVER_TIMEOUT;
    }

    fn turn_away(&mut self, reply: &[u8], error: HelloError, now: Instant) -> Progress {
        self.outbox.extend_from_slice(reply);
        self.phase = Phase::Draining;
        self.deadline = now + DRAIN_TIMEOUT;
        Progress::Draining { error }
    }

    /// Appends a message for the rank; [`Connection::flush`] sends it.
    ///
    /// # Errors
    /// Why the rank must be given up, such as one that does not read.
    pub(super) fn queue(&mut self, message: &ToRank) -> Result<(), String> {
        let Phase::Open { encoder, .. } = &mut self.phase else {
            return Err("a message for a peer that is no rank".to_owned());
        };
        self.outbox.drain(..self.sent);
        self.sent = 0;
        encoder
            .encode(FrameKind::CONTROL, &message.encode(), &mut self.outbox)
            .map_err(|error| error.to_string())?;
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            return Err(format!("it left {} bytes unread", self.outbox.len()));
        }
        Ok(())
    }

    /// Sends what the socket takes now.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_retry(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        if matches!(self.phase, Phase::Draining) {
            // The peer reads the reply and then the end of the stream. Closing at once could
            // reset the connection and take the reply back.
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }
}

/// All complete messages, and what is wrong with the one behind them.
fn pull_all(decoder: &mut Decoder) -> (Vec<ToCoordinator>, Option<String>) {
    let mut messages = Vec::new();
    loop {
        let message = match decoder.pull() {
            Ok(None) => return (messages, None),
            Ok(Some(frame)) => ToCoordinator::decode(&frame).map_err(|error| describe(&error)),
            Err(error) => Err(error.to_string()),
        };
        match message {
            Ok(message) => messages.push(message),
            Err(end) => return (messages, Some(end)),
        }
    }
}

fn describe(error: &MessageError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

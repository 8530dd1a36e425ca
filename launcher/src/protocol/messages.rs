//! The messages in the frames.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::codec::{self, Frame, FrameError};
use super::facts::AgentFacts;
use super::text;
use super::tunnel::Piece;
use crate::agent::binding::BindTo;
use crate::device::{GpuVisibility, RankDevice};
use crate::doctor::question::{Answer, Question};
use crate::output::Stream;
use crate::process::descendants::ProcessName;
use crate::process::memory::OutOfMemory;
use crate::process::table::ProcessEntry;
use crate::process::wait::{Ending, ResourceUsage};
use crate::refusal::Refusal;
use crate::task::Task;
use crate::wrap::Wrapper;

/// Everything that an agent must know to start its ranks. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AgentConfig {
    /// What there is to run; each rank says which of them.
    pub(crate) tasks: Vec<Task>,
    #[serde(with = "text::one")]
    pub(crate) working_directory: PathBuf,
    /// Variables that every rank gets.
    #[serde(with = "text::pairs")]
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// Variables that every rank gets unless the agent's environment has them.
    #[serde(with = "text::pairs")]
    pub(crate) default_variables: Vec<(OsString, OsString)>,
    /// Whether OMP_NUM_THREADS becomes the cores of the host divided by its ranks, unless the agent's
    /// environment has it. Who plans does not know the cores of other hosts.
    pub(crate) divide_cores: bool,
    pub(crate) ranks: Vec<RankConfig>,
    pub(crate) wrapper: Option<Wrapper>,
    pub(crate) bind_to: BindTo,
    pub(crate) gpu_visibility: GpuVisibility,
    /// Where each rank of the job may let TensorFlow listen, by rank: they get TF_CONFIG. Empty where
    /// they do not.
    pub(crate) tensorflow: Vec<SocketAddr>,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
    /// The launcher is on another host. So ranks reach the coordinator through the agent, and a launcher
    /// that is not heard of any more is gone, whatever the connection says.
    pub(crate) is_remote: bool,
}

/// What one rank has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RankConfig {
    pub(crate) rank: u32,
    /// Its standard input is a pipe that `Order::Input` fills.
    pub(crate) has_input: bool,
    /// What it runs, by its place in the list.
    pub(crate) task: usize,
    pub(crate) device: Option<RankDevice>,
    #[serde(with = "text::pairs")]
    pub(crate) variables: Vec<(OsString, OsString)>,
}

/// From the launcher to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// The run's secret; comes before `Start`.
    Secret(Zeroizing<Vec<u8>>),
    /// Start the ranks.
    Start(Box<AgentConfig>),
    /// Pass this signal on to every rank.
    Signal(i32),
    /// End the ranks: continue, terminate, kill after the grace.
    Stop,
    /// End the ranks now.
    Kill,
    /// Answer with `Alive`.
    Ping,
    /// Answer with `Facts`, in which so many ports are to be.
    Describe { ports: u32 },
    /// Answer with `Examined` and the same number.
    Examine { number: u32, question: Question },
    /// Answer with `Stacks` for every rank that runs.
    TellStacks,
    /// A piece of a connection between a rank and the coordinator.
    Tunnel { connection: u32, piece: Piece },
    /// So many more bytes of the stream may be sent.
    Grant { rank: u32, stream: Stream, bytes: u32 },
    /// Standard input for a rank; empty at its end.
    Input { rank: u32, bytes: Vec<u8> },
}

/// From an agent to the launcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// The agent runs.
    Ready { pid: i32, host: String },
    /// The answer to `Ping`.
    Alive,
    /// The answer to `Describe`.
    Facts(Box<AgentFacts>),
    /// The answer to `Examine`.
    Examined { number: u32, answer: Answer },
    /// A piece of a connection between a rank and the coordinator.
    Tunnel { connection: u32, piece: Piece },
    /// The ranks cannot be started; none of them runs.
    Refused(Refusal),
    /// A rank runs, perhaps bound to these processors.
    Started { rank: u32, pid: i32, cpus: Option<String> },
    /// Bytes of a rank.
    Output { rank: u32, stream: Stream, bytes: Vec<u8> },
    /// A rank's stream has ended.
    Closed { rank: u32, stream: Stream },
    /// A rank's standard input has taken what was sent; more may follow.
    InputTaken { rank: u32 },
    /// A rank has ended and has been reaped.
    Exited(RankExit),
    /// What a rank is doing, in lines.
    Stacks { rank: u32, lines: Vec<String> },
    /// Somebody asked the agent itself to stop.
    Interrupted { signal: i32 },
    /// All ranks have ended and these processes that they started had not; they are being ended.
    LeftBehind(Vec<LeftBehind>),
    /// Nothing runs any more, except these which even SIGKILL did not end.
    Finished { survivors: Vec<LeftRunning> },
}

/// How a rank ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankExit {
    /// The rank.
    pub rank: u32,
    /// Its process id on its host.
    pub pid: i32,
    /// How it ended.
    pub ending: Ending,
    /// How long it ran.
    pub ran: Duration,
    /// What it used.
    pub usage: ResourceUsage,
    /// The kernel killed it, for want of memory.
    pub out_of_memory: Option<OutOfMemory>,
}

/// A process that a rank started and did not end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftBehind {
    /// Which rank's environment it was started with, if that can be told.
    pub rank: Option<u32>,
    /// The process.
    pub process: ProcessName,
}

/// A process that SIGKILL has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeftRunning {
    /// The rank that it is, or that had started it, if that can be told.
    pub(crate) rank: Option<u32>,
    pub(crate) process: ProcessName,
    /// Its state in /proc/PID/stat.
    pub(crate) state: char,
}

impl LeftRunning {
    /// Looks at nothing of the process: a file below its /proc may hang as the process does.
    pub(crate) fn of(rank: Option<u32>, entry: &ProcessEntry) -> Self {
        Self { rank, process: ProcessName::from(entry), state: char::from(entry.state) }
    }
}

/// Kinds of frames. The numbers are the wire format.
mod kind {
    pub(super) const SECRET: u8 = 1;
    pub(super) const START: u8 = 2;
    pub(super) const SIGNAL: u8 = 3;
    pub(super) const STOP: u8 = 4;
    pub(super) const KILL: u8 = 5;
    pub(super) const GRANT: u8 = 6;
    pub(super) const INPUT: u8 = 7;
    pub(super) const PING: u8 = 8;
    pub(super) const DESCRIBE: u8 = 9;
    pub(super) const TUNNEL_DOWN: u8 = 10;
    pub(super) const EXAMINE: u8 = 11;
    pub(super) const TELL_STACKS: u8 = 12;
    pub(super) const READY: u8 = 65;
    pub(super) const REFUSED: u8 = 66;
    pub(super) const STARTED: u8 = 67;
    pub(super) const OUTPUT: u8 = 68;
    pub(super) const CLOSED: u8 = 69;
    pub(super) const EXITED: u8 = 70;
    pub(super) const INTERRUPTED: u8 = 71;
    pub(super) const LEFT_BEHIND: u8 = 72;
    pub(super) const FINISHED: u8 = 73;
    pub(super) const INPUT_TAKEN: u8 = 74;
    pub(super) const ALIVE: u8 = 75;
    pub(super) const FACTS: u8 = 76;
    pub(super) const TUNNEL_UP: u8 = 77;
    pub(super) const EXAMINED: u8 = 78;
    pub(super) const STACKS: u8 = 79;
}

impl Order {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Secret(secret) => codec::encode(kind::SECRET, &[secret], out),
            Self::Start(config) => json(kind::START, config, out),
            Self::Signal(number) => json(kind::SIGNAL, number, out),
            Self::Stop => codec::encode(kind::STOP, &[], out),
            Self::Kill => codec::encode(kind::KILL, &[], out),
            Self::Ping => codec::encode(kind::PING, &[], out),
            Self::Describe { ports } => json(kind::DESCRIBE, ports, out),
            Self::Examine { number, question } => json(kind::EXAMINE, &(number, question), out),
            Self::TellStacks => codec::encode(kind::TELL_STACKS, &[], out),
            Self::Tunnel { connection, piece } => {
                tunnel(kind::TUNNEL_DOWN, *connection, piece, out)
            }
            Self::Grant { rank, stream, bytes } => json(kind::GRANT, &(rank, stream, bytes), out),
            Self::Input { rank, bytes } => {
                codec::encode(kind::INPUT, &[&rank.to_le_bytes(), bytes], out)
            }
        }
    }

    pub(crate) fn decode(frame: &Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind {
            kind::SECRET => Self::Secret(Zeroizing::new(frame.body.clone())),
            kind::START => Self::Start(Box::new(parse(frame)?)),
            kind::SIGNAL => Self::Signal(parse(frame)?),
            kind::STOP => Self::Stop,
            kind::KILL => Self::Kill,
            kind::PING => Self::Ping,
            kind::DESCRIBE => Self::Describe { ports: parse(frame)? },
            kind::EXAMINE => {
                let (number, question) = parse(frame)?;
                Self::Examine { number, question }
            }
            kind::TELL_STACKS => Self::TellStacks,
            kind::TUNNEL_DOWN => {
                let (connection, piece) = parse_tunnel(frame)?;
                Self::Tunnel { connection, piece }
            }
            kind::GRANT => {
                let (rank, stream, bytes) = parse(frame)?;
                Self::Grant { rank, stream, bytes }
            }
            kind::INPUT => {
                let Some((&rank, bytes)) = frame.body.split_first_chunk() else {
                    return Err(malformed(frame, "shorter than its header"));
                };
                Self::Input { rank: u32::from_le_bytes(rank), bytes: bytes.to_vec() }
            }
            _ => return Err(malformed(frame, "no such type")),
        })
    }
}

impl Report {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match self {
            Self::Ready { pid, host } => json(kind::READY, &(pid, host), out),
            Self::Alive => codec::encode(kind::ALIVE, &[], out),
            Self::Facts(facts) => json(kind::FACTS, facts, out),
            Self::Examined { number, answer } => json(kind::EXAMINED, &(number, answer), out),
            Self::Tunnel { connection, piece } => tunnel(kind::TUNNEL_UP, *connection, piece, out),
            Self::Refused(refusal) => json(kind::REFUSED, refusal, out),
            Self::Started { rank, pid, cpus } => json(kind::STARTED, &(rank, pid, cpus), out),
            Self::Output { rank, stream, bytes } => encode_output(*rank, *stream, bytes, out),
            Self::Closed { rank, stream } => json(kind::CLOSED, &(rank, stream), out),
            Self::InputTaken { rank } => json(kind::INPUT_TAKEN, rank, out),
            Self::Exited(exit) => json(kind::EXITED, exit, out),
            Self::Stacks { rank, lines } => json(kind::STACKS, &(rank, lines), out),
            Self::Interrupted { signal } => json(kind::INTERRUPTED, signal, out),
            Self::LeftBehind(left) => json(kind::LEFT_BEHIND, left, out),
            Self::Finished { survivors } => json(kind::FINISHED, survivors, out),
        }
    }

    pub(crate) fn decode(frame: Frame) -> Result<Self, FrameError> {
        if frame.kind == kind::OUTPUT {
            return decode_output(frame);
        }
        let frame = &frame;
        Ok(match frame.kind {
            kind::READY => {
                let (pid, host) = parse(frame)?;
                Self::Ready { pid, host }
            }
            kind::ALIVE => Self::Alive,
            kind::FACTS => Self::Facts(Box::new(parse(frame)?)),
            kind::EXAMINED => {
                let (number, answer) = parse(frame)?;
                Self::Examined { number, answer }
            }
            kind::TUNNEL_UP => {
                let (connection, piece) = parse_tunnel(frame)?;
                Self::Tunnel { connection, piece }
            }
            kind::REFUSED => Self::Refused(parse(frame)?),
            kind::STARTED => {
                let (rank, pid, cpus) = parse(frame)?;
                Self::Started { rank, pid, cpus }
            }
            kind::CLOSED => {
                let (rank, stream) = parse(frame)?;
                Self::Closed { rank, stream }
            }
            kind::INPUT_TAKEN => Self::InputTaken { rank: parse(frame)? },
            kind::EXITED => Self::Exited(parse(frame)?),
            kind::STACKS => {
                let (rank, lines) = parse(frame)?;
                Self::Stacks { rank, lines }
            }
            kind::INTERRUPTED => Self::Interrupted { signal: parse(frame)? },
            kind::LEFT_BEHIND => Self::LeftBehind(parse(frame)?),
            kind::FINISHED => Self::Finished { survivors: parse(frame)? },
            _ => return Err(malformed(frame, "no such type")),
        })
    }
}

/// Bytes of a frame of output beside the output.
pub(crate) const OUTPUT_HEADER_BYTES: usize = codec::HEADER_BYTES + 5;

/// Appends what [`Report::Output`] is on the wire.
pub(crate) fn encode_output(
    rank: u32,
    stream: Stream,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let stream = [u8::from(stream == Stream::Stderr)];
    codec::encode(kind::OUTPUT, &[&rank.to_le_bytes(), &stream, bytes], out)
}

fn decode_output(frame: Frame) -> Result<Report, FrameError> {
    let Some((&[a, b, c, d, stream], _)) = frame.body.split_first_chunk::<5>() else {
        return Err(malformed(&frame, "shorter than its header"));
    };
    let stream = match stream {
        0 => Stream::Stdout,
        1 => Stream::Stderr,
        _ => return Err(malformed(&frame, "no such stream")),
    };
    // In place: output is most of what there is to decode.
    let mut bytes = frame.body;
    bytes.drain(..5);
    Ok(Report::Output { rank: u32::from_le_bytes([a, b, c, d]), stream, bytes })
}

fn tunnel(kind: u8, connection: u32, piece: &Piece, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let (what, contents) = piece.encode();
    codec::encode(kind, &[&connection.to_le_bytes(), &[what], &contents], out)
}

fn parse_tunnel(frame: &Frame) -> Result<(u32, Piece), FrameError> {
    let Some((&[a, b, c, d, what], contents)) = frame.body.split_first_chunk::<5>() else {
        return Err(malformed(frame, "shorter than its header"));
    };
    let piece = Piece::decode(what, contents).ok_or_else(|| malformed(frame, "no such piece"))?;
    Ok((u32::from_le_bytes([a, b, c, d]), piece))
}

fn json(kind: u8, value: &impl Serialize, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = serde_json::to_vec(value)
        .map_err(|error| FrameError::Malformed { kind, reason: error.to_string() })?;
    codec::encode(kind, &[&body], out)
}

fn parse<T: DeserializeOwned>(frame: &Frame) -> Result<T, FrameError> {
    serde_json::from_slice(&frame.body).map_err(|error| malformed(frame, &error.to_string()))
}

fn malformed(frame: &Frame, reason: &str) -> FrameError {
    FrameError::Malformed { kind: frame.kind, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;

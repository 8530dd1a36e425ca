//! What ranks and coordinator say to each other on the control connection.
//!
//! Messages are JSON inside authenticated [frames](crate::frame): the control plane is not hot,
//! and JSON can be read in a capture. Values of the store are hexadecimal text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::activity::Activity;
use crate::frame::{Frame, FrameKind};
use crate::hex;

/// Longest key of the store, in bytes.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest value of the store, in bytes; twice that as text fits into a frame with room to spare.
pub const VALUE_BYTES_MAX: usize = 256 << 10;
/// Longest reason, name or host in a message, in bytes; longer ones are cut when they are sent.
pub const TEXT_BYTES_MAX: usize = 4096;

/// In place of the number of a communicator: the operation is one of the context itself.
pub const NO_COMMUNICATOR: u32 = u32::MAX;

/// Bits of a communicator's number that count the groups which one rank leads, or the communicators
/// of all ranks.
const GROUP_BITS: u32 = 18;

/// Communicators of all ranks in one context, and groups that one rank may lead, at most.
pub const GROUPS_MAX: u32 = 1 << GROUP_BITS;

/// The number of the communicator of a group of ranks, from the rank that leads it and that rank's
/// own count: unique without asking anybody else. `None` where one of them is too large.
pub fn group_communicator(leader: u32, count: u32) -> Option<u32> {
    let high = leader.checked_add(1).filter(|high| *high < u32::MAX >> GROUP_BITS)?;
    (count < GROUPS_MAX).then_some(high << GROUP_BITS | count)
}

/// A communicator as messages name it: `communicator 2`, or `group 0 of rank 3` for the first group
/// that rank 3 leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommunicatorName(pub u32);

impl fmt::Display for CommunicatorName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, count) = (self.0 >> GROUP_BITS, self.0 % GROUPS_MAX);
        match high.checked_sub(1) {
            None => write!(formatter, "communicator {count}"),
            Some(leader) => write!(formatter, "group {count} of rank {leader}"),
        }
    }
}

/// Number that pairs an answer with its request; unique per connection.
pub type RequestId = u64;

/// From a rank to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ToCoordinator {
    /// Store a value, replacing an older one. Answered by `Stored` or `Refused`.
    Set {
        /// Pairs the answer.
        request: RequestId,
        /// The key.
        key: String,
        /// The value.
        #[serde(with = "hex_bytes")]
        value: Vec<u8>,
    },
    /// Wait for a key. Answered by `Value` as soon as the key exists, or by `Refused`.
    Get {
        /// Pairs the answer.
        request: RequestId,
        /// The key.
        key: String,
    },
    /// The rank gave up waiting for the answer to a `Get`. Not answered.
    Cancel {
        /// The request that nobody waits for any more.
        request: RequestId,
    },
    /// Where the rank runs; the first message. Not answered.
    Introduction {
        /// The name of its host.
        host: String,
        /// Its process there.
        pid: u32,
    },
    /// What the rank is doing. Not answered, but a failure makes the coordinator abort the epoch.
    Report {
        /// The epoch that it belongs to; in another one it says nothing.
        epoch: u32,
        /// The operation in progress.
        report: OperationReport,
    },
    /// The rank runs. Not answered; sent once per
    /// [`HEARTBEAT_INTERVAL`](crate::heartbeat::HEARTBEAT_INTERVAL).
    Heartbeat {
        /// The epoch whose progress it tells.
        epoch: u32,
        /// How far it is, where that has changed since the last one.
        progress: Vec<Progress>,
    },
    /// What the rank is in and has moved, where that has changed since it was told last. Not
    /// answered; sent with a heartbeat.
    Activity {
        /// What has changed in one context.
        activity: Activity,
    },
    /// The rank gives up its epoch and waits for the others to do so. Answered by `NewEpoch` when all
    /// have come, or by `NoEpoch`.
    NextEpoch {
        /// The epoch that it gives up.
        epoch: u32,
        /// How long it waits.
        timeout_ms: u64,
    },
    /// The rank leaves in good order. Answered by `Farewell`.
    Goodbye,
}

/// From the coordinator to a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ToRank {
    /// The value is stored and visible to all.
    Stored {
        /// The request.
        request: RequestId,
    },
    /// The value of a key.
    Value {
        /// The request.
        request: RequestId,
        /// The value.
        #[serde(with = "hex_bytes")]
        value: Vec<u8>,
    },
    /// The request cannot be fulfilled.
    Refused {
        /// The request.
        request: RequestId,
        /// Why.
        reason: String,
    },
    /// The epoch is over: every operation in progress fails with this.
    Abort {
        /// What happened.
        abort: Abort,
    },
    /// One group of ranks is over: its operations in progress fail with this. Others go on.
    GroupAbort {
        /// The number of its context.
        context: u32,
        /// The number of its communicator.
        communicator: u32,
        /// What happened.
        abort: Abort,
    },
    /// All ranks have come: a new epoch has begun. What was said of older ones is over.
    NewEpoch {
        /// Its number.
        epoch: u32,
    },
    /// The ranks did not meet in the next epoch; those that asked for it may ask again.
    NoEpoch {
        /// Why, and the epoch that they are still in.
        abort: Abort,
    },
    /// The goodbye has arrived; the connection may be closed.
    Farewell,
}

/// Why an epoch, or a group, ended early, or why the next epoch did not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// The epoch that is over.
    pub epoch: u32,
    /// The rank to blame, where one could be named.
    pub culprit: Option<u32>,
    /// Whether it ended because a time limit ran out.
    pub timed_out: bool,
    /// What happened: a sentence without its full stop that names the culprit itself.
    pub reason: String,
}

impl fmt::Display for Abort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)
    }
}

/// How far a rank is in one communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The number of the context, the same on all ranks.
    pub context: u32,
    /// The number of the communicator in it.
    pub communicator: u32,
    /// How many of its operations the rank has entered.
    pub entered: u64,
}

/// What one rank says of the operation that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationReport {
    /// The number of the context, the same on all ranks.
    pub context: u32,
    /// The number of the communicator in it, or [`NO_COMMUNICATOR`].
    pub communicator: u32,
    /// The ranks that belong to the communicator; `None` if all do.
    pub members: Option<Vec<u32>>,
    /// Number of the operation in its communicator, counted from 0.
    pub op_seq: u64,
    /// What it is, such as `all_reduce`.
    pub kind: String,
    /// The user's name for it, such as that of the tensor.
    pub name: Option<String>,
    /// Everything else about it, for people: `1048576 f32, sum`.
    pub details: String,
    /// Equal on ranks that call the same and on no others.
    pub signature: String,
    /// Size of the operation in bytes, as the user sees it.
    pub bytes: u64,
    /// How far it came.
    pub state: OperationState,
    /// Milliseconds that the rank has been in this operation.
    pub since_ms: u64,
    /// Milliseconds since anything last moved for it on this rank.
    pub idle_ms: u64,
}

/// The bit of an operation's number that says that it is a message from one rank to another: those
/// are numbered on their own, by tag (32 bits) and then by the order of those with the same tag
/// between the two ranks (31 bits).
pub const MESSAGE_BIT: u64 = 1 << 63;

/// Tag and order of a message, from the number of its operation; `None` for a collective operation.
pub fn message_place(op_seq: u64) -> Option<(u32, u32)> {
    let (tag, order) = (op_seq >> 31 & u64::from(u32::MAX), op_seq & 0x7fff_ffff);
    let place = (u32::try_from(tag).ok()?, u32::try_from(order).ok()?);
    (op_seq & MESSAGE_BIT != 0).then_some(place)
}

/// How far an operation came on one rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum OperationState {
    /// The rank waits for others.
    Waiting {
        /// The ranks that owe it data.
        on: Vec<u32>,
    },
    /// The rank waited for its whole deadline. The coordinator finds the culprit and aborts.
    TimedOut {
        /// The ranks that owe it data.
        on: Vec<u32>,
    },
    /// The operation failed on this rank. The coordinator aborts.
    Failed {
        /// Why: a fragment that completes "all_reduce #3 failed on rank 2: …".
        reason: String,
        /// The rank to blame, where this one knows.
        culprit: Option<u32>,
    },
}

/// Why a message cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The frame is of another kind.
    #[error("a frame of kind {kind} on a control connection")]
    UnexpectedKind {
        /// The kind.
        kind: u16,
    },
    /// The payload is not a message.
    #[error("failed to decode a control message")]
    Decode {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

macro_rules! frame_codec {
    ($message:ty) => {
        impl $message {
            /// The payload of the frame that carries the message.
            pub fn encode(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("messages have no maps and no failing serialisers")
            }

            /// The message in a frame.
            ///
            /// # Errors
            /// [`MessageError`], when the frame holds something else.
            pub fn decode(frame: &Frame) -> Result<Self, MessageError> {
                if frame.kind != FrameKind::CONTROL {
                    return Err(MessageError::UnexpectedKind { kind: frame.kind.0 });
                }
                serde_json::from_slice(&frame.payload)
                    .map_err(|source| MessageError::Decode { source })
            }
        }
    };
}

frame_codec!(ToCoordinator);
frame_codec!(ToRank);

/// The longest beginning of `text` that fits into a message.
pub(crate) fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::hex::decode(&text).ok_or_else(|| de::Error::custom("not hexadecimal"))
    }
}

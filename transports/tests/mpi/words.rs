//! What the ranks say to each other about the test: a line of JSON, then bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use paceline_transports::{MessageId, Signature, TwoWay};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A message by its name, as it is written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Id {
    communicator: u32,
    tag: u32,
    op_seq: u64,
}

impl From<MessageId> for Id {
    fn from(id: MessageId) -> Self {
        let MessageId { communicator, tag, op_seq } = id;
        Self { communicator, tag, op_seq }
    }
}

impl From<Id> for MessageId {
    fn from(id: Id) -> Self {
        let Id { communicator, tag, op_seq } = id;
        Self { communicator, tag, op_seq }
    }
}

/// What rank 0 wants of another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// A new transport; the answer is its address.
    Join,
    /// Its connections; the answer is the number of the end at rank 0.
    Connect {
        addresses: Vec<Vec<u8>>,
    },
    /// Followed by the bytes.
    Send {
        end: usize,
        token: u64,
        id: Id,
        signature: [u8; 16],
        length: usize,
    },
    Receive {
        end: usize,
        token: u64,
        id: Id,
        signature: [u8; 16],
        length: usize,
    },
    Poll {
        end: usize,
    },
    Facts {
        end: usize,
    },
    Abandon {
        end: usize,
        communicator: u32,
    },
    Drop {
        end: usize,
    },
    /// To take part where every rank does the same.
    Everybody {
        addresses: Vec<Vec<u8>>,
        round: u32,
    },
}

/// What comes of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Address(Vec<u8>),
    End(usize),
    Full,
    Dead,
    Facts(Facts),
    /// Whether anything moved or how the connection died, and what ended; the bytes of what was
    /// received follow, in this order.
    Polled(Result<bool, Death>, Vec<Ended>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) peer: u32,
    pub(crate) description: String,
    pub(crate) active: bool,
    pub(crate) counts: TwoWay,
    pub(crate) memory_bytes: usize,
}

/// How a connection died.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Death {
    Closed { orderly: bool },
    Abandoned,
    Other(String),
}

/// An event.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ended {
    Sent(u64),
    Received(u64, usize),
    Signature { token: u64, id: Id, ours: [u8; 16], theirs: [u8; 16] },
    Length { token: u64, id: Id, posted: usize, announced: usize },
    Early(Id, [u8; 16]),
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Line {
    stream: BufReader<UnixStream>,
}

impl Line {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn say(&mut self, what: &impl Serialize, bytes: &[u8]) {
        let mut text = serde_json::to_vec(what).expect("it is plain data");
        text.push(b'\n');
        let stream = self.stream.get_mut();
        stream.write_all(&text).expect("the other side listens");
        stream.write_all(bytes).expect("the other side listens");
    }

    /// `None` when there is nothing more.
    pub(crate) fn hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut text = String::new();
        let read = self.stream.read_line(&mut text).expect("the other side speaks");
        (read > 0).then(|| serde_json::from_str(&text).expect("it speaks our language"))
    }

    pub(crate) fn bytes(&mut self, into: &mut [u8]) {
        self.stream.read_exact(into).expect("what was announced comes");
    }
}

pub(crate) fn signature(bytes: [u8; 16]) -> Signature {
    Signature(bytes)
}

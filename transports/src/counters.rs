//! What has crossed a connection, counted by whoever moves it and read by anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::TransportKind;

/// What has crossed a connection in one direction since the handshake, which is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Messages begun: those of which the first byte, or the header of an empty one, was counted.
    pub messages: u64,
    /// Bytes of messages, without headers.
    pub payload_bytes: u64,
    /// All bytes: payloads, the headers of their frames, grants, credit and goodbyes.
    pub wire_bytes: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.payload_bytes += other.payload_bytes;
        self.wire_bytes += other.wire_bytes;
    }
}

/// What has crossed a connection, or one of the sockets or rings that it is made of, both ways.
///
/// A payload is counted when its last byte within a frame has been handed over or has landed, so that
/// the two ends of a connection agree whenever nothing is under way. `wire_bytes` also count what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwoWay {
    /// From this rank.
    pub sent: Traffic,
    /// To this rank.
    pub received: Traffic,
}

impl std::ops::AddAssign for TwoWay {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
    }
}

/// The running counts of one connection.
///
/// One thread at a time counts, with plain loads and stores; any thread may read meanwhile. They
/// outlive the connection.
#[derive(Debug)]
pub struct ConnectionCounters {
    peer: u32,
    transport: TransportKind,
    channels: Vec<Arc<ChannelCounters>>,
}

impl ConnectionCounters {
    pub(crate) fn new(peer: u32, transport: TransportKind, channels: usize) -> Self {
        Self { peer, transport, channels: (0..channels).map(|_| Arc::default()).collect() }
    }

    pub(crate) fn channel(&self, channel: usize) -> Arc<ChannelCounters> {
        Arc::clone(&self.channels[channel])
    }

    /// The rank at the other end.
    pub fn peer(&self) -> u32 {
        self.peer
    }

    /// What carries the bytes.
    pub fn transport(&self) -> TransportKind {
        self.transport
    }

    /// Everything so far.
    pub fn total(&self) -> TwoWay {
        self.channels().fold(TwoWay::default(), |mut total, channel| {
            total += channel;
            total
        })
    }

    /// The same for each socket or ring.
    pub fn channels(&self) -> impl ExactSizeIterator<Item = TwoWay> + '_ {
        self.channels.iter().map(|channel| channel.read())
    }
}

/// For tests whose endpoint stands for one in another process.
#[cfg(any(test, feature = "testing"))]
impl ConnectionCounters {
    /// Counts of one channel.
    pub fn of_another(peer: u32, transport: TransportKind) -> Arc<Self> {
        Arc::new(Self::new(peer, transport, 1))
    }

    /// Takes over what the other process has counted.
    pub fn set(&self, counts: TwoWay) {
        self.channels[0].sent.set(counts.sent);
        self.channels[0].received.set(counts.received);
    }
}

/// The running counts of one stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct ChannelCounters {
    pub(crate) sent: Count,
    pub(crate) received: Count,
}

impl ChannelCounters {
    fn read(&self) -> TwoWay {
        TwoWay { sent: self.sent.read(), received: self.received.read() }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Count {
    messages: AtomicU64,
    payload_bytes: AtomicU64,
    wire_bytes: AtomicU64,
}

impl Count {
    #[inline]
    pub(crate) fn wire(&self, bytes: usize) {
        add(&self.wire_bytes, bytes as u64);
    }

    /// A frame of a message is across.
    #[inline]
    pub(crate) fn frame(&self, is_first: bool, payload_bytes: u32) {
        add(&self.messages, u64::from(is_first));
        add(&self.payload_bytes, u64::from(payload_bytes));
    }

    #[cfg(any(test, feature = "testing"))]
    fn set(&self, traffic: Traffic) {
        self.messages.store(traffic.messages, Ordering::Relaxed);
        self.payload_bytes.store(traffic.payload_bytes, Ordering::Relaxed);
        self.wire_bytes.store(traffic.wire_bytes, Ordering::Relaxed);
    }

    fn read(&self) -> Traffic {
        Traffic {
            messages: self.messages.load(Ordering::Relaxed),
            payload_bytes: self.payload_bytes.load(Ordering::Relaxed),
            wire_bytes: self.wire_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Only one thread at a time adds, so that no locked instruction is needed.
#[inline]
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

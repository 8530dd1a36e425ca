//! What operations count while they run: with plain stores, for others to read at any time.
//!
//! # Invariants
//! - M-1: one thread at a time writes a [`Meter`]: that of the communicator's operation, which holds
//!   the communicator's lock. So it needs no locked instruction.
//! - M-2: nobody who reads waits for an operation, also not for one that never ends: what is behind a
//!   lock here is touched only when communicators are made and dropped, and by readers.
//! - M-3: the time of what only a look can notice is known to within the time between two looks.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use paceline_rendezvous::activity::{Moved, OperationTotal, PeerActivity, Underway};
use paceline_rendezvous::{Activity, ActivitySource};
use paceline_transports::{ConnectionCounters, Traffic, TwoWay};

use crate::batch::Message;
use crate::counters::{Counters, OperationCounters, OperationInProgress, PeerCounters};
use crate::signature::{Collective, OperationKind};

/// Room for the codes of all collectives.
const CODES: usize = 64;

/// What one communicator does and has done.
#[derive(Debug)]
pub(crate) struct Meter {
    communicator: u32,
    /// The number of the operation in progress plus one; 0 between operations.
    current: AtomicU64,
    collective: AtomicU8,
    bytes: AtomicU64,
    /// By messages, and in shared memory; by the code of the collective.
    totals: [[Total; CODES]; 2],
}

#[derive(Debug, Default)]
struct Total {
    operations: AtomicU64,
    bytes: AtomicU64,
}

/// Only one thread at a time adds.
#[inline]
fn add(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

impl Meter {
    fn new(communicator: u32) -> Self {
        Self {
            communicator,
            current: AtomicU64::new(0),
            collective: AtomicU8::new(0),
            bytes: AtomicU64::new(0),
            totals: std::array::from_fn(|_| std::array::from_fn(|_| Total::default())),
        }
    }

    /// An operation begins.
    #[inline]
    pub(crate) fn enter(&self, kind: &OperationKind, op_seq: u64) {
        self.collective.store(kind.collective as u8, Ordering::Relaxed);
        self.bytes.store(kind.bytes(), Ordering::Relaxed);
        self.current.store(op_seq.wrapping_add(1), Ordering::Release);
    }

    /// The operation is over; a complete one counts.
    #[inline]
    pub(crate) fn leave(&self, shared_memory: bool, is_complete: bool) {
        self.current.store(0, Ordering::Relaxed);
        // Who sees anything of the next operation does not see the number of this one.
        fence(Ordering::Release);
        if is_complete {
            let code = self.collective.load(Ordering::Relaxed);
            self.count(shared_memory, code, self.bytes.load(Ordering::Relaxed));
        }
    }

    /// Messages are over, of which the first was entered for all.
    pub(crate) fn leave_messages(&self, messages: &[Message], is_complete: bool) {
        self.leave(false, false);
        for message in messages.iter().filter(|_| is_complete) {
            let side = if message.receives { Collective::Receive } else { Collective::Send };
            self.count(false, side as u8, message.buffer.bytes() as u64);
        }
    }

    #[inline]
    fn count(&self, shared_memory: bool, code: u8, bytes: u64) {
        let total = &self.totals[usize::from(shared_memory)][usize::from(code) % CODES];
        add(&total.operations, 1);
        add(&total.bytes, bytes);
    }

    /// What it is in now, with the number that tells operations apart.
    fn operation(&self) -> Option<(u64, Collective, u64)> {
        let current = self.current.load(Ordering::Acquire);
        let collective = self.collective.load(Ordering::Relaxed);
        let bytes = self.bytes.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_same = self.current.load(Ordering::Relaxed) == current;
        // An operation that ends while it is looked at is over.
        let op_seq = current.checked_sub(1).filter(|_| is_same)?;
        Some((op_seq, Collective::from_any_code(collective)?, bytes))
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        totals.add(self);
        totals
    }
}

/// Sums of operations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals(Vec<OperationCounters>);

impl Totals {
    fn add(&mut self, meter: &Meter) {
        for (shared_memory, totals) in [false, true].into_iter().zip(&meter.totals) {
            for (code, total) in (0..).zip(totals) {
                let operations = total.operations.load(Ordering::Relaxed);
                if operations > 0
                    && let Some(collective) = Collective::from_any_code(code)
                {
                    let bytes = total.bytes.load(Ordering::Relaxed);
                    self.add_one(OperationCounters {
                        collective,
                        shared_memory,
                        operations,
                        bytes,
                    });
                }
            }
        }
    }

    fn add_one(&mut self, more: OperationCounters) {
        let same = |of: &&mut OperationCounters| {
            (of.collective, of.shared_memory) == (more.collective, more.shared_memory)
        };
        match self.0.iter_mut().find(same) {
            Some(sum) => {
                sum.operations += more.operations;
                sum.bytes += more.bytes;
            }
            None => self.0.push(more),
        }
    }

    pub(crate) fn into_counters(mut self) -> Vec<OperationCounters> {
        self.0.sort_by_key(|of| (of.collective as u8, of.shared_memory));
        self.0
    }
}

/// What one context and its communicators do and have done.
#[derive(Debug)]
pub(crate) struct Meters {
    context: u32,
    connections: Vec<Arc<ConnectionCounters>>,
    registry: Mutex<Registry>,
    waited_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    meters: Vec<Arc<Meter>>,
    /// Of communicators that are gone.
    past: Totals,
    /// Of each connection what had crossed it at the last look, and when it was last seen to move.
    moved: Vec<(TwoWay, Option<Instant>)>,
    /// Operations in progress at the last look, by communicator and number, and since when.
    seen: Vec<(u32, u64, Instant)>,
}

impl Meters {
    pub(crate) fn new(context: u32, connections: Vec<Arc<ConnectionCounters>>) -> Self {
        let moved = vec![(TwoWay::default(), None); connections.len()];
        let registry = Mutex::new(Registry { moved, ..Registry::default() });
        Self { context, connections, registry, waited_ns: AtomicU64::new(0) }
    }

    /// Counts for a new communicator.
    pub(crate) fn meter(&self, communicator: u32) -> Arc<Meter> {
        let meter = Arc::new(Meter::new(communicator));
        self.lock().meters.push(Arc::clone(&meter));
        meter
    }

    /// The communicator is gone.
    pub(crate) fn retire(&self, meter: &Arc<Meter>) {
        let mut registry = self.lock();
        registry.meters.retain(|other| !Arc::ptr_eq(other, meter));
        registry.past.add(meter);
    }

    /// An operation has waited, and nothing moved.
    pub(crate) fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything as of now.
    pub(crate) fn read(&self, now: Instant) -> Counters {
        let mut registry = self.lock();
        let peers = self.connections.iter().zip(&mut registry.moved).map(|(connection, moved)| {
            let total = connection.total();
            if total != moved.0 {
                *moved = (total, Some(now));
            }
            PeerCounters {
                peer: connection.peer(),
                transport: connection.transport(),
                total,
                channels: connection.channels().collect(),
                idle: moved.1.map(|then| now.saturating_duration_since(then)),
            }
        });
        let peers = peers.collect();
        let mut totals = registry.past.clone();
        registry.meters.iter().for_each(|meter| totals.add(meter));
        Counters {
            peers,
            totals: totals.into_counters(),
            operations: registry.operations(now),
            waited: Duration::from_nanos(self.waited_ns.load(Ordering::Relaxed)),
        }
    }
}

impl Registry {
    fn operations(&mut self, now: Instant) -> Vec<OperationInProgress> {
        let Self { meters, seen, .. } = self;
        let mut seen_now = Vec::new();
        let mut operations = Vec::new();
        for meter in meters.iter() {
            let Some((op_seq, collective, bytes)) = meter.operation() else { continue };
            let communicator = meter.communicator;
            let before = seen.iter().find(|seen| (seen.0, seen.1) == (communicator, op_seq));
            let since = before.map_or(now, |seen| seen.2);
            seen_now.push((communicator, op_seq, since));
            let known_for = now.saturating_duration_since(since);
            operations.push(OperationInProgress {
                communicator,
                op_seq,
                collective,
                bytes,
                known_for,
            });
        }
        *seen = seen_now;
        operations
    }
}

impl ActivitySource for Meters {
    fn activity(&self, now: Instant) -> Activity {
        let Counters { peers, totals, operations, waited } = self.read(now);
        let peer = |peer: PeerCounters| PeerActivity {
            peer: peer.peer,
            transport: peer.transport.name().to_owned(),
            sent: moved(peer.total.sent),
            received: moved(peer.total.received),
            idle_ms: peer.idle.map(millis),
        };
        let total = |of: OperationCounters| OperationTotal {
            kind: of.collective.name().to_owned(),
            shared_memory: of.shared_memory,
            operations: of.operations,
            bytes: of.bytes,
        };
        let underway = |operation: OperationInProgress| Underway {
            communicator: operation.communicator,
            op_seq: operation.op_seq,
            kind: operation.collective.name().to_owned(),
            bytes: operation.bytes,
            for_ms: millis(operation.known_for),
        };
        Activity {
            context: self.context,
            operations: operations.into_iter().map(underway).collect(),
            peers: peers.into_iter().map(peer).collect(),
            totals: totals.into_iter().map(total).collect(),
            waited_ms: millis(waited),
        }
    }
}

fn moved(traffic: Traffic) -> Moved {
    let Traffic { messages, payload_bytes, wire_bytes } = traffic;
    Moved { messages, payload_bytes, wire_bytes }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(collective: Collective, count: u64) -> OperationKind {
        let dtype = Some(paceline_devices::DType::F32);
        OperationKind { dtype, count, ..OperationKind::bare(collective) }
    }

    #[test]
    fn every_collective_has_a_place() {
        for code in 0..=u8::MAX {
            let known = Collective::from_any_code(code);
            assert!(known.is_none_or(|collective| (collective as usize) < CODES));
        }
    }

    #[test]
    fn operations_in_progress_age_and_complete_ones_are_summed() {
        let meters = Meters::new(0, Vec::new());
        let meter = meters.meter(7);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meters.read(start).operations, []);
        meter.enter(&kind(Collective::AllReduce, 10), 0);
        assert_eq!(meters.read(at(1)).operations[0].known_for, Duration::ZERO);
        let stuck = &meters.read(at(5)).operations[0];
        assert_eq!((stuck.communicator, stuck.op_seq, stuck.bytes), (7, 0, 40));
        assert_eq!(stuck.known_for, Duration::from_secs(4));
        meter.leave(true, true);
        meter.enter(&kind(Collective::AllReduce, 10), 1);
        assert_eq!(meters.read(at(6)).operations[0].known_for, Duration::ZERO, "another one");
        meter.leave(true, false);
        meter.enter(&kind(Collective::Barrier, 0), 2);
        meter.leave(false, true);
        let expected = [(Collective::AllReduce, true, 1, 40), (Collective::Barrier, false, 1, 0)];
        let sums = |counters: Counters| -> Vec<_> {
            let sum =
                |of: OperationCounters| (of.collective, of.shared_memory, of.operations, of.bytes);
            counters.totals.into_iter().map(sum).collect()
        };
        assert_eq!(sums(meters.read(at(7))), expected, "one that failed does not count");
        meters.retire(&meter);
        assert_eq!(sums(meters.read(at(8))), expected);
        meters.waited(Duration::from_millis(3));
        assert_eq!(meters.activity(at(9)).waited_ms, 3);
    }
}

//! What a rank is in and what it has moved, as its heartbeats tell the coordinator.
//!
//! Whoever knows, such as a context of `paceline_collectives`, is an [`ActivitySource`]. The thread
//! that sends heartbeats looks at each source once per second and tells what has changed: a rank
//! that is stuck says nothing more than that it lives, and a rank that runs costs the coordinator a
//! few kilobytes per second at most, however large the job.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Peers that one message tells of at most; the others' turn comes with the next one.
pub const PEERS_TOLD_MAX: usize = 64;
/// Operations in progress that one message tells of at most.
pub const OPERATIONS_TOLD_MAX: usize = 64;

/// What one context of a rank does and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activity {
    /// The number of the context, the same on all ranks.
    pub context: u32,
    /// The operations that it is in now: at most one for each communicator.
    pub operations: Vec<Underway>,
    /// What has crossed its connections. In a message only those that have changed.
    pub peers: Vec<PeerActivity>,
    /// What it has completed.
    pub totals: Vec<OperationTotal>,
    /// Milliseconds in which operations waited and nothing moved.
    pub waited_ms: u64,
}

/// An operation that a rank has entered and not left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Underway {
    /// The number of the communicator.
    pub communicator: u32,
    /// The number of the operation in it.
    pub op_seq: u64,
    /// What it is, such as `all_reduce`.
    pub kind: String,
    /// Its size in bytes, as the user sees it.
    pub bytes: u64,
    /// Milliseconds since somebody looked and it was in it already.
    pub for_ms: u64,
}

impl Underway {
    fn is_same(&self, other: &Self) -> bool {
        (self.communicator, self.op_seq) == (other.communicator, other.op_seq)
    }
}

/// What has crossed one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerActivity {
    /// The rank at the other end.
    pub peer: u32,
    /// What carries it, such as `tcp`.
    pub transport: String,
    /// To that rank.
    pub sent: Moved,
    /// From that rank.
    pub received: Moved,
    /// Milliseconds since a look found that something had moved, to within the time between two
    /// looks; `None` if nothing ever has.
    pub idle_ms: Option<u64>,
}

/// Messages and bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moved {
    /// Messages begun.
    pub messages: u64,
    /// Their bytes, without headers.
    pub payload_bytes: u64,
    /// All bytes.
    pub wire_bytes: u64,
}

/// What a rank has completed of one collective, in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationTotal {
    /// The collective, such as `all_reduce`.
    pub kind: String,
    /// Whether in memory that the ranks of a node share, rather than by messages.
    pub shared_memory: bool,
    /// How many operations.
    pub operations: u64,
    /// Bytes of their vectors, as the user sees them.
    pub bytes: u64,
}

/// Somebody who knows what a rank does.
pub trait ActivitySource: Send + Sync + std::fmt::Debug {
    /// Everything, as of now. Called about once per second, by a thread that may not be kept waiting
    /// by operations.
    fn activity(&self, now: Instant) -> Activity;
}

/// The sources of a rank, and what the coordinator has been told of each.
#[derive(Debug, Default)]
pub(crate) struct ActivityTable {
    sources: Mutex<Vec<Watched>>,
}

#[derive(Debug)]
struct Watched {
    source: Weak<dyn ActivitySource>,
    told: Activity,
    /// The peer to begin with next time, where not all fit into one message.
    next_peer: usize,
}

impl ActivityTable {
    pub(crate) fn watch(&self, source: &Arc<dyn ActivitySource>) {
        let source = Arc::downgrade(source);
        let watched = Watched { source, told: Activity::default(), next_peer: 0 };
        self.lock().push(watched);
    }

    /// Forgets all sources: another epoch has begun.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// What has changed since it was asked last; one activity for each source that has news.
    pub(crate) fn news(&self, now: Instant) -> Vec<Activity> {
        let mut news = Vec::new();
        self.lock().retain_mut(|watched| match watched.source.upgrade() {
            Some(source) => {
                news.extend(watched.news(source.activity(now)));
                true
            }
            None => false,
        });
        news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Watched>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn news(&mut self, mut now: Activity) -> Option<Activity> {
        now.operations.truncate(OPERATIONS_TOLD_MAX);
        let told = &mut self.told;
        let same_operations = now.operations.len() == told.operations.len()
            && now.operations.iter().zip(&told.operations).all(|(a, b)| a.is_same(b));
        let moved = |peer: &PeerActivity| {
            let before = told.peers.iter().find(|before| before.peer == peer.peer);
            before.is_none_or(|before| (before.sent, before.received) != (peer.sent, peer.received))
        };
        let count = now.peers.len();
        let order = (0..count).map(|at| (self.next_peer + at) % count);
        let changed: Vec<usize> =
            order.filter(|at| moved(&now.peers[*at])).take(PEERS_TOLD_MAX).collect();
        let same_rest = (now.context, now.waited_ms) == (told.context, told.waited_ms)
            && now.totals == told.totals;
        if same_operations && changed.is_empty() && same_rest {
            return None;
        }
        self.next_peer = changed.last().map_or(0, |last| last + 1);
        let peers: Vec<PeerActivity> = changed.iter().map(|at| now.peers[*at].clone()).collect();
        for peer in &peers {
            match told.peers.iter_mut().find(|before| before.peer == peer.peer) {
                Some(before) => before.clone_from(peer),
                None => told.peers.push(peer.clone()),
            }
        }
        let news = Activity { peers, ..now };
        *told = Activity { peers: std::mem::take(&mut told.peers), ..news.clone() };
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Source(Mutex<Activity>);

    impl ActivitySource for Source {
        fn activity(&self, _now: Instant) -> Activity {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    fn peer(peer: u32, wire_bytes: u64) -> PeerActivity {
        let moved = Moved { wire_bytes, ..Moved::default() };
        let transport = "tcp".to_owned();
        PeerActivity { peer, transport, sent: moved, received: Moved::default(), idle_ms: None }
    }

    fn watched() -> (ActivityTable, Arc<Source>) {
        let (table, source) = (ActivityTable::default(), Arc::new(Source::default()));
        table.watch(&(Arc::clone(&source) as Arc<dyn ActivitySource>));
        (table, source)
    }

    fn peers(news: &[Activity]) -> Vec<u32> {
        news.iter().flat_map(|activity| &activity.peers).map(|peer| peer.peer).collect()
    }

    #[test]
    fn only_what_has_changed_is_told() {
        let (table, source) = watched();
        let change = |change: &dyn Fn(&mut Activity)| {
            change(&mut source.0.lock().unwrap_or_else(PoisonError::into_inner));
            table.news(Instant::now())
        };
        let news = change(&|activity| activity.peers = vec![peer(1, 5), peer(2, 0)]);
        assert_eq!(peers(&news), [1, 2]);
        assert_eq!(table.news(Instant::now()), []);
        assert_eq!(peers(&change(&|activity| activity.peers[0] = peer(1, 6))), [1]);
        let operation = |op_seq, for_ms| Underway {
            communicator: 0,
            op_seq,
            kind: "barrier".to_owned(),
            bytes: 0,
            for_ms,
        };
        let news = change(&|activity| activity.operations = vec![operation(3, 0)]);
        assert_eq!((news.len(), peers(&news)), (1, vec![]));
        // That it is in it for longer is no news: the coordinator has a clock.
        assert_eq!(change(&|activity| activity.operations = vec![operation(3, 99)]), []);
        assert_eq!(change(&|activity| activity.operations = vec![operation(4, 0)]).len(), 1);
        assert_eq!(change(&|activity| activity.operations.clear()).len(), 1);
        assert_eq!(change(&|activity| activity.waited_ms = 1).len(), 1);
        drop(source);
        assert_eq!(table.news(Instant::now()), []);
        assert_eq!(table.lock().len(), 0);
    }

    #[test]
    fn many_peers_take_turns() {
        let (table, source) = watched();
        let all = |bytes| (0..150).map(|number| peer(number, bytes)).collect();
        let set = |bytes| {
            source.0.lock().unwrap_or_else(PoisonError::into_inner).peers = all(bytes);
        };
        set(1);
        let mut told = Vec::new();
        for _ in 0..3 {
            let news = peers(&table.news(Instant::now()));
            assert!(news.len() <= PEERS_TOLD_MAX);
            told.extend(news);
        }
        assert_eq!(told, (0..150).collect::<Vec<_>>());
        // Busy ones do not keep the others from being told.
        let mut told = Vec::new();
        for round in 2..5 {
            set(round);
            told.extend(peers(&table.news(Instant::now())));
        }
        told.sort_unstable();
        told.dedup();
        assert_eq!(told.len(), 150);
    }
}

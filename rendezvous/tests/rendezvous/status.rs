//! Looking at a job from outside, while it runs and while it is stuck.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paceline_rendezvous::activity::{
    Activity, ActivitySource, Moved, OperationTotal, PeerActivity, Underway,
};
use paceline_rendezvous::hello::{self, COORDINATOR_RANK, HelloError, Purpose};
use paceline_rendezvous::status::{JobStatus, RankPresence, observe};
use paceline_rendezvous::{ControlClient, ControlError, OperationReport, OperationState, Secret};

use crate::support::{RUN, config, connect, eventually, generous, identity, secret, start};

/// A rank that says whatever the test wants.
#[derive(Debug, Default)]
struct Says(Mutex<Activity>);

impl ActivitySource for Says {
    fn activity(&self, _now: Instant) -> Activity {
        self.0.lock().unwrap().clone()
    }
}

fn all_reduce(op_seq: u64) -> Underway {
    let kind = "all_reduce".to_owned();
    Underway { communicator: 0, op_seq, kind, bytes: 4096, for_ms: 0 }
}

/// Has a rank say that it is in operations.
fn is_in(client: &ControlClient, says: &Arc<Says>, operations: Vec<Underway>) {
    says.0.lock().unwrap().operations = operations;
    client.heartbeat().unwrap();
}

fn says(client: &ControlClient) -> Arc<Says> {
    let says = Arc::new(Says::default());
    client.watch(&(Arc::clone(&says) as Arc<dyn ActivitySource>));
    says
}

fn waiting(op_seq: u64, on: Vec<u32>) -> OperationReport {
    OperationReport {
        context: 0,
        communicator: 0,
        members: None,
        op_seq,
        kind: "all_reduce".to_owned(),
        name: Some("grad.7".to_owned()),
        details: String::new(),
        signature: String::new(),
        bytes: 4096,
        state: OperationState::Waiting { on },
        since_ms: 31_000,
        idle_ms: 31_000,
    }
}

#[test]
fn what_ranks_say_is_shown() {
    let (server, _events) = start(config(3));
    let look = || observe(server.local_addr(), RUN, &secret(), generous()).unwrap();
    assert_eq!(look().ranks.iter().filter(|r| r.presence == RankPresence::Absent).count(), 3);
    let client = connect(&server, 1).unwrap();
    let says = says(&client);
    let moved = |payload_bytes| Moved { messages: 2, payload_bytes, wire_bytes: 700 };
    let peer = PeerActivity {
        peer: 2,
        transport: "tcp".to_owned(),
        sent: moved(500),
        received: moved(0),
        idle_ms: Some(1),
    };
    let kind = "all_reduce".to_owned();
    let total = OperationTotal { kind, shared_memory: true, operations: 7, bytes: 99 };
    {
        let mut activity = says.0.lock().unwrap();
        activity.peers = vec![peer.clone()];
        activity.totals = vec![total.clone()];
        activity.waited_ms = 5;
    }
    client.track(3, 0, 0).enter(6);
    is_in(&client, &says, vec![all_reduce(6)]);
    let status = eventually(|| Some(look()).filter(|s| !s.ranks[1].operations.is_empty()));
    assert_eq!((status.world_size, status.epoch, status.stalls.len()), (3, 3, 0));
    let rank = &status.ranks[1];
    assert_eq!((rank.presence, rank.pid), (RankPresence::Present, Some(std::process::id())));
    assert_eq!(rank.operations[0].label, "all_reduce #6");
    assert_eq!((rank.operations[0].underway.bytes, &rank.operations[0].waits_for), (4096, &None));
    assert_eq!(rank.progress[0].entered, 7);
    let shown = &rank.contexts[0];
    assert_eq!((&shown.totals[..], shown.waited_ms), (&[total][..], 5));
    assert_eq!((shown.peers[0].sent, shown.peers[0].received), (peer.sent, peer.received));
    // What does not change is not told again, and grows older here.
    let idle = |status: &JobStatus| status.ranks[1].contexts[0].peers[0].idle_ms.unwrap();
    let before = idle(&status);
    client.heartbeat().unwrap();
    eventually(|| (idle(&look()) > before).then_some(()));
    // The server's owner sees the same without a connection.
    let watched = server.watcher().status(Duration::from_secs(60)).unwrap();
    assert_eq!(watched.ranks[1].pid, Some(std::process::id()));
    let watcher = server.watcher();
    server.shutdown();
    assert_eq!(watcher.status(Duration::from_millis(50)), None);
}

#[test]
fn a_stall_names_who_is_missing_and_only_while_it_lasts() {
    let (server, _events) = start(config(2));
    let look = || observe(server.local_addr(), RUN, &secret(), generous()).unwrap();
    let clients = [0, 1].map(|rank| connect(&server, rank).unwrap());
    let (mine, counter) = (says(&clients[0]), clients[0].track(3, 0, 0));
    clients[1].track(3, 0, 0).enter(4);
    counter.enter(5);
    is_in(&clients[0], &mine, vec![all_reduce(5)]);
    clients[1].heartbeat().unwrap();
    clients[0].report(3, &waiting(5, vec![1])).unwrap();
    let status = eventually(|| Some(look()).filter(|status| !status.stalls.is_empty()));
    let [stall] = &status.stalls[..] else { panic!("{:?}", status.stalls) };
    assert!(stall.starts_with("all_reduce #5 (grad.7): rank 1 on "), "{stall}");
    assert!(stall.contains("never entered but is alive"), "{stall}");
    assert!(stall.contains("rank 0 waits since 31."), "{stall}");
    let operation = &status.ranks[0].operations[0];
    assert_eq!(operation.waits_for, Some(vec![1]));
    assert!(operation.underway.for_ms >= 31_000);
    assert_eq!(operation.label, "all_reduce #5 (grad.7)");
    // It has left the operation; its last report is history.
    is_in(&clients[0], &mine, Vec::new());
    eventually(|| look().stalls.is_empty().then_some(()));
}

#[test]
fn who_waits_while_bytes_move_is_not_stuck() {
    let (server, _events) = start(config(2));
    let look = || observe(server.local_addr(), RUN, &secret(), generous()).unwrap();
    let clients = [0, 1].map(|rank| connect(&server, rank).unwrap());
    let says = clients.each_ref().map(says);
    let say = |idle_ms| {
        for ((client, says), on) in clients.iter().zip(&says).zip([1, 0]) {
            is_in(client, says, vec![all_reduce(5)]);
            client.report(3, &OperationReport { idle_ms, ..waiting(5, vec![on]) }).unwrap();
        }
    };
    clients.iter().for_each(|client| client.track(3, 0, 0).enter(5));
    say(100);
    let all_wait = |status: &JobStatus| {
        status.ranks.iter().all(|rank| rank.operations.iter().any(|op| op.waits_for.is_some()))
    };
    let status = eventually(|| Some(look()).filter(all_wait));
    assert_eq!(status.stalls, [""; 0]);
    say(5000);
    let status = eventually(|| Some(look()).filter(|status| !status.stalls.is_empty()));
    assert!(status.stalls[0].contains("nobody makes progress"), "{:?}", status.stalls);
}

#[test]
fn strangers_are_told_nothing_and_observers_are_no_ranks() {
    let (server, _events) = start(config(2));
    let wrong = observe(server.local_addr(), RUN, &Secret::from_bytes([1; 32]), generous());
    assert!(matches!(wrong, Err(ControlError::Hello { .. })), "{wrong:?}");
    // A rank may join in spite of those who look, also of one that does not read.
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    let purpose = Purpose::Observe;
    let who = identity(0);
    hello::initiate(&mut stream, who, purpose, COORDINATOR_RANK, &secret(), generous()).unwrap();
    let client = connect(&server, 0).unwrap();
    let status = observe(server.local_addr(), RUN, &secret(), generous()).unwrap();
    assert_eq!(status.ranks[0].presence, RankPresence::Present);
    assert_eq!(client.poll_abort(), None);
    // One answer and the connection ends, whatever the observer says.
    stream.write_all(&[0; 64]).unwrap();
    let mut answer = Vec::new();
    stream.set_nonblocking(false).unwrap();
    // A reset instead of an end is as good.
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.is_empty());
    client.goodbye(generous()).unwrap();
    // What is looked at is the run that one knows the secret of.
    let other = paceline_rendezvous::RunId::from_bytes([8; 16]);
    let refused = observe(server.local_addr(), other, &secret(), generous());
    let is_wrong_run =
        matches!(refused, Err(ControlError::Hello { source: HelloError::WrongRun { .. }, .. }));
    assert!(is_wrong_run, "{refused:?}");
}

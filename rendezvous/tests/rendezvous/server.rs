use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Event, Server};
use paceline_rendezvous::frame::{Encoder, FrameKind};
use paceline_rendezvous::hello::{
    self, COORDINATOR_RANK, HELLO_LEN, MAGIC, PROTOCOL_VERSION, Purpose, Refusal,
};
use paceline_rendezvous::{
    ControlClient, ControlError, HelloError, OperationReport, OperationState, Secret, Store,
    StoreError,
};

use crate::support::{
    config, connect, eventually, expect_event, free_address, generous, identity, secret, soon,
    start,
};

fn hello_error(result: Result<ControlClient, ControlError>) -> HelloError {
    match result {
        Err(ControlError::Hello { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// A stream that has shaken hands as `rank` and can send what a ControlClient never would.
fn raw_rank(server: &Server, rank: u32) -> (TcpStream, Encoder) {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    let session = hello::initiate(
        &mut stream,
        identity(rank),
        Purpose::Control,
        COORDINATOR_RANK,
        &secret(),
        generous(),
    )
    .unwrap();
    (stream, Encoder::new(session.send_key))
}

fn abort_of(client: &ControlClient) -> paceline_rendezvous::Abort {
    eventually(|| client.poll_abort())
}

fn report(state: OperationState) -> OperationReport {
    OperationReport {
        context: 0,
        communicator: 0,
        members: None,
        op_seq: 412,
        kind: "all_reduce".to_owned(),
        name: Some("grad.7".to_owned()),
        details: "262144 f32, sum".to_owned(),
        signature: String::new(),
        bytes: 1 << 20,
        state,
        since_ms: 30_000,
        idle_ms: 30_000,
    }
}

#[test]
fn a_job_from_joining_to_leaving() {
    let (server, events) = start(config(3));
    let clients: Vec<_> = (0..3).map(|rank| connect(&server, rank).unwrap()).collect();
    expect_event(&events, |event| matches!(event, Event::AllJoined));
    assert!(!server.wait_all_gone(soon()));
    assert_eq!(clients[0].address(), server.local_addr());
    for client in &clients {
        client.heartbeat().unwrap();
        client.report(3, &report(OperationState::Waiting { on: Vec::new() })).unwrap();
        assert_eq!(client.poll_abort(), None);
        client.goodbye(generous()).unwrap();
        client.goodbye(generous()).unwrap();
    }
    drop(clients);
    assert!(server.wait_all_gone(generous()));
    expect_event(&events, |event| matches!(event, Event::AllGone));
    server.shutdown();
    assert!(
        !events.iter().any(|event| matches!(event, Event::Aborted { .. } | Event::Lost { .. }))
    );
}

#[test]
fn the_server_listens_only_where_it_was_told() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let server = Server::start(address, config(1), |_| {}).unwrap();
        assert_eq!(server.local_addr().ip(), address.ip());
        connect(&server, 0).unwrap().set("a", b"b").unwrap();
        // The same port is free on another address of the same machine.
        let port = server.local_addr().port();
        TcpListener::bind(("127.0.0.2", port)).unwrap();
        assert!(Server::start(server.local_addr(), config(1), |_| {}).is_err());
    }
}

#[test]
fn wrong_peers_are_turned_away_with_the_reason() {
    let (server, events) = start(config(2));
    let connect_as = |identity, secret: &Secret| {
        hello_error(ControlClient::connect(server.local_addr(), identity, secret, generous()))
    };
    let error = connect_as(identity(0), &Secret::from_bytes([1; 32]));
    assert!(matches!(error, HelloError::WrongSecret), "{error}");
    let mut stale = identity(0);
    stale.epoch = 1;
    let error = connect_as(stale, &secret());
    assert!(matches!(error, HelloError::EpochMismatch { ours: 1, theirs: 3 }), "{error}");
    let error = connect_as(identity(2), &secret());
    assert!(matches!(error, HelloError::Refused { reason: Refusal::Rank }), "{error}");
    let first = connect(&server, 1).unwrap();
    let error = connect_as(identity(1), &secret());
    assert!(matches!(error, HelloError::Refused { reason: Refusal::Duplicate }), "{error}");
    expect_event(&events, |event| {
        matches!(event, Event::Turned { error: HelloError::Duplicate { rank: 1 }, .. })
    });
    drop(first);
    expect_event(&events, |event| matches!(event, Event::Lost { rank: 1, .. }));
    let error = connect_as(identity(1), &secret());
    assert!(matches!(error, HelloError::Refused { reason: Refusal::Gone }), "{error}");

    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    let error = hello::initiate(
        &mut stream,
        identity(0),
        Purpose::Arena,
        COORDINATOR_RANK,
        &secret(),
        generous(),
    )
    .unwrap_err();
    assert!(matches!(error, HelloError::Refused { reason: Refusal::Purpose }), "{error}");
}

#[test]
fn strangers_do_not_keep_ranks_from_being_served() {
    let (server, events) = start(config(1));
    // One that says nothing, one that stops in the middle, garbage of several kinds.
    let _silent = TcpStream::connect(server.local_addr()).unwrap();
    let mut slow = TcpStream::connect(server.local_addr()).unwrap();
    slow.write_all(b"PACELI").unwrap();
    let mut newer = [0; HELLO_LEN];
    newer[..10].copy_from_slice(b"PACELINE\x07\x00");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &newer, &[0xff; 4096]] {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.write_all(garbage).unwrap();
        let turned = expect_event(&events, |event| matches!(event, Event::Turned { .. }));
        let Event::Turned { error, .. } = turned else { unreachable!() };
        if garbage == newer {
            assert!(matches!(error, HelloError::VersionMismatch { theirs: 7 }), "{error}");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer[..8], MAGIC);
            assert_eq!(answer[8..10], PROTOCOL_VERSION.to_le_bytes());
        } else {
            assert!(matches!(error, HelloError::NotPaceline { .. }), "{error}");
        }
    }
    let client = connect(&server, 0).unwrap();
    client.set("a", b"b").unwrap();
    assert_eq!(client.poll_abort(), None);
}

#[test]
fn a_crowd_of_idle_strangers_is_thinned_out() {
    let (server, events) = start(config(1));
    let crowd: Vec<_> =
        (0..200).map(|_| TcpStream::connect(server.local_addr()).unwrap()).collect();
    // 64 strangers and one rank to come may stay; the others go without waiting for a deadline.
    for _ in 0..crowd.len() - 65 {
        expect_event(&events, |event| {
            matches!(event, Event::Turned { error: HelloError::TimedOut { .. }, .. })
        });
    }
    let client = connect(&server, 0).unwrap();
    client.set("a", b"b").unwrap();
    // The rest goes at the deadline of the handshake.
    for _ in 0..65 {
        expect_event(&events, |event| matches!(event, Event::Turned { .. }));
    }
    assert_eq!(client.get("a", generous()).unwrap(), b"b");
}

#[test]
fn forged_and_oversize_frames_cost_the_rank_its_connection() {
    type Make = fn(&mut Encoder) -> Vec<u8>;
    let frames: [(&str, Make); 3] = [
        ("exceeds the limit", |_| vec![0xff; 100]),
        ("wrong MAC", |encoder| {
            let mut wire = Vec::new();
            encoder.encode(FrameKind::CONTROL, b"{\"type\":\"goodbye\"}", &mut wire).unwrap();
            wire[20] ^= 1;
            wire
        }),
        ("failed to decode", |encoder| {
            let mut wire = Vec::new();
            encoder.encode(FrameKind::CONTROL, b"{\"type\":\"nothing\"}", &mut wire).unwrap();
            wire
        }),
    ];
    for (expected, make) in frames {
        let (server, _events) = start(config(2));
        let client = connect(&server, 0).unwrap();
        let (mut stream, mut encoder) = raw_rank(&server, 1);
        stream.write_all(&make(&mut encoder)).unwrap();
        let abort = abort_of(&client);
        assert_eq!((abort.culprit, abort.epoch), (Some(1), 3));
        assert!(abort.reason.contains(expected), "{abort}");
        // The server itself goes on.
        assert!(matches!(connect(&server, 0), Err(ControlError::Hello { .. })));
    }
}

#[test]
fn a_rank_that_does_not_read_is_dropped_before_it_fills_the_memory() {
    let (server, _events) = start(config(2));
    let client = connect(&server, 0).unwrap();
    client.set("big", &vec![1; 256 << 10]).unwrap();
    let (mut stream, mut encoder) = raw_rank(&server, 1);
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    for request in 0..200 {
        let mut wire = Vec::new();
        let text = format!("{{\"type\":\"get\",\"request\":{request},\"key\":\"big\"}}");
        encoder.encode(FrameKind::CONTROL, text.as_bytes(), &mut wire).unwrap();
        if stream.write_all(&wire).is_err() {
            break;
        }
    }
    let abort = abort_of(&client);
    assert_eq!(abort.culprit, Some(1));
    assert!(abort.reason.contains("bytes unread"), "{abort}");
}

#[test]
fn a_lost_rank_ends_every_wait_of_the_others() {
    let (server, events) = start(config(3));
    let clients: Vec<_> = (0..2).map(|rank| Arc::new(connect(&server, rank).unwrap())).collect();
    let dying = connect(&server, 2).unwrap();
    let waiting = Arc::clone(&clients[0]);
    let getter =
        std::thread::Builder::new().spawn(move || waiting.get("never", generous())).unwrap();
    drop(dying);
    match getter.join().unwrap() {
        Err(StoreError::Aborted { key, abort }) => {
            assert_eq!((key.as_str(), abort.culprit), ("never", Some(2)));
            assert!(abort.reason.contains("rank 2 was lost"), "{abort}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(abort_of(&clients[1]).culprit, Some(2));
    expect_event(&events, |event| matches!(event, Event::Lost { rank: 2, .. }));
    expect_event(&events, |event| matches!(event, Event::Aborted { .. }));
    // Good order is still possible.
    for client in &clients {
        client.goodbye(generous()).unwrap();
    }
    assert!(server.wait_all_gone(generous()));
    // A rank that comes too late learns it at once... if it is another than those that were here.
    assert!(matches!(connect(&server, 2), Err(ControlError::Hello { .. })));
}

#[test]
fn a_supervisor_who_knows_better_is_believed() {
    let mut config = config(2);
    config.coordinator.lost_grace = Duration::from_secs(60);
    let (server, events) = start(config);
    let client = connect(&server, 0).unwrap();
    drop(connect(&server, 1).unwrap());
    expect_event(&events, |event| matches!(event, Event::Lost { rank: 1, .. }));
    server.rank_lost(1, "was killed by signal 9");
    let abort = abort_of(&client);
    assert_eq!((abort.reason.as_str(), abort.culprit), ("rank 1 was killed by signal 9", Some(1)));
}

#[test]
fn the_loss_of_the_coordinator_is_an_abort() {
    let (server, _events) = start(config(2));
    let client = connect(&server, 0).unwrap();
    let fd = client.as_fd().try_clone_to_owned().unwrap();
    server.shutdown();
    let abort = abort_of(&client);
    assert_eq!(abort.culprit, None);
    assert!(abort.reason.contains("the coordinator at 127.0.0.1:"), "{abort}");
    assert!(client.heartbeat().is_err());
    assert!(matches!(client.set("a", b""), Err(StoreError::Aborted { .. })));
    assert!(matches!(client.goodbye(generous()), Err(ControlError::Lost { .. })));
    drop(fd);
}

#[test]
fn a_stall_names_who_is_missing() {
    let (server, _events) = start(config(3));
    let clients: Vec<_> = (0..3).map(|rank| connect(&server, rank).unwrap()).collect();
    clients[0].report(3, &report(OperationState::Waiting { on: vec![2] })).unwrap();
    // What a rank has said before a value of its own can be read has been heard: here who rank 2
    // is, and that rank 0 waits.
    for (from, client) in [(0, &clients[0]), (2, &clients[2])] {
        let key = format!("heard/{from}");
        client.set(&key, b"").unwrap();
        clients[1].get(&key, generous()).unwrap();
    }
    clients[1].report(3, &report(OperationState::TimedOut { on: vec![0] })).unwrap();
    for client in &clients {
        let abort = abort_of(client);
        assert_eq!(abort.culprit, Some(2));
        assert!(abort.reason.starts_with("all_reduce #412 (grad.7): rank 2 on "), "{abort}");
        let process = format!("(pid {}) never entered but is alive (", std::process::id());
        assert!(abort.reason.contains(&process), "{abort}");
        assert!(abort.reason.contains("ranks 0-1 wait since 3"), "{abort}");
    }
}

#[test]
fn ranks_that_never_come_are_named() {
    let mut config = config(4);
    config.coordinator.join_timeout = Some(Duration::from_millis(100));
    let (server, _events) = start(config);
    let clients: Vec<_> = [0, 2].map(|rank| connect(&server, rank).unwrap()).into();
    for client in &clients {
        match client.get("address/1", generous()) {
            Err(StoreError::Aborted { abort, .. }) => {
                assert_eq!(abort.reason, "ranks 1, 3 did not join within 0.1 s");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_threads_share_one_connection() {
    let (server, _events) = start(config(2));
    let clients = [0, 1].map(|rank| Arc::new(connect(&server, rank).unwrap()));
    let threads: Vec<_> = (0..16)
        .map(|index| {
            let (setter, getter) =
                (Arc::clone(&clients[index % 2]), Arc::clone(&clients[(index + 1) % 2]));
            std::thread::Builder::new()
                .spawn(move || {
                    for round in 0..50 {
                        let key = format!("{index}/{round}");
                        setter.set(&key, key.as_bytes()).unwrap();
                        assert_eq!(getter.get(&key, generous()).unwrap(), key.as_bytes());
                        assert_eq!(getter.poll_abort(), None);
                    }
                })
                .unwrap()
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn connecting_waits_for_the_server_and_gives_up_at_the_deadline() {
    let address = free_address("127.77.0.3");
    let started = Instant::now();
    let result = ControlClient::connect(address, identity(0), &secret(), soon());
    assert!(matches!(result, Err(ControlError::Connect { .. })), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(60));
    let late = std::thread::Builder::new()
        .spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            Server::start(address, config(1), |_| {}).unwrap()
        })
        .unwrap();
    let client = ControlClient::connect(address, identity(0), &secret(), generous()).unwrap();
    client.goodbye(generous()).unwrap();
    drop(late.join().unwrap());
}

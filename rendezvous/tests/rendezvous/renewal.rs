//! From one epoch into the next: all ranks or none.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{
    Coordinator, CoordinatorConfig, Event, LocalLink, context_keys,
};
use paceline_rendezvous::message::{Progress, ToCoordinator, ToRank};
use paceline_rendezvous::{Abort, ControlError, OperationReport, OperationState, Store as _};

use crate::support::{config, connect, eventually, expect_event, generous, start};

const TIMEOUT: Duration = Duration::from_secs(30);

fn with_ranks(world_size: u32, lost_grace: Duration, now: Instant) -> Coordinator {
    let mut coordinator = Coordinator::new(CoordinatorConfig {
        world_size,
        epoch: 0,
        join_timeout: None,
        lost_grace,
        stall_report: None,
    });
    (0..world_size).for_each(|rank| assert_eq!(coordinator.joined(rank, now), []));
    coordinator
}

fn next(epoch: u32) -> ToCoordinator {
    ToCoordinator::NextEpoch { epoch, timeout_ms: 30_000 }
}

fn report(epoch: u32, state: OperationState) -> ToCoordinator {
    let report = OperationReport {
        context: 0,
        communicator: 0,
        members: None,
        op_seq: 4,
        kind: "barrier".to_owned(),
        name: None,
        details: String::new(),
        signature: String::new(),
        bytes: 0,
        state,
        since_ms: 1000,
        idle_ms: 1000,
    };
    ToCoordinator::Report { epoch, report }
}

fn failed(culprit: u32) -> OperationState {
    OperationState::Failed { reason: "it broke".to_owned(), culprit: Some(culprit) }
}

/// The refusal that all of these ranks get, and nobody else.
fn refusal(messages: &[(u32, ToRank)], to: &[u32]) -> Abort {
    let refused = |(rank, message): &(u32, ToRank)| match message {
        ToRank::NoEpoch { abort } => (*rank, abort.clone()),
        other => panic!("{other:?}"),
    };
    let (ranks, mut aborts): (Vec<_>, Vec<_>) = messages.iter().map(refused).unzip();
    aborts.dedup();
    assert_eq!((ranks.as_slice(), aborts.len()), (to, 1));
    aborts.remove(0)
}

#[test]
fn an_epoch_begins_when_all_have_given_up_the_one_before() {
    let now = Instant::now();
    let mut coordinator = with_ranks(3, Duration::ZERO, now);
    for epoch in 0..3 {
        let key = format!("{}0/tcp/1", context_keys(epoch));
        for (key, value) in [(key.as_str(), "address"), ("the user's", "own")] {
            let (request, value) = (1, value.as_bytes().to_vec());
            coordinator.handle(0, ToCoordinator::Set { request, key: key.to_owned(), value }, now);
        }
        assert!(!coordinator.handle(1, report(epoch, failed(1)), now).is_empty());
        assert_eq!(coordinator.aborted().map(|abort| abort.epoch), Some(epoch));
        assert_eq!(coordinator.handle(2, next(epoch), now), []);
        // Asking twice is asking once.
        assert_eq!(coordinator.handle(2, next(epoch), now), []);
        assert_eq!(coordinator.handle(0, next(epoch), now), []);
        let begun = coordinator.handle(1, next(epoch), now);
        let new = |rank| (rank, ToRank::NewEpoch { epoch: epoch + 1 });
        assert_eq!(begun, [0, 1, 2].map(new));
        assert_eq!((coordinator.epoch(), coordinator.aborted()), (epoch + 1, None));
        assert_eq!(coordinator.next_deadline(), None);
        // What the contexts of the old epoch left is forgotten, what the user left is not.
        let get = |request, key: &str| ToCoordinator::Get { request, key: key.to_owned() };
        assert_eq!(coordinator.handle(0, get(1, &key), now), []);
        let found = coordinator.handle(0, get(2, "the user's"), now);
        assert!(matches!(&found[..], [(0, ToRank::Value { .. })]), "{found:?}");
        coordinator.handle(0, ToCoordinator::Cancel { request: 1 }, now);
        // What was on its way is of the old epoch.
        assert_eq!(coordinator.handle(2, report(epoch, failed(0)), now), []);
        let progress = vec![Progress { context: 0, communicator: 0, entered: 99 }];
        assert_eq!(coordinator.handle(2, ToCoordinator::Heartbeat { epoch, progress }, now), []);
        let refused = refusal(&coordinator.handle(2, next(epoch), now), &[2]);
        assert!(refused.reason.contains("but the job is in"), "{refused}");
    }
    // Rank 2 has entered nothing in this epoch, whatever it did before.
    let timed_out = OperationState::TimedOut { on: vec![2] };
    coordinator.handle(0, report(3, timed_out), now);
    let reason = &coordinator.aborted().unwrap().reason;
    assert!(reason.contains("rank 2 never entered but is alive (heartbeat 0.0 s ago)"), "{reason}");
}

#[test]
fn who_does_not_come_is_named_to_those_who_did_and_they_may_try_again() {
    let start = Instant::now();
    let mut coordinator = with_ranks(4, Duration::ZERO, start);
    let introduction = ToCoordinator::Introduction { host: "node2".to_owned(), pid: 4711 };
    coordinator.handle(3, introduction, start);
    assert_eq!(coordinator.handle(0, next(0), start), []);
    let later = start + Duration::from_secs(10);
    assert_eq!(coordinator.handle(2, next(0), later), []);
    // The first one's patience is what counts.
    assert_eq!(coordinator.next_deadline(), Some(start + TIMEOUT));
    let now = start + TIMEOUT;
    let waits = OperationState::Waiting { on: vec![3] };
    coordinator.handle(1, report(0, waits), now);
    let refused = refusal(&coordinator.tick(now), &[0, 2]);
    assert_eq!((refused.culprit, refused.timed_out, refused.epoch), (Some(1), true, 0));
    let expected = "ranks 1, 3 did not come to epoch 1 within 30.0 s: rank 1 is alive and waits in \
                    barrier #4; rank 3 on node2 (pid 4711) is stopped or unreachable: no heartbeat for \
                    30.0 s";
    assert_eq!(refused.reason, expected);
    for rank in 0..3 {
        assert_eq!(coordinator.handle(rank, next(0), now), []);
    }
    assert_eq!(coordinator.handle(3, next(0), now).len(), 4);
    assert_eq!(coordinator.epoch(), 1);
}

#[test]
fn who_waits_for_a_rank_that_has_given_up_the_epoch_is_told_so() {
    let now = Instant::now();
    let mut coordinator = with_ranks(3, Duration::ZERO, now);
    assert_eq!(coordinator.handle(2, next(0), now), []);
    let waits = OperationState::Waiting { on: vec![2] };
    let told = coordinator.handle(0, report(0, waits), now);
    assert!(matches!(&told[..], [(0, ToRank::Abort { .. }), (1, _), (2, _)]), "{told:?}");
    let abort = coordinator.aborted().unwrap();
    let expected = "barrier #4: rank 0 waits for rank 2, which has given up this epoch";
    assert_eq!((abort.culprit, abort.reason.as_str()), (Some(2), expected));
    coordinator.handle(0, next(0), now);
    assert_eq!(coordinator.handle(1, next(0), now).len(), 3);
}

#[test]
fn there_is_no_next_epoch_without_a_rank() {
    let now = Instant::now();
    // Lost before somebody asks, and while somebody waits.
    let mut coordinator = with_ranks(3, Duration::ZERO, now);
    coordinator.disconnected(1, "closed", now);
    let refused = refusal(&coordinator.handle(0, next(0), now), &[0]);
    assert_eq!(refused.culprit, Some(1));
    assert_eq!(refused.reason, "rank 1 is gone: rank 1 was lost: closed");

    // The supervisor gets its time to say how it died.
    let grace = Duration::from_millis(200);
    let mut coordinator = with_ranks(3, grace, now);
    assert_eq!(coordinator.handle(0, next(0), now), []);
    assert_eq!(coordinator.handle(2, next(0), now), []);
    assert_eq!(coordinator.disconnected(1, "closed", now), []);
    assert_eq!(coordinator.tick(now), []);
    coordinator.rank_lost(1, "was killed by SIGKILL");
    let refused = refusal(&coordinator.tick(now), &[0, 2]);
    assert_eq!(refused.reason, "rank 1 is gone: rank 1 was killed by SIGKILL");

    let mut coordinator = with_ranks(2, grace, now);
    assert_eq!(coordinator.handle(0, next(0), now), []);
    assert_eq!(coordinator.handle(1, ToCoordinator::Goodbye, now), [(1, ToRank::Farewell)]);
    let refused = refusal(&coordinator.tick(now), &[0]);
    assert_eq!(refused.reason, "rank 1 has left the job");
}

#[test]
fn ranks_go_on_over_the_network() {
    let (server, events) = start(config(3));
    let clients: Vec<_> = (0..3).map(|rank| connect(&server, rank).unwrap()).collect();
    expect_event(&events, |event| matches!(event, Event::AllJoined));
    for epoch in 3..6 {
        clients[1].report(epoch, &operation(epoch)).unwrap();
        let aborts = clients.iter().map(|client| eventually(|| client.poll_abort()));
        for abort in aborts {
            assert_eq!((abort.epoch, abort.culprit), (epoch, Some(1)));
        }
        expect_event(&events, |event| matches!(event, Event::Aborted { .. }));
        thread::scope(|scope| {
            for client in &clients {
                let renew = move || {
                    assert_eq!(client.next_epoch(epoch, TIMEOUT).unwrap(), epoch + 1);
                    // The old epoch stays over, the new one is whole.
                    let old = client.poll_abort_of(epoch, 0, 0).unwrap();
                    assert_eq!((old.epoch, client.poll_abort()), (epoch, None));
                    assert_eq!(client.poll_abort_of(epoch + 1, 0, 0), None);
                };
                thread::Builder::new().spawn_scoped(scope, renew).unwrap();
            }
        });
        expect_event(
            &events,
            |event| matches!(event, Event::Renewed { epoch: new } if *new == epoch + 1),
        );
        clients[0].set("key", b"value").unwrap();
        assert_eq!(clients[2].get("key", generous()).unwrap(), b"value");
    }
    let error = clients[0].next_epoch(6, Duration::from_millis(50)).unwrap_err();
    let ControlError::NoEpoch { abort } = &error else { panic!("{error}") };
    assert!(abort.timed_out && abort.reason.starts_with("ranks 1-2 did not come"), "{error}");
    server.shutdown();
    let error = clients[0].next_epoch(6, TIMEOUT).unwrap_err();
    assert!(matches!(error, ControlError::Lost { .. }), "{error}");
}

fn operation(epoch: u32) -> OperationReport {
    match report(epoch, failed(1)) {
        ToCoordinator::Report { report, .. } => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn threads_of_one_process_go_on_together_too() {
    let links = LocalLink::all(3);
    let given_up = Barrier::new(3);
    thread::scope(|scope| {
        for (rank, link) in (0..).zip(&links) {
            let given_up = &given_up;
            let run = move || {
                for epoch in 0..3 {
                    let counter = link.track(epoch, 0, 0);
                    counter.enter(0);
                    if rank == 1 {
                        link.report(epoch, &operation(epoch));
                    }
                    let abort = eventually(|| link.poll_abort_of(epoch, 0, 0));
                    assert_eq!(abort.culprit, Some(1));
                    assert_eq!(link.next_epoch(epoch, TIMEOUT), Ok(epoch + 1));
                    assert_eq!(link.poll_abort_of(epoch + 1, 0, 0), None);
                    assert!(link.poll_abort_of(epoch, 0, 0).is_some());
                    given_up.wait();
                }
                if rank == 0 {
                    let refused = link.next_epoch(3, Duration::from_millis(50)).unwrap_err();
                    assert!(refused.reason.starts_with("ranks 1-2 did not come"), "{refused}");
                    link.goodbye();
                }
            };
            thread::Builder::new().spawn_scoped(scope, run).unwrap();
        }
    });
    let mut links = links.into_iter();
    let (zero, one, two) = (links.next(), links.next().unwrap(), links.next());
    drop(zero);
    assert_eq!(one.poll_abort_of(3, 0, 0), None, "it said goodbye");
    drop(two);
    let abort = one.poll_abort_of(3, 0, 0).unwrap();
    assert_eq!(abort.reason, "rank 2 was lost: it ended without goodbye");
}

use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Coordinator, CoordinatorConfig};
use paceline_rendezvous::message::{Progress, ToCoordinator, ToRank, VALUE_BYTES_MAX};
use paceline_rendezvous::{Abort, OperationReport, OperationState};
use proptest::prelude::*;

fn config(world_size: u32) -> CoordinatorConfig {
    CoordinatorConfig {
        world_size,
        epoch: 5,
        join_timeout: None,
        lost_grace: Duration::ZERO,
        stall_report: None,
    }
}

fn with_all_joined(config: CoordinatorConfig, now: Instant) -> Coordinator {
    let mut coordinator = Coordinator::new(config);
    for rank in 0..config.world_size {
        assert_eq!(coordinator.joined(rank, now), []);
    }
    assert!(coordinator.all_joined());
    coordinator
}

fn set(request: u64, key: &str, value: &[u8]) -> ToCoordinator {
    ToCoordinator::Set { request, key: key.to_owned(), value: value.to_vec() }
}

fn get(request: u64, key: &str) -> ToCoordinator {
    ToCoordinator::Get { request, key: key.to_owned() }
}

fn report(op_seq: u64, kind: &str, state: OperationState, since_ms: u64) -> ToCoordinator {
    report_of((0, 0), op_seq, kind, state, since_ms)
}

/// The report of an operation in a communicator of a context.
fn report_of(
    (context, communicator): (u32, u32),
    op_seq: u64,
    kind: &str,
    state: OperationState,
    since_ms: u64,
) -> ToCoordinator {
    let (kind, signature) = (kind.to_owned(), format!("that of {kind}"));
    ToCoordinator::Report {
        epoch: 5,
        report: OperationReport {
            context,
            communicator,
            members: None,
            op_seq,
            kind,
            name: None,
            details: "16 f32".to_owned(),
            signature,
            bytes: 64,
            state,
            since_ms,
            idle_ms: since_ms,
        },
    }
}

fn heartbeat(progress: &[(u32, u32, u64)]) -> ToCoordinator {
    let progress = progress.iter().map(|&(context, communicator, entered)| Progress {
        context,
        communicator,
        entered,
    });
    ToCoordinator::Heartbeat { epoch: 5, progress: progress.collect() }
}

fn waiting(on: &[u32]) -> OperationState {
    OperationState::Waiting { on: on.to_vec() }
}

fn timed_out(on: &[u32]) -> OperationState {
    OperationState::TimedOut { on: on.to_vec() }
}

/// The abort that all of `messages` carry.
fn abort_in(messages: &[(u32, ToRank)], to: &[u32]) -> Abort {
    assert_eq!(messages.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), to);
    let mut aborts: Vec<_> = messages
        .iter()
        .map(|(_, message)| match message {
            ToRank::Abort { abort } => abort.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    aborts.dedup();
    assert_eq!(aborts.len(), 1);
    aborts.remove(0)
}

#[test]
fn a_get_waits_for_its_set_and_is_answered_once() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(3), now);
    assert_eq!(coordinator.handle(1, get(10, "a"), now), []);
    assert_eq!(coordinator.handle(2, get(20, "a"), now), []);
    assert_eq!(coordinator.handle(2, get(21, "b"), now), []);
    assert_eq!(coordinator.handle(2, ToCoordinator::Cancel { request: 20 }, now), []);
    let value = b"v".to_vec();
    assert_eq!(
        coordinator.handle(0, set(1, "a", b"v"), now),
        [
            (0, ToRank::Stored { request: 1 }),
            (1, ToRank::Value { request: 10, value: value.clone() }),
        ]
    );
    assert_eq!(coordinator.handle(0, set(2, "a", b"w"), now), [(0, ToRank::Stored { request: 2 })]);
    assert_eq!(
        coordinator.handle(1, get(11, "a"), now),
        [(1, ToRank::Value { request: 11, value: b"w".to_vec() })]
    );
}

#[test]
fn memory_is_bounded() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(2), now);
    let value = vec![0; VALUE_BYTES_MAX];
    let mut stored = 0;
    let reason = loop {
        let key = format!("key {stored}");
        match coordinator.handle(0, set(stored, &key, &value), now).as_slice() {
            [(0, ToRank::Stored { .. })] => stored += 1,
            [(0, ToRank::Refused { reason, .. })] => break reason.clone(),
            other => panic!("{other:?}"),
        }
        assert!(stored < 10_000, "the store has no limit");
    };
    assert!(reason.contains("full"), "{reason}");
    // Replacing a value costs nothing, replacing it by a shorter one makes room.
    let replaced = coordinator.handle(0, set(1, "key 0", &value), now);
    assert_eq!(replaced, [(0, ToRank::Stored { request: 1 })]);
    coordinator.handle(0, set(2, "key 0", b""), now);
    let stored_again = coordinator.handle(0, set(3, "x", &value[..1000]), now);
    assert_eq!(stored_again, [(0, ToRank::Stored { request: 3 })]);

    let refused = (0..2000)
        .find_map(|request| coordinator.handle(1, get(request, "absent"), now).pop())
        .expect("waiting requests have no limit");
    assert!(matches!(refused, (1, ToRank::Refused { .. })), "{refused:?}");
    for bad in [set(1, "", b""), set(1, &"k".repeat(513), b""), set(1, "k", &vec![0; 1 << 19])] {
        let answer = coordinator.handle(0, bad, now);
        assert!(matches!(answer.as_slice(), [(0, ToRank::Refused { .. })]), "{answer:?}");
    }
}

#[test]
fn the_first_abort_is_the_only_one_and_reaches_late_comers() {
    let now = Instant::now();
    let mut coordinator = Coordinator::new(config(4));
    for rank in 0..3 {
        coordinator.joined(rank, now);
    }
    assert_eq!(coordinator.handle(2, ToCoordinator::Goodbye, now), [(2, ToRank::Farewell)]);
    let abort = abort_in(&coordinator.disconnected(0, "it vanished", now), &[1]);
    assert_eq!(
        abort,
        Abort {
            epoch: 5,
            culprit: Some(0),
            timed_out: false,
            reason: "rank 0 was lost: it vanished".to_owned()
        }
    );
    assert_eq!(coordinator.rank_lost(1, "died"), []);
    assert_eq!(coordinator.abort(None, "more"), []);
    assert_eq!(coordinator.aborted(), Some(&abort));
    assert_eq!(abort_in(&coordinator.joined(3, now), &[3]), abort);
    assert!(!coordinator.all_gone());
    coordinator.handle(3, ToCoordinator::Goodbye, now);
    assert!(coordinator.all_gone());
}

#[test]
fn nobody_is_lost_after_goodbye() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(2), now);
    coordinator.handle(0, ToCoordinator::Goodbye, now);
    assert_eq!(coordinator.disconnected(0, "closed", now), []);
    assert_eq!(coordinator.rank_lost(0, "exited with code 1"), []);
    assert_eq!(coordinator.handle(0, get(1, "a"), now), [], "who has left is not served");
    assert_eq!(coordinator.aborted(), None);
    assert!(!coordinator.all_gone());
    coordinator.handle(1, ToCoordinator::Goodbye, now);
    assert!(coordinator.all_gone());
}

#[test]
fn who_was_taken_for_dead_may_say_goodbye() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(2), now);
    assert_eq!(abort_in(&coordinator.rank_lost(0, "died"), &[1]).culprit, Some(0));
    assert_eq!(coordinator.handle(0, get(1, "a"), now), []);
    assert_eq!(coordinator.handle(0, ToCoordinator::Goodbye, now), [(0, ToRank::Farewell)]);
    assert!(!coordinator.is_present(0) && !coordinator.all_gone());
}

#[test]
fn the_grace_waits_for_the_supervisor() {
    let now = Instant::now();
    let grace = Duration::from_millis(200);
    let graceful = CoordinatorConfig { lost_grace: grace, ..config(3) };

    let mut coordinator = with_all_joined(graceful, now);
    assert_eq!(coordinator.disconnected(1, "closed", now), []);
    assert_eq!(coordinator.next_deadline(), Some(now + grace));
    assert_eq!(coordinator.tick(now + grace / 2), []);
    let abort = abort_in(&coordinator.tick(now + grace), &[0, 2]);
    assert_eq!((abort.culprit, abort.reason.as_str()), (Some(1), "rank 1 was lost: closed"));
    assert_eq!(coordinator.next_deadline(), None);

    // A neighbour's complaint and a consequent death do not hide the first loss.
    let mut coordinator = with_all_joined(graceful, now);
    let failed = OperationState::Failed { reason: "broken pipe".to_owned(), culprit: Some(1) };
    assert_eq!(coordinator.handle(2, report(7, "all_reduce", failed, 0), now), []);
    assert_eq!(coordinator.disconnected(1, "closed", now), []);
    assert_eq!(coordinator.rank_lost(2, "exited with code 1"), []);
    let abort = abort_in(&coordinator.rank_lost(1, "was killed by signal 9"), &[0]);
    assert_eq!((abort.culprit, abort.reason.as_str()), (Some(1), "rank 1 was killed by signal 9"));
}

#[test]
fn failures_are_passed_on_with_their_culprit() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(2), now);
    let failed = OperationState::Failed { reason: "sizes differ".to_owned(), culprit: None };
    let abort = abort_in(&coordinator.handle(1, report(7, "all_reduce", failed, 0), now), &[0, 1]);
    assert_eq!(abort.reason, "all_reduce #7 failed on rank 1: sizes differ");
}

/// What the coordinator finds when rank 0 gives up `all_reduce #7` after 10 s, waiting for rank 1.
/// All ranks have joined then, and said something 400 ms before; `prepare` gets that time.
fn explained(
    world_size: u32,
    prepare: impl FnOnce(&mut Coordinator, Instant),
) -> (Option<u32>, String) {
    let start = Instant::now();
    let now = start + Duration::from_secs(10);
    let before = now - Duration::from_millis(400);
    let mut coordinator = with_all_joined(config(world_size), start);
    for rank in 0..world_size {
        coordinator.handle(rank, heartbeat(&[]), before);
    }
    prepare(&mut coordinator, before);
    coordinator.handle(0, report(7, "all_reduce", timed_out(&[1]), 10_000), now);
    let abort = coordinator.aborted().unwrap().clone();
    assert!(abort.timed_out, "{abort:?}");
    (abort.culprit, abort.reason)
}

fn waits(op_seq: u64, kind: &str) -> ToCoordinator {
    report(op_seq, kind, waiting(&[1]), 4000)
}

#[test]
fn who_never_entered_is_named_with_what_it_did_last() {
    let (culprit, reason) = explained(3, |coordinator, before| {
        coordinator.handle(2, waits(7, "all_reduce"), before);
    });
    assert_eq!(culprit, Some(1));
    let expected = "all_reduce #7: rank 1 never entered but is alive (heartbeat 0.4 s ago); ranks 0, 2 \
                    wait since 10.0 s";
    assert_eq!(reason, expected);

    let (_, reason) = explained(2, |coordinator, before| {
        let introduction = ToCoordinator::Introduction { host: "node2".to_owned(), pid: 4711 };
        coordinator.handle(1, introduction, before);
        coordinator.handle(1, heartbeat(&[(0, 0, 7)]), before);
    });
    let expected = "all_reduce #7: rank 1 on node2 (pid 4711) never entered but is alive (heartbeat \
                    0.4 s ago, last entered #6); rank 0 waits since 10.0 s";
    assert_eq!(reason, expected);

    let (_, reason) = explained(2, |coordinator, before| {
        coordinator.handle(1, waits(6, "broadcast"), before);
    });
    assert!(reason.contains("(heartbeat 0.4 s ago, last entered broadcast #6)"), "{reason}");

    // Of two, the one that rank 0 waits for; and the one that is further behind before that.
    assert_eq!(explained(4, |_, _| {}).0, Some(1));
    let behind = explained(4, |coordinator, before| {
        coordinator.handle(1, heartbeat(&[(0, 0, 6)]), before);
        coordinator.handle(2, heartbeat(&[(0, 0, 7)]), before);
        coordinator.handle(3, heartbeat(&[(0, 0, 5)]), before);
    });
    assert_eq!(behind.0, Some(3));
}

#[test]
fn who_is_silent_is_named_before_who_is_late() {
    let silent = |entered: u64| {
        let start = Instant::now();
        let now = start + Duration::from_secs(12);
        let mut coordinator = with_all_joined(config(4), start);
        coordinator.handle(2, heartbeat(&[(0, 0, entered)]), start);
        for rank in [0, 1, 3] {
            coordinator.handle(rank, heartbeat(&[]), now);
        }
        coordinator.handle(0, report(7, "all_reduce", timed_out(&[1]), 10_000), now);
        coordinator.aborted().unwrap().clone()
    };
    // Whether or not it had entered before.
    for abort in [silent(3), silent(8)] {
        assert_eq!(abort.culprit, Some(2));
        let expected = "all_reduce #7: rank 2 is stopped or unreachable: no heartbeat for 12.0 s; rank \
                        0 waits since 10.0 s";
        assert_eq!(abort.reason, expected);
    }
}

#[test]
fn who_said_nothing_during_a_short_wait_is_named_if_nobody_is_surer_to_blame() {
    // Rank 2 has entered, and is silent for 2.2 s when rank 0 gives up after `waited`.
    let quiet = |waited: u64, has_rank_1_entered: bool| {
        let start = Instant::now();
        let now = start + Duration::from_millis(2200);
        let mut coordinator = with_all_joined(config(3), start);
        coordinator.handle(2, heartbeat(&[(0, 0, 8)]), start);
        coordinator.handle(1, heartbeat(&[(0, 0, 7 + u64::from(has_rank_1_entered))]), now);
        coordinator.handle(0, report(7, "all_reduce", timed_out(&[1]), waited), now);
        coordinator.aborted().unwrap().clone()
    };
    let abort = quiet(2000, true);
    assert_eq!(abort.culprit, Some(2));
    let expected = "all_reduce #7: rank 2 is stopped, unreachable or slow: no heartbeat for 2.2 s; rank 0 \
                    waits since 2.0 s";
    assert_eq!(abort.reason, expected);
    // Not if others have waited for longer than that, nor if one has not even come.
    assert_eq!(quiet(2500, true).culprit, None);
    assert_eq!(quiet(2000, false).culprit, Some(1));
}

#[test]
fn nobody_is_silent_while_the_coordinator_stands_still() {
    let start = Instant::now();
    let now = start + Duration::from_secs(30);
    let mut coordinator = with_all_joined(config(2), start);
    coordinator.stood_still(Duration::from_secs(29));
    coordinator.handle(0, report(7, "all_reduce", timed_out(&[1]), 10_000), now);
    let reason = &coordinator.aborted().unwrap().reason;
    assert!(reason.contains("rank 1 never entered but is alive (heartbeat 1.0 s ago)"), "{reason}");
}

#[test]
fn numbers_are_compared_within_one_communicator() {
    let (culprit, reason) = explained(3, |coordinator, before| {
        // Far ahead elsewhere, in other operations.
        let elsewhere = [((0, 1), 90), ((1, 0), 90), ((0, 1), 7)];
        for (place, op_seq) in elsewhere {
            let report = report_of(place, op_seq, "broadcast", waiting(&[0]), 1000);
            coordinator.handle(1, report, before);
        }
        coordinator.handle(1, heartbeat(&[(0, 0, 5), (0, 2, 100)]), before);
        coordinator.handle(2, waits(7, "all_reduce"), before);
    });
    assert_eq!(culprit, Some(1));
    assert!(reason.contains("rank 1 never entered but is alive"), "{reason}");
    let instead =
        "last entered #4, waits in broadcast #90 of communicator 0 of context 1); ranks 0, 2";
    assert!(reason.contains(instead), "{reason}");

    let now = Instant::now();
    let names = [(0, "barrier #3"), (2, "barrier #3 of communicator 2")];
    for (communicator, name) in names {
        let mut coordinator = with_all_joined(config(2), now);
        let report = report_of((0, communicator), 3, "barrier", timed_out(&[1]), 1000);
        coordinator.handle(0, report, now);
        let reason = &coordinator.aborted().unwrap().reason;
        assert!(reason.starts_with(&format!("{name}: rank 1")), "{reason}");
    }
}

#[test]
fn other_stalls_are_explained() {
    let left = |coordinator: &mut Coordinator, before| {
        coordinator.handle(2, ToCoordinator::Goodbye, before);
    };
    let expected = "all_reduce #7: rank 2 has left the job; rank 0 waits since 10.0 s";
    assert_eq!(explained(3, left), (Some(2), expected.to_owned()));

    // Who left after the operation has done its part.
    let (culprit, _) = explained(3, |coordinator, before| {
        coordinator.handle(2, heartbeat(&[(0, 0, 8)]), before);
        coordinator.handle(2, ToCoordinator::Goodbye, before);
    });
    assert_eq!(culprit, Some(1));

    let different = |coordinator: &mut Coordinator, before| {
        coordinator.handle(1, waits(7, "broadcast"), before);
    };
    let expected = "all_reduce #7 (16 f32) on rank 0 meets broadcast #7 (16 f32) on rank 1; ranks 0-1 \
                    wait since 10.0 s";
    assert_eq!(explained(2, different), (Some(1), expected.to_owned()));

    let the_same = |coordinator: &mut Coordinator, before| {
        coordinator.handle(1, waits(7, "all_reduce"), before);
    };
    let expected = "all_reduce #7: nobody makes progress (rank 0 waits in all_reduce #7 for rank 1, \
                    rank 1 waits in all_reduce #7 for rank 1); ranks 0-1 wait since 10.0 s";
    assert_eq!(explained(2, the_same), (None, expected.to_owned()));

    // Who waited in it once, and has gone on since.
    let (_, reason) = explained(2, |coordinator, before| {
        coordinator.handle(1, waits(7, "all_reduce"), before);
        coordinator.handle(1, heartbeat(&[(0, 0, 9)]), before);
    });
    let expected = "all_reduce #7: nobody makes progress (rank 0 waits in all_reduce #7 for rank 1); \
                    rank 0 waits since 10.0 s";
    assert_eq!(reason, expected);

    let now = Instant::now();
    let mut coordinator = Coordinator::new(config(3));
    coordinator.joined(0, now);
    coordinator.joined(1, now);
    coordinator.handle(0, report(0, "barrier", timed_out(&[1, 2]), 1000), now);
    let abort = coordinator.aborted().unwrap();
    assert_eq!(abort.reason, "barrier #0: rank 2 never joined the job; rank 0 waits since 1.0 s");
}

#[test]
fn joining_has_a_deadline_once_somebody_has_joined() {
    let now = Instant::now();
    let timeout = Duration::from_secs(30);
    let mut coordinator =
        Coordinator::new(CoordinatorConfig { join_timeout: Some(timeout), ..config(9) });
    assert_eq!(coordinator.next_deadline(), None);
    for rank in [3, 1, 8] {
        coordinator.joined(rank, now);
    }
    assert_eq!(coordinator.next_deadline(), Some(now + timeout));
    assert_eq!(coordinator.tick(now + timeout / 2), []);
    let abort = abort_in(&coordinator.tick(now + timeout), &[1, 3, 8]);
    assert_eq!((abort.culprit, abort.timed_out), (Some(0), true));
    assert_eq!(abort.reason, "ranks 0, 2, 4-7 did not join within 30.0 s");
}

#[derive(Clone, Debug)]
enum Step {
    Join(u32),
    Say(u32, ToCoordinator),
    Disconnect(u32),
    Lost(u32),
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rank = || 0..4_u32;
    let key = "[ab]";
    let message = prop_oneof![
        (0..9_u64, key).prop_map(|(request, key)| set(request, &key, b"v")),
        (0..9_u64, key).prop_map(|(request, key)| get(request, &key)),
        (0..9_u64).prop_map(|request| ToCoordinator::Cancel { request }),
        (0..3_u64, rank()).prop_map(|(op, on)| report(op, "barrier", waiting(&[on]), 1)),
        (0..3_u64, rank()).prop_map(|(op, on)| report(op, "barrier", timed_out(&[on]), 1)),
        (0..3_u32, any::<u64>()).prop_map(|(of, entered)| heartbeat(&[(0, of, entered)])),
        Just(ToCoordinator::Introduction { host: "node1".to_owned(), pid: 1 }),
        any::<u64>().prop_map(|op| report(op, "barrier", timed_out(&[]), 1)),
        Just(ToCoordinator::Goodbye),
    ];
    let step = prop_oneof![
        3 => rank().prop_map(Step::Join),
        6 => (rank(), message).prop_map(|(rank, message)| Step::Say(rank, message)),
        1 => rank().prop_map(Step::Disconnect),
        1 => rank().prop_map(Step::Lost),
        1 => Just(Step::Tick),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// C-1 and the addressing of messages: whatever happens, messages go only to ranks that are
    /// there, farewells also to those that were taken for dead, and each rank gets at most one abort, always the same.
    #[test]
    fn whatever_happens(steps in steps(), grace in 0..3_u64) {
        let mut now = Instant::now();
        let lost_grace = Duration::from_secs(grace);
        let mut coordinator = Coordinator::new(CoordinatorConfig { lost_grace, ..config(4) });
        let mut aborts = Vec::new();
        for step in steps {
            now += Duration::from_secs(1);
            let was_present: Vec<_> = (0..4).map(|rank| coordinator.is_present(rank)).collect();
            let (messages, newcomer) = match step {
                Step::Join(rank) if coordinator.admit(rank).is_err() => continue,
                Step::Join(rank) => (coordinator.joined(rank, now), Some(rank)),
                Step::Say(rank, message) => (coordinator.handle(rank, message, now), None),
                Step::Disconnect(rank) => (coordinator.disconnected(rank, "gone", now), None),
                Step::Lost(rank) => (coordinator.rank_lost(rank, "died"), None),
                Step::Tick => (coordinator.tick(now), None),
            };
            for (rank, message) in messages {
                let is_farewell = matches!(message, ToRank::Farewell);
                prop_assert!(was_present[rank as usize] || newcomer == Some(rank) || is_farewell);
                if let ToRank::Abort { abort } = message {
                    prop_assert_eq!(Some(&abort), coordinator.aborted());
                    prop_assert!(!aborts.contains(&rank), "two aborts for rank {}", rank);
                    aborts.push(rank);
                }
            }
            if coordinator.aborted().is_some() {
                for rank in 0..4 {
                    prop_assert!(!coordinator.is_present(rank) || aborts.contains(&rank));
                }
            }
        }
    }
}

#[test]
fn who_waits_for_a_rank_that_has_left_is_told_so() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(3), now);
    assert_eq!(coordinator.handle(2, ToCoordinator::Goodbye, now), [(2, ToRank::Farewell)]);
    assert_eq!(coordinator.handle(0, report(4, "barrier", waiting(&[1]), 1000), now), []);
    let messages = coordinator.handle(1, report(4, "barrier", waiting(&[2]), 1000), now);
    let abort = abort_in(&messages, &[0, 1]);
    assert_eq!(abort.culprit, Some(2));
    assert_eq!(abort.reason, "barrier #4: rank 1 waits for rank 2, which has left");
}

#[test]
fn ranks_that_wait_in_different_operations_do_not_wait_for_the_deadline() {
    let now = Instant::now();
    let mut coordinator = with_all_joined(config(3), now);
    let mut wait = |rank, op_seq, kind| {
        coordinator.handle(rank, report(op_seq, kind, waiting(&[0]), 1000), now)
    };
    assert_eq!(wait(0, 3, "all_reduce"), []);
    // Further on, or behind, is no contradiction.
    assert_eq!(wait(1, 4, "barrier"), []);
    let abort = abort_in(&wait(2, 3, "broadcast"), &[0, 1, 2]);
    assert_eq!((abort.culprit, abort.timed_out), (Some(0), false));
    let expected = "broadcast #3 (16 f32) on rank 2 meets all_reduce #3 (16 f32) on rank 0";
    assert_eq!(abort.reason, expected);
}

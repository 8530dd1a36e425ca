//! A word on operations that last long, while they go on.

use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Coordinator, CoordinatorConfig};
use paceline_rendezvous::message::{MESSAGE_BIT, ToCoordinator};
use paceline_rendezvous::{OperationReport, OperationState};

fn with_ranks(world_size: u32, stall_report: Option<Duration>, now: Instant) -> Coordinator {
    let (join_timeout, lost_grace) = (None, Duration::ZERO);
    let config = CoordinatorConfig { world_size, epoch: 0, join_timeout, lost_grace, stall_report };
    let mut coordinator = Coordinator::new(config);
    (0..world_size).for_each(|rank| assert_eq!(coordinator.joined(rank, now), []));
    coordinator
}

fn waits(communicator: u32, op_seq: u64, on: &[u32], since_ms: u64) -> ToCoordinator {
    moves(communicator, op_seq, on, since_ms, since_ms)
}

/// As said by a rank for which something last moved a while ago.
fn moves(communicator: u32, op_seq: u64, on: &[u32], since_ms: u64, idle_ms: u64) -> ToCoordinator {
    ToCoordinator::Report {
        epoch: 0,
        report: OperationReport {
            context: 0,
            communicator,
            members: None,
            op_seq,
            kind: "all_reduce".to_owned(),
            name: None,
            details: "8 f32, sum".to_owned(),
            signature: "the same".to_owned(),
            bytes: 32,
            state: OperationState::Waiting { on: on.to_vec() },
            since_ms,
            idle_ms,
        },
    }
}

#[test]
fn a_stall_is_told_once_with_what_each_rank_does() {
    let now = Instant::now();
    let mut coordinator = with_ranks(4, Some(Duration::from_secs(10)), now);
    let introduction = ToCoordinator::Introduction { host: "node2".to_owned(), pid: 4711 };
    coordinator.handle(3, introduction, now);
    for since_ms in [1000, 9999] {
        (0..2).for_each(|rank| drop(coordinator.handle(rank, waits(0, 5, &[3], since_ms), now)));
        assert_eq!(coordinator.take_stalls(), [""; 0]);
    }
    coordinator.handle(3, waits(2, 7, &[2], 500), now);
    assert_eq!(coordinator.handle(1, waits(0, 5, &[3], 10_000), now), []);
    let expected = "all_reduce #5 (8 f32, sum): rank 2 never entered but is alive (heartbeat 0.0 s \
                    ago); rank 3 on node2 (pid 4711) never entered but is alive (heartbeat 0.0 s ago, \
                    waits in all_reduce #7 of communicator 2); ranks 0-1 wait since 10.0 s";
    assert_eq!(coordinator.take_stalls(), [expected]);
    // Once for all ranks, until the next operation.
    for rank in 0..3 {
        coordinator.handle(rank, waits(0, 5, &[3], 20_000), now);
    }
    assert_eq!(coordinator.take_stalls(), [""; 0]);
    coordinator.handle(0, waits(0, 6, &[3], 10_000), now);
    assert_eq!(coordinator.take_stalls().len(), 1);
    assert_eq!(coordinator.aborted(), None);
}

#[test]
fn ranks_that_all_wait_are_told_of_with_whom_they_wait_for() {
    let now = Instant::now();
    let mut coordinator = with_ranks(2, Some(Duration::from_secs(10)), now);
    coordinator.handle(0, waits(0, 5, &[1], 1000), now);
    coordinator.handle(1, waits(0, 5, &[0], 10_000), now);
    let expected = "all_reduce #5 (8 f32, sum): nobody makes progress (rank 0 waits in all_reduce #5 \
                    for rank 1, rank 1 waits in all_reduce #5 for rank 0); ranks 0-1 wait since 10.0 s";
    assert_eq!(coordinator.take_stalls(), [expected]);
}

#[test]
fn what_is_slow_is_no_stall_until_nothing_moves() {
    let now = Instant::now();
    let mut coordinator = with_ranks(2, Some(Duration::from_secs(10)), now);
    coordinator.handle(1, moves(0, 5, &[0], 1000, 1000), now);
    for since_ms in [10_000, 20_000] {
        coordinator.handle(0, moves(0, 5, &[1], since_ms, 1500), now);
        coordinator.handle(1, moves(0, 5, &[0], since_ms, since_ms), now);
    }
    assert_eq!(coordinator.take_stalls(), [""; 0]);
    coordinator.handle(0, moves(0, 5, &[1], 21_000, 2500), now);
    let told = coordinator.take_stalls();
    assert!(told.len() == 1 && told[0].contains("nobody makes progress"), "{told:?}");
    // The rank that is not there is to blame, whatever moves between the others.
    coordinator.handle(0, moves(1, 0, &[1], 10_000, 0), now);
    let told = coordinator.take_stalls();
    assert!(told.len() == 1 && told[0].contains("rank 1 never entered"), "{told:?}");
}

#[test]
fn a_long_message_is_no_stall_while_it_comes() {
    let now = Instant::now();
    let mut coordinator = with_ranks(2, Some(Duration::from_secs(10)), now);
    coordinator.handle(0, moves(0, MESSAGE_BIT, &[1], 11_000, 0), now);
    assert_eq!(coordinator.take_stalls(), [""; 0]);
    coordinator.handle(0, moves(0, MESSAGE_BIT, &[1], 14_000, 3000), now);
    assert_eq!(coordinator.take_stalls().len(), 1);
}

#[test]
fn an_operation_that_was_too_slow_is_said_to_be_slow() {
    let now = Instant::now();
    let mut coordinator = with_ranks(2, None, now);
    coordinator.handle(1, moves(0, 5, &[0], 60_000, 0), now);
    let ToCoordinator::Report { epoch, mut report } = moves(0, 5, &[1], 60_000, 100) else {
        panic!("a report")
    };
    report.state = OperationState::TimedOut { on: vec![1] };
    coordinator.handle(0, ToCoordinator::Report { epoch, report }, now);
    let reason = &coordinator.aborted().expect("the deadline has passed").reason;
    assert!(reason.contains("it is slow, but bytes move (rank 0 waits"), "{reason}");
}

#[test]
fn a_message_that_is_late_is_told_of_on_each_side() {
    let now = Instant::now();
    let mut coordinator = with_ranks(3, Some(Duration::from_secs(10)), now);
    for rank in [0, 1] {
        coordinator.handle(rank, waits(0, MESSAGE_BIT, &[2], 11_000), now);
    }
    let told = coordinator.take_stalls();
    assert_eq!(told.len(), 2);
    let expected = "all_reduce #0 with tag 0: rank 2 has not called the other side of it but is alive \
                    (heartbeat 0.0 s ago); rank 0 waits since 11.0 s";
    assert_eq!(told[0], expected);
}

#[test]
fn stall_reports_can_be_turned_off() {
    let now = Instant::now();
    let mut coordinator = with_ranks(2, None, now);
    coordinator.handle(0, waits(0, 5, &[1], 100_000), now);
    assert_eq!(coordinator.take_stalls(), [""; 0]);
}

//! What the coordinator makes of failures that concern some ranks only.

use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Coordinator, CoordinatorConfig};
use paceline_rendezvous::message::{
    CommunicatorName, MESSAGE_BIT, ToCoordinator, ToRank, group_communicator, message_place,
};
use paceline_rendezvous::{Abort, OperationReport, OperationState};

const GRACE: Duration = Duration::from_millis(100);

fn coordinator(now: Instant) -> Coordinator {
    let (world_size, join_timeout, lost_grace) = (5, None, GRACE);
    let config =
        CoordinatorConfig { world_size, epoch: 0, join_timeout, lost_grace, stall_report: None };
    let mut coordinator = Coordinator::new(config);
    (0..world_size).for_each(|rank| assert_eq!(coordinator.joined(rank, now), []));
    coordinator
}

/// What a member of the group of ranks 3 and 1, the first one that rank 3 leads, says.
fn report(op_seq: u64, kind: &str, state: OperationState) -> ToCoordinator {
    ToCoordinator::Report {
        epoch: 0,
        report: OperationReport {
            context: 0,
            communicator: group_communicator(3, 0).unwrap(),
            members: Some(vec![3, 1]),
            op_seq,
            kind: kind.to_owned(),
            name: None,
            details: String::new(),
            signature: kind.to_owned(),
            bytes: 64,
            state,
            since_ms: 1000,
            idle_ms: 1000,
        },
    }
}

fn failed(culprit: u32) -> OperationState {
    OperationState::Failed { reason: "it broke".to_owned(), culprit: Some(culprit) }
}

/// The abort that ranks 3 and 1 are told, and nobody else.
fn told(messages: &[(u32, ToRank)]) -> Abort {
    let mut aborts = messages.iter().map(|(rank, message)| match message {
        ToRank::GroupAbort { context: 0, communicator, abort } => {
            assert_eq!(*communicator, group_communicator(3, 0).unwrap());
            (*rank, abort.clone())
        }
        other => panic!("{other:?}"),
    });
    let (first, abort) = aborts.next().unwrap();
    assert_eq!((first, aborts.next(), aborts.next()), (3, Some((1, abort.clone())), None));
    abort
}

#[test]
fn a_failed_group_ends_alone_and_once() {
    let now = Instant::now();
    let mut coordinator = coordinator(now);
    let abort = told(&coordinator.handle(1, report(4, "barrier", failed(1)), now));
    let reason = "barrier #4 of group 0 of rank 3 failed on rank 1: it broke";
    assert_eq!((abort.culprit, abort.reason.as_str()), (Some(1), reason));
    assert_eq!(coordinator.handle(3, report(4, "barrier", failed(3)), now), []);
    assert_eq!((coordinator.aborted(), coordinator.next_deadline()), (None, None));
}

#[test]
fn who_blames_another_member_waits_for_who_knows_better() {
    let now = Instant::now();
    let mut ours = coordinator(now);
    assert_eq!(ours.handle(1, report(4, "barrier", failed(3)), now), []);
    assert_eq!(ours.next_deadline(), Some(now + GRACE));
    let abort = told(&ours.tick(now + GRACE));
    assert_eq!((abort.culprit, ours.aborted(), ours.next_deadline()), (Some(3), None, None));
    assert_eq!(ours.tick(now + 2 * GRACE), []);

    // The death of a member ends the epoch, for all.
    let mut ours = coordinator(now);
    assert_eq!(ours.handle(1, report(4, "barrier", failed(3)), now), []);
    assert_eq!(ours.rank_lost(3, "was killed").len(), 4);
    assert_eq!(ours.aborted().unwrap().reason, "rank 3 was killed");
}

#[test]
fn a_stalled_group_is_the_fault_of_a_member() {
    let now = Instant::now();
    let mut coordinator = coordinator(now);
    let timed_out = OperationState::TimedOut { on: vec![3] };
    let abort = told(&coordinator.handle(1, report(4, "barrier", timed_out), now));
    assert_eq!(abort.culprit, Some(3));
    let named = "barrier #4 of group 0 of rank 3: rank 3 never entered but is alive";
    assert!(abort.reason.starts_with(named), "{abort}");
}

#[test]
fn a_message_that_does_not_come_is_explained_by_what_the_other_side_does() {
    let now = Instant::now();
    let mut coordinator = coordinator(now);
    let waiting = OperationState::Waiting { on: vec![1] };
    assert_eq!(coordinator.handle(3, report(4, "barrier", waiting), now), []);
    let op_seq = MESSAGE_BIT | 7 << 31 | 2;
    let timed_out = OperationState::TimedOut { on: vec![3] };
    let abort = told(&coordinator.handle(1, report(op_seq, "recv", timed_out), now));
    assert_eq!(abort.culprit, Some(3));
    let named = "recv #2 with tag 7 of group 0 of rank 3: rank 3 has not called the other side of it \
                 but is alive (heartbeat 0.0 s ago, last entered barrier #4 of group 0 of rank 3, \
                 waits in barrier #4 of group 0 of rank 3)";
    assert_eq!(abort.reason, named);
    // A message says nothing about how many operations a rank has entered.
    let timed_out = OperationState::TimedOut { on: vec![1] };
    assert_eq!(coordinator.handle(3, report(4, "barrier", timed_out), now), []);
}

#[test]
fn a_rank_in_a_message_has_not_entered_the_operation() {
    let now = Instant::now();
    let mut coordinator = coordinator(now);
    let op_seq = MESSAGE_BIT | 9 << 31;
    let waiting = OperationState::Waiting { on: vec![3] };
    assert_eq!(coordinator.handle(1, report(op_seq, "recv", waiting), now), []);
    let timed_out = OperationState::TimedOut { on: vec![1] };
    let abort = told(&coordinator.handle(3, report(0, "barrier", timed_out), now));
    let named = "barrier #0 of group 0 of rank 3: rank 1 never entered but is alive (heartbeat 0.0 s \
                 ago, waits in recv #0 with tag 9 of group 0 of rank 3); rank 3 waits since 1.0 s";
    assert_eq!((abort.culprit, abort.reason.as_str()), (Some(1), named));
}

#[test]
fn numbers_of_groups_and_messages_are_told_apart() {
    let name = |number| CommunicatorName(number).to_string();
    assert_eq!(name(2), "communicator 2");
    assert_eq!(name(group_communicator(0, 2).unwrap()), "group 2 of rank 0");
    assert_eq!(name(group_communicator(9, 0).unwrap()), "group 0 of rank 9");
    assert_eq!(group_communicator(0, u32::MAX), None);
    assert_eq!(group_communicator(u32::MAX, 0), None);
    // The largest number is taken.
    let last = (0..1 << 14).filter_map(|rank| group_communicator(rank, (1 << 18) - 1)).max();
    assert!(last.unwrap() < u32::MAX);
    assert_eq!(message_place(MESSAGE_BIT | u64::from(u32::MAX) << 31 | 5), Some((u32::MAX, 5)));
    assert_eq!(message_place(5), None);
}

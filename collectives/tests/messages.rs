//! Messages between two ranks.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::thread;
use std::time::Duration;

use paceline_collectives::{
    Batch, CollectiveError, Communicator, ContextOptions, ReduceOp, TransportKind,
};
use support::{over, world};

const KINDS: [TransportKind; 2] = [TransportKind::Tcp, TransportKind::Shm];

/// Shorter and longer than what may be sent early, and nothing.
const COUNTS: [usize; 5] = [0, 1, 1000, 16 << 10, 300_000];

#[expect(clippy::cast_possible_truncation, reason = "any value will do")]
fn pattern(from: u32, to: u32, tag: u32, count: usize) -> Vec<u32> {
    let seed = from.wrapping_mul(31).wrapping_add(to).wrapping_mul(31).wrapping_add(tag);
    (0..count).map(|at| seed.wrapping_mul(0x9e37_79b9).wrapping_add(at as u32)).collect()
}

#[test]
fn messages_arrive_by_tag_and_in_order() {
    for kind in KINDS {
        world(2, &over(kind), |communicator| {
            for count in COUNTS {
                if communicator.rank() == 0 {
                    for tag in [7, u32::MAX] {
                        communicator.send(&pattern(0, 1, tag, count), 1, tag).unwrap();
                    }
                    communicator.send(&pattern(0, 1, 1, 3), 1, 7).unwrap();
                } else {
                    let mut data = vec![0; count];
                    // Short ones may be received in any order of tags.
                    let tags = if count > 16 << 10 { [7, u32::MAX] } else { [u32::MAX, 7] };
                    for tag in tags {
                        communicator.recv(&mut data, 0, tag).unwrap();
                        assert!(data == pattern(0, 1, tag, count), "{kind}, tag {tag}");
                    }
                    let mut data = [0; 3];
                    communicator.recv(&mut data, 0, 7).unwrap();
                    assert_eq!(data[..], pattern(0, 1, 1, 3));
                }
            }
            // Collectives and messages do not meet.
            communicator.all_reduce(&mut [1.0f32; 100], ReduceOp::Sum).unwrap();
        });
    }
}

/// Everybody exchanges with everybody, itself included, several messages of each tag.
fn everybody_with_everybody(communicator: &Communicator, count: usize, reverse: bool) {
    const TAGS: u32 = 3;
    let (rank, ranks) = (communicator.rank(), communicator.world_size());
    let pairs: Vec<(u32, u32)> = (0..ranks).flat_map(|p| (0..TAGS).map(move |t| (p, t))).collect();
    let outgoing: Vec<_> =
        pairs.iter().map(|(peer, tag)| pattern(rank, *peer, *tag, count)).collect();
    let mut incoming = vec![vec![0u32; count]; pairs.len()];
    let mut batch = Batch::new();
    let mut receives: Vec<_> = incoming.iter_mut().zip(&pairs).collect();
    if reverse {
        receives.reverse();
    }
    for (data, (peer, tag)) in receives {
        batch.recv(data, *peer, *tag);
    }
    for (data, (peer, tag)) in outgoing.iter().zip(&pairs) {
        batch.send(data, *peer, *tag);
    }
    communicator.exchange(batch).unwrap();
    for (data, (peer, tag)) in incoming.iter().zip(&pairs) {
        assert!(*data == pattern(*peer, rank, *tag, count), "from {peer}, tag {tag}");
    }
}

#[test]
fn batches_cannot_wait_for_each_other_in_a_circle() {
    for kind in KINDS {
        for world_size in [1, 2, 5, 8] {
            world(world_size, &over(kind), |communicator| {
                for count in COUNTS {
                    let reverse = communicator.rank() % 2 == 1;
                    everybody_with_everybody(communicator, count, reverse);
                }
            });
        }
    }
}

#[test]
fn long_batches_in_opposite_orders_complete() {
    // More than a word has bits, each longer than what may be sent early.
    let many = u32::try_from(Batch::MESSAGES_MAX).unwrap();
    for kind in KINDS {
        world(2, &over(kind), |communicator| {
            let (rank, peer) = (communicator.rank(), 1 - communicator.rank());
            let mut data = vec![vec![0u32; 20_000]; many as usize];
            let ours = pattern(rank, peer, 0, 20_000);
            let mut batch = Batch::new();
            for (tag, data) in (0..many).zip(&mut data) {
                let at = if rank == 0 { tag } else { many - 1 - tag };
                batch.send(&ours, peer, many - 1 - at).recv(data, peer, at);
            }
            assert_eq!(batch.len(), 2 * Batch::MESSAGES_MAX);
            communicator.exchange(batch).unwrap();
            let theirs = pattern(peer, rank, 0, 20_000);
            assert!(data.iter().all(|data| *data == theirs));
        });
    }
}

#[test]
fn groups_and_threads_exchange_messages_at_once() {
    for kind in KINDS {
        world(6, &over(kind), |communicator| {
            let rank = communicator.rank();
            let halves = communicator.split(Some(rank % 2), -i64::from(rank)).unwrap().unwrap();
            let thirds = communicator.split(Some(rank / 2), 0).unwrap().unwrap();
            thread::scope(|scope| {
                for group in [communicator, &halves, &thirds] {
                    let run = move || {
                        for count in COUNTS {
                            everybody_with_everybody(group, count, group.rank() == 0);
                            group.all_reduce(&mut [1u32; 10], ReduceOp::Sum).unwrap();
                        }
                    };
                    thread::Builder::new().spawn_scoped(scope, run).unwrap();
                }
            });
        });
    }
}

#[test]
fn a_message_of_another_length_or_type_names_both_sides() {
    for kind in KINDS {
        for early in [true, false] {
            let options = ContextOptions { timeout: Duration::from_secs(2), ..over(kind) };
            let errors = world(3, &options, |communicator| {
                // The group's ranks are not the world's.
                let group = communicator.group(&[2, 1]).unwrap();
                let Some(group) = group else { return String::new() };
                if group.rank() == 0 {
                    let count = if early { 10 } else { 100_000 };
                    let sent = group.send(&vec![1.0f32; count], 1, 3);
                    // Both are in it until the other has looked.
                    let met = group.barrier();
                    sent.and(met).unwrap_err().to_string()
                } else {
                    let error = group.recv(&mut [0i32; 11], 0, 3).unwrap_err();
                    assert!(matches!(error, CollectiveError::Mismatch { .. }), "{error:?}");
                    assert_eq!(error.culprit(), Some(2));
                    assert!(error.hint().unwrap().contains("both sides"));
                    error.to_string()
                }
            });
            let count = if early { 10 } else { 100_000 };
            let told = format!(
                "recv #0 with tag 3 of group 0 of rank 2 (11 i32, from rank 2) on rank 1, \
                 but rank 2 called send ({count} f32)"
            );
            assert_eq!(errors[1], told);
        }
    }
}

#[test]
fn a_short_message_that_nobody_receives_is_nobodys_error() {
    for kind in KINDS {
        world(2, &over(kind), |communicator| {
            if communicator.rank() == 0 {
                communicator.send(&[1u8; 10], 1, 9).unwrap();
            }
            communicator.barrier().unwrap();
            everybody_with_everybody(communicator, 10, false);
        });
    }
}

#[test]
fn ranks_that_send_first_and_receive_later_are_told_at_the_deadline() {
    for kind in KINDS {
        let options = ContextOptions { timeout: Duration::from_secs(1), ..over(kind) };
        world(2, &options, |communicator| {
            let peer = 1 - communicator.rank();
            let mut data = vec![0u8; 1 << 20];
            let error = match communicator.send(&data, peer, 0) {
                Err(error) => error,
                // The other has given up and is gone.
                Ok(()) => communicator.recv(&mut data, peer, 0).unwrap_err(),
            };
            let text = error.to_string();
            if matches!(error, CollectiveError::TimedOut { .. }) {
                let told = format!("send #0 with tag 0 (1048576 u8, to rank {peer}) timed out on");
                assert!(text.contains(&told), "{text}");
                // Either of them; the same on both.
                let told = ["rank 0", "rank 1"]
                    .map(|rank| format!("{rank} has not called the other side of it but is alive"));
                assert!(told.iter().any(|told| text.contains(told)), "{text}");
                assert!(error.hint().unwrap().contains("as a batch"), "{error:?}");
            } else {
                // The other was first, and blames this one.
                assert!(text.contains("has not called the other side of it"), "{text}");
            }
        });
    }
}

#[test]
fn messages_that_make_no_sense_are_refused_and_do_no_harm() {
    world(2, &ContextOptions::default(), |communicator| {
        let (rank, peer) = (communicator.rank(), 1 - communicator.rank());
        let data = [1u8; 4];
        let (mut short, mut other) = ([0u8; 3], [0i8; 4]);
        let mut unsent = Batch::new();
        unsent.recv(&mut short, rank, 0);
        let refused = |outcome: Result<(), CollectiveError>, told: &str| {
            let error = outcome.unwrap_err();
            assert!(matches!(error, CollectiveError::InvalidArgument { .. }), "{error:?}");
            assert!(error.to_string().contains(told), "{error}");
        };
        refused(communicator.exchange(unsent), "exchange: this rank does not send itself");
        refused(communicator.send(&data, 2, 0), "send: rank 2 is no rank of a world of 2");
        refused(communicator.recv(&mut short, 7, 0), "recv: rank 7 is no rank");
        refused(communicator.send(&data, rank, 5), "nobody receives what this rank sends itself");
        let mut batch = Batch::new();
        batch.send(&data, rank, 1).recv(&mut short, rank, 1);
        refused(communicator.exchange(batch), "sends itself 4 u8, but receives 3 u8");
        let mut batch = Batch::new();
        batch.recv(&mut other, rank, 1).send(&data, rank, 1);
        refused(communicator.exchange(batch), "sends itself 4 u8, but receives 4 i8");
        let mut batch = Batch::new();
        for _ in 0..=Batch::MESSAGES_MAX {
            batch.send(&data, peer, 0);
        }
        refused(communicator.exchange(batch), "257 sends, more than 256");
        communicator.exchange(Batch::new()).unwrap();
        everybody_with_everybody(communicator, 10, false);
    });
}

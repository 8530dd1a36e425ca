//! Groups of ranks: who is in them, and that they do not disturb each other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Barrier};
use std::thread;

use paceline_collectives::{
    CollectiveError, Communicator, Context, ContextOptions, Job, ReduceOp, SetupError,
    TransportKind,
};
use paceline_rendezvous::{InProcessStore, RankInfo, Rendezvous, RunId, Secret};
use support::{contexts, every_way, over, world};

/// Numbers from a seed, the same on all ranks.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Steele, Lea and Flood's mixer.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }
}

/// Colour and key of each rank of a world.
fn random_split(random: &mut Random, world_size: u32) -> Vec<(Option<u32>, i64)> {
    let mut one = || {
        let color = u32::try_from(random.below(4)).unwrap();
        let key = i64::try_from(random.below(3)).unwrap() - 1;
        ((color < 3).then_some(color), key)
    };
    (0..world_size).map(|_| one()).collect()
}

/// The world's ranks in the group of `rank`, in their order there.
fn expected(split: &[(Option<u32>, i64)], rank: u32) -> Vec<u32> {
    let color = split[rank as usize].0;
    let mut members: Vec<u32> =
        (0..).take(split.len()).filter(|other| split[*other as usize].0 == color).collect();
    members.sort_by_key(|other| (split[*other as usize].1, *other));
    members
}

fn members(group: &Communicator) -> Vec<u32> {
    (0..group.world_size()).map(|rank| group.world_rank(rank).unwrap()).collect()
}

/// Every kind of operation, checked against the ranks that are in the group.
fn check(group: &Communicator, count: usize, round: usize) {
    let ranks = members(group);
    let own = ranks[group.rank() as usize];
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let value = |rank: u32, at: usize| (rank as usize * 7 + at % 5 + round) as f32;
    let input: Vec<f32> = (0..count).map(|at| value(own, at)).collect();
    let sum = |at: usize| ranks.iter().map(|rank| value(*rank, at)).sum::<f32>();

    let mut data = input.clone();
    group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    assert!((0..count).all(|at| data[at] == sum(at)), "all_reduce in {ranks:?}");

    let root = u32::try_from(round).unwrap() % group.world_size();
    let mut data = input.clone();
    group.broadcast(&mut data, root).unwrap();
    let from = ranks[root as usize];
    assert!((0..count).all(|at| data[at] == value(from, at)), "broadcast in {ranks:?}");

    let mut data = vec![0.0; count * ranks.len()];
    group.all_gather(&input, &mut data).unwrap();
    for (chunk, rank) in data.chunks_exact(count).zip(&ranks) {
        assert!((0..count).all(|at| chunk[at] == value(*rank, at)), "all_gather in {ranks:?}");
    }

    let mut data = vec![0.0; count];
    if ranks.len() > 1 {
        group.shift(&input, &mut data, None).unwrap();
        let before = ranks[(group.rank() as usize + ranks.len() - 1) % ranks.len()];
        assert!((0..count).all(|at| data[at] == value(before, at)), "shift in {ranks:?}");
    }
    group.barrier().unwrap();
}

#[test]
fn splits_order_by_key_then_rank_and_carry_out_everything() {
    for options in every_way() {
        for world_size in 2..=8 {
            let seed = u64::from(world_size);
            world(world_size, &options, |communicator| {
                let mut random = Random(seed);
                for round in 0..3 {
                    let split = random_split(&mut random, world_size);
                    let (color, key) = split[communicator.rank() as usize];
                    let group = communicator.split(color, key).unwrap();
                    assert_eq!(group.is_some(), color.is_some());
                    let Some(group) = group else { continue };
                    let ranks = expected(&split, communicator.rank());
                    assert_eq!(members(&group), ranks);
                    assert_eq!(ranks[group.rank() as usize], communicator.rank());
                    assert_eq!(group.world_rank(group.world_size()), None);
                    check(&group, 1 + 5000 * round, round);
                }
                communicator.barrier().unwrap();
            });
        }
    }
}

#[test]
fn groups_of_groups_know_ranks_of_the_world() {
    for options in every_way() {
        world(6, &options, |communicator| {
            let rank = communicator.rank();
            // 5, 3, 1 and 4, 2, 0.
            let half = communicator.split(Some(rank % 2), -i64::from(rank)).unwrap().unwrap();
            let pair = half.group(&[2, 0]).unwrap();
            assert_eq!(pair.is_some(), half.rank() != 1);
            let Some(pair) = pair else { return };
            assert_eq!(members(&pair), [[0, 4], [1, 5]][rank as usize % 2]);
            check(&pair, 100, 0);
        });
    }
}

#[test]
fn overlapping_groups_work_at_once_from_several_threads() {
    const THREADS: usize = 3;
    for options in every_way() {
        for world_size in [4, 7] {
            world(world_size, &options, |communicator| {
                let mut random = Random(99);
                let mut groups = Vec::new();
                for thread in 0..THREADS {
                    let split = random_split(&mut random, world_size);
                    let (color, key) = split[communicator.rank() as usize];
                    let group = communicator.split(color, key).unwrap();
                    groups.extend(group.map(|group| (thread, group)));
                }
                thread::scope(|scope| {
                    for (thread, group) in &groups {
                        let run = move || {
                            for round in 0..6 {
                                let count = [1, 30_000, 300][(round + thread) % 3];
                                check(group, count, round);
                            }
                        };
                        thread::Builder::new().spawn_scoped(scope, run).unwrap();
                    }
                });
            });
        }
    }
}

#[test]
fn threads_may_form_groups_of_different_communicators_at_once() {
    for options in every_way() {
        world(4, &options, |communicator| {
            let parents: Vec<_> =
                (0..3).map(|_| communicator.split(Some(0), 0).unwrap().unwrap()).collect();
            thread::scope(|scope| {
                for (number, parent) in parents.iter().enumerate() {
                    let run = move || {
                        for round in 0..4 {
                            let color = (parent.rank() >> (number % 2)) & 1;
                            let group = parent.split(Some(color), 0).unwrap().unwrap();
                            check(&group, 2_000, round);
                        }
                    };
                    thread::Builder::new().spawn_scoped(scope, run).unwrap();
                }
            });
        });
    }
}

#[test]
fn one_thread_may_use_groups_that_overlap_like_a_ring() {
    // Ranks r and r+1 share a group; each rank is in two, and takes the one that it leads first. All
    // at once that would be a circle, were it not for ranks that begin with the other one.
    for options in every_way() {
        world(5, &options, |communicator| {
            let rank = communicator.rank();
            let pair = |first: u32| communicator.group(&[first, (first + 1) % 5]).unwrap();
            let groups: Vec<_> = (0..5).filter_map(pair).collect();
            let leads = |group: &&Communicator| group.rank() == 0;
            let (ours, theirs): (Vec<_>, Vec<_>) = groups.iter().partition(leads);
            let order = if rank == 0 { [theirs[0], ours[0]] } else { [ours[0], theirs[0]] };
            for round in 0..3 {
                order.iter().for_each(|group| check(group, 20_000, round));
            }
        });
    }
}

#[test]
fn a_failed_group_leaves_its_siblings_alone() {
    for options in every_way() {
        world(4, &options, |communicator| {
            let half = communicator.split(Some(communicator.rank() / 2), 0).unwrap().unwrap();
            if communicator.rank() >= 2 {
                // Rank 2 calls something else than rank 3.
                let error = if half.rank() == 0 {
                    half.all_reduce(&mut [1.0f32; 10], ReduceOp::Sum).unwrap_err()
                } else {
                    half.all_reduce(&mut [1.0f32; 11], ReduceOp::Sum).unwrap_err()
                };
                assert!(matches!(error, CollectiveError::Mismatch { .. }), "{error:?}");
                let other = 5 - communicator.rank();
                assert_eq!(error.culprit(), Some(other), "{error}");
                let text = error.to_string();
                assert!(text.contains("of group 0 of rank 2"), "{text}");
                assert!(text.contains(&format!("but rank {other} called")), "{text}");
                let error = half.barrier().unwrap_err();
                assert!(matches!(error, CollectiveError::Poisoned { .. }), "{error:?}");
            } else {
                (0..3).for_each(|round| check(&half, 1_000, round));
            }
            check(communicator, 1_000, 1);
            // And a new group takes the failed one's place.
            let half = communicator.split(Some(communicator.rank() / 2), 0).unwrap().unwrap();
            check(&half, 1_000, 2);
        });
    }
}

#[test]
fn a_rank_that_leaves_concerns_only_the_groups_that_it_is_in() {
    for _ in 0..10 {
        let lost = Barrier::new(2);
        contexts(3, &over(TransportKind::Tcp), |context| {
            let communicator = context.communicator().unwrap();
            let rank = communicator.rank();
            let [first, last] = [1, 2].map(|peer| communicator.group(&[0, peer]).unwrap());
            match rank {
                0 => thread::scope(|scope| {
                    scope.spawn(|| {
                        let error = last.unwrap().recv(&mut [0u8; 3], 1, 0).unwrap_err();
                        assert_eq!(error.culprit(), Some(2), "{error}");
                        lost.wait();
                    });
                    let mut data = [0u8; 3];
                    first.unwrap().recv(&mut data, 1, 0).unwrap();
                    assert_eq!(data, [7; 3]);
                }),
                1 => {
                    lost.wait();
                    first.unwrap().send(&[7u8; 3], 0, 0).unwrap();
                }
                _ => {}
            }
        });
    }
}

#[test]
fn a_rank_that_does_not_split_is_named() {
    for kind in [TransportKind::Tcp, TransportKind::Shm] {
        let errors = world(2, &over(kind), |communicator| match communicator.rank() {
            0 => communicator.split(Some(0), 0).unwrap_err().to_string(),
            _ => communicator.barrier().unwrap_err().to_string(),
        });
        assert_eq!(errors[0], "the ranks cannot form groups");
        assert!(errors[1].contains("rank 0 called split"), "{}", errors[1]);
    }
}

#[test]
fn lists_of_ranks_that_make_no_sense_are_refused() {
    let options = ContextOptions::default();
    world(2, &options, |communicator| {
        for (ranks, told) in [(vec![1, 1], "rank 1 is named twice"), (vec![0, 2], "rank 2 is no")] {
            let error = communicator.group(&ranks).unwrap_err();
            assert!(matches!(error, SetupError::Option(_)), "{error:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
        let ranks = if communicator.rank() == 0 { [0, 1] } else { [1, 0] };
        let error = communicator.group(&ranks).unwrap_err().to_string();
        assert!(error.contains("named other members"), "{error}");
        communicator.barrier().unwrap();
    });
}

#[test]
fn groups_share_memory_where_the_world_does() {
    let shared = |options: &ContextOptions| {
        contexts(4, options, |context| {
            let first = context.communicator().unwrap();
            let second = context.communicator().unwrap();
            let half = first.split(Some(first.rank() / 2), 0).unwrap().unwrap();
            let alone = first.split(Some(first.rank()), 0).unwrap().unwrap();
            check(&second, 3_000, 1);
            check(&alone, 3_000, 1);
            let all = [&first, &second, &half, &alone];
            all.map(|communicator| communicator.plan_facts().shared_memory)
        })
    };
    assert_eq!(shared(&over(TransportKind::Shm)), [[true, true, true, false]; 4]);
    assert_eq!(shared(&over(TransportKind::Tcp)), [[false; 4]; 4]);
}

#[test]
fn a_group_costs_what_it_says() {
    const GROUP_BYTES_MAX: usize = 3 << 20;
    world(8, &over(TransportKind::Shm), |communicator| {
        let group = communicator.split(Some(0), 0).unwrap().unwrap();
        check(&group, 100_000, 0);
        let bytes = group.memory_bytes();
        assert!((1 << 20..GROUP_BYTES_MAX).contains(&bytes), "{bytes}");
    });
}

#[test]
fn ranks_of_one_node_share_memory_where_the_world_cannot() {
    const NODES: u32 = 2;
    let (run_id, secret) = (RunId::random().unwrap(), Secret::random().unwrap());
    let store = Arc::new(InProcessStore::new());
    let job = |rank| {
        let rank_info = RankInfo {
            rank,
            world_size: 2 * NODES,
            local_rank: rank / NODES,
            local_size: 2,
            node_rank: rank % NODES,
            node_count: NODES,
            run_id: Some(run_id),
            ..RankInfo::alone()
        };
        let (secret, store) = (secret.clone(), store.clone());
        Job::from_rendezvous(Rendezvous::in_process(rank_info, run_id, secret, store))
    };
    thread::scope(|scope| {
        for rank in 0..2 * NODES {
            let job = job(rank);
            let run = move || {
                let context = Context::new(&job, &ContextOptions::default()).unwrap();
                assert_eq!(context.transport(), TransportKind::Tcp);
                let world = context.communicator().unwrap();
                let node = world.split(Some(rank % NODES), 0).unwrap().unwrap();
                let across = world.split(Some(rank / NODES), 0).unwrap().unwrap();
                let shared = [&world, &node, &across]
                    .map(|communicator| communicator.plan_facts().shared_memory);
                assert_eq!(shared, [false, true, false]);
                check(&node, 5_000, 1);
                check(&across, 5_000, 1);
            };
            thread::Builder::new().spawn_scoped(scope, run).unwrap();
        }
    });
}

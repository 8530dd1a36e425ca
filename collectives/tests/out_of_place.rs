//! Broadcast and reduce with buffers apart, by every algorithm, against the calls in place; and the
//! raw calls that all of them become.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Buffer, Collective, CollectiveError, Communicator, ContextOptions, RawCall, ReduceOp,
    TransportKind,
};
use support::{every_way, forced, over, world};

/// Values whose sums depend on the order of summation.
fn data(rank: u32, count: usize) -> Vec<f32> {
    (0..count).map(|index| (index as f32 + 0.1).sin() * (rank as f32 + 1.3).exp()).collect()
}

fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|value| value.to_bits()).collect()
}

/// Every transport, and every algorithm that knows the collective.
fn every_manner(collective: Collective) -> Vec<ContextOptions> {
    let tcp = Algorithm::ALL.map(|algorithm| (TransportKind::Tcp, algorithm));
    let shm = Algorithm::ALL.map(|algorithm| (TransportKind::Shm, algorithm));
    let all = tcp.into_iter().chain(shm);
    let all = all.filter(|(kind, algorithm)| {
        algorithm.supports(collective)
            && (algorithm.node_manner().is_none() || *kind == TransportKind::Shm)
    });
    all.map(|(kind, algorithm)| forced(kind, algorithm)).chain(every_way()).collect()
}

fn check_reduce(communicator: &Communicator, count: usize, root: u32, op: ReduceOp) -> Vec<u32> {
    let (rank, world_size) = (communicator.rank(), communicator.world_size());
    let input = data(rank, count);
    let mut in_place = input.clone();
    communicator.reduce(&mut in_place, op, root).unwrap();
    let mut output = vec![7.0; count];
    let is_root = rank == root;
    let place = is_root.then_some(&mut output[..]);
    communicator.reduce_into(&input, place, op, root).unwrap();
    assert_eq!(bits(&input), bits(&data(rank, count)), "the input is left alone");
    if !is_root {
        assert_eq!(bits(&in_place), bits(&input), "only the root's vector is overwritten");
        // What a rank that is not the root passes all the same stays as it is.
        communicator.reduce_into(&input, Some(&mut output), op, root).unwrap();
        assert!(output.iter().all(|value| *value == 7.0));
        return Vec::new();
    }
    assert_eq!(bits(&in_place), bits(&output), "{op} of {count} on {rank}/{world_size}");
    // The root in place, the others not.
    let mut in_place = input;
    communicator.reduce(&mut in_place, op, root).unwrap();
    assert_eq!(bits(&in_place), bits(&output));
    bits(&output)
}

#[test]
fn reduce_out_of_place_by_every_algorithm() {
    const COUNTS: [usize; 6] = [0, 1, 3, 10, 1000, 200_003];
    for world_size in [1, 2, 3, 5] {
        let mut results: Vec<Vec<Vec<u32>>> = every_manner(Collective::Reduce)
            .iter()
            .map(|options| {
                let results = world(world_size, options, |communicator| {
                    let mut results = Vec::new();
                    for (nth, count) in (0..).zip(COUNTS) {
                        let root = nth % world_size;
                        results.extend(check_reduce(communicator, count, root, ReduceOp::Avg));
                    }
                    results
                });
                results.into_iter().filter(|result| !result.is_empty()).collect()
            })
            .collect();
        let first = results.pop().unwrap();
        assert!(results.iter().all(|result| *result == first), "the same bits by every algorithm");
    }
}

#[test]
fn broadcast_out_of_place_by_every_algorithm() {
    for world_size in [1, 2, 3, 5] {
        for options in every_manner(Collective::Broadcast) {
            world(world_size, &options, |communicator| {
                let rank = communicator.rank();
                for root in 0..world_size {
                    for count in [0, 1, 10, 1000, 300_001] {
                        let input = data(rank, count);
                        let mut output = vec![7.0; count];
                        let contribution = (rank == root).then_some(&input[..]);
                        communicator.broadcast_into(contribution, &mut output, root).unwrap();
                        assert_eq!(bits(&output), bits(&data(root, count)));
                        assert_eq!(bits(&input), bits(&data(rank, count)));
                    }
                }
            });
        }
    }
}

#[test]
fn in_shared_memory_one_shot_and_two_shot_can_be_forced_and_give_the_same_bits() {
    let run = |algorithm: Option<Algorithm>| {
        let options = ContextOptions { algorithm, ..over(TransportKind::Shm) };
        world(3, &options, |communicator| {
            let mut results = Vec::new();
            for count in [1, 5, 11, 3000, 40_000, 400_000] {
                let planned = communicator.plan::<f32>(Collective::AllReduce, count).algorithm;
                let fits = count < 100_000 || algorithm != Some(Algorithm::NodeOneShot);
                assert!(!fits || algorithm.is_none_or(|forced| forced == planned), "{planned}");
                let mut vector = data(communicator.rank(), count);
                communicator.all_reduce(&mut vector, ReduceOp::Avg).unwrap();
                results.extend(bits(&vector));
                let mut whole = vec![0.0; count * 3];
                communicator.all_gather(&vector, &mut whole).unwrap();
                assert!(whole.chunks(count).all(|part| part == vector));
            }
            results
        })
    };
    let planned = run(None);
    assert_eq!(run(Some(Algorithm::NodeOneShot)), planned);
    assert_eq!(run(Some(Algorithm::NodeTwoShot)), planned);
}

#[test]
fn long_vectors_pass_in_more_slices_than_there_are_scratch_slots() {
    use Algorithm::{HalvingDoubling, RecursiveDoubling, Ring};
    for algorithm in [RecursiveDoubling, HalvingDoubling, Ring] {
        world(3, &forced(TransportKind::Tcp, algorithm), |communicator| {
            let count = 6 << 20;
            let mut vector = vec![1.0f32; count];
            communicator.all_reduce(&mut vector, ReduceOp::Sum).unwrap();
            assert!(vector.iter().all(|value| *value == 3.0));
            let own = communicator.own_chunk(count);
            let mut part = vec![0.0f32; own.len()];
            communicator.reduce_scatter(&vector, &mut part, ReduceOp::Sum).unwrap();
            assert!(part.iter().all(|value| *value == 9.0));
            let is_root = communicator.rank() == 1;
            let mut sum = vec![0.0f32; if is_root { count } else { 0 }];
            let output = is_root.then_some(&mut sum[..]);
            communicator.reduce_into(&vector, output, ReduceOp::Sum, 1).unwrap();
            assert!(sum.iter().all(|value| *value == 9.0));
        });
    }
}

#[test]
fn raw_calls_know_types_and_operators_at_run_time_only() {
    for options in every_way() {
        world(3, &options, |communicator| {
            let mut data: Vec<i64> = (0..10).collect();
            let own = communicator.own_chunk(10);
            let buffer = Buffer::of_mut(&mut data);
            // In place and of a length that three does not divide.
            let scatter = RawCall {
                op: Some(ReduceOp::Sum),
                input: Some(buffer),
                output: Some(buffer.part(own.clone())),
                ..RawCall::new(Collective::ReduceScatter)
            };
            let gather = RawCall {
                collective: Collective::AllGather,
                op: None,
                input: Some(buffer.part(own)),
                output: Some(buffer),
                ..scatter
            };
            for call in [scatter, gather] {
                // SAFETY: the vector outlives the call, and nothing else refers to it meanwhile.
                unsafe { communicator.run_raw(&call) }.unwrap();
            }
            let want: Vec<i64> = (0..10).map(|value| 3 * value).collect();
            assert_eq!(data, want);
        });
    }
}

#[test]
fn raw_calls_that_make_no_sense_are_refused_and_do_no_harm() {
    world(2, &over(TransportKind::Tcp), |communicator| {
        let (three, two, doubles) = ([0.0f32; 3], [0.0f32; 2], [0.0f64; 3]);
        let good = RawCall {
            op: Some(ReduceOp::Sum),
            root: Some(communicator.rank()),
            input: Some(Buffer::of(&three)),
            output: Some(Buffer::of(&three)),
            ..RawCall::new(Collective::Reduce)
        };
        let integers = Some(Buffer::of(&[1i32]));
        let broadcast = RawCall { collective: Collective::Broadcast, ..good };
        let refused = [
            (RawCall { op: None, ..good }, "no operator"),
            (RawCall { root: None, ..good }, "no root"),
            (RawCall { root: Some(2), ..good }, "root 2 is no rank"),
            (RawCall { input: None, ..good }, "no input"),
            (RawCall { output: None, ..good }, "no output"),
            (RawCall { input: None, ..broadcast }, "no input"),
            (RawCall { output: Some(Buffer::of(&two)), ..good }, "3 elements, the output 2"),
            (RawCall { output: Some(Buffer::of(&doubles)), ..good }, "of f32, the output of f64"),
            (
                RawCall { op: Some(ReduceOp::Avg), input: integers, output: integers, ..good },
                "avg is not defined for i32",
            ),
        ];
        for (call, why) in refused {
            // SAFETY: nothing is written, since the call is refused.
            let error = unsafe { communicator.run_raw(&call) }.unwrap_err();
            assert!(matches!(error, CollectiveError::InvalidArgument { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        communicator.barrier().unwrap();
    });
}

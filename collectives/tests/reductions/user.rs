use std::panic::{AssertUnwindSafe, catch_unwind};

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    CollectiveError, Communicator, ReduceOp, Reduction, TransportKind, UserOp,
};

use super::{canonical_ways, every_way, forced, number, over, world};

/// Neither commutative nor associative to the bit.
fn leaky_sum() -> UserOp<f32> {
    UserOp::new("leaky sum", |all: &mut [f32], next: &[f32]| {
        all.iter_mut().zip(next).for_each(|(all, next)| *all = leak(*all, *next));
    })
}

fn leak(all: f32, next: f32) -> f32 {
    all * 0.9 + next
}

fn element(rank: u32, index: usize) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let number = number(rank, index) as f32;
    number
}

fn data(rank: u32, count: usize) -> Vec<f32> {
    (0..count).map(|index| element(rank, index)).collect()
}

fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|element| element.to_bits()).collect()
}

/// Chunk c is x[c+1] op x[c+2] op … op x[c].
fn folded(communicator: &Communicator, count: usize) -> Vec<f32> {
    let world_size = communicator.world_size();
    let ranks = world_size as usize;
    let length = |chunk: usize| count / ranks + usize::from(chunk < count % ranks);
    let mut chunks = (0..world_size).flat_map(|chunk| vec![chunk; length(chunk as usize)]);
    let element = |index| {
        let owner = chunks.next().unwrap();
        let others = (2..=world_size).map(|place| element((owner + place) % world_size, index));
        others.fold(element((owner + 1) % world_size, index), leak)
    };
    (0..count).map(element).collect()
}

fn check(communicator: &Communicator, count: usize) {
    let rank = communicator.rank();
    let want = bits(&folded(communicator, count));
    let (input, op) = (data(rank, count), leaky_sum());
    let mut in_place = input.clone();
    communicator.all_reduce(&mut in_place, &op).unwrap();
    assert!(bits(&in_place) == want, "{count} on rank {rank}");
    let mut apart = vec![0.0; count];
    communicator.all_reduce_into(&input, &mut apart, &op).unwrap();
    assert!(bits(&apart) == want, "{count} on rank {rank}, apart");
    let mut scattered = input.clone();
    let own = communicator.reduce_scatter_in_place(&mut scattered, &op).unwrap();
    assert!(bits(&scattered[own.clone()]) == want[own], "{count} on rank {rank}, scattered");
    let mut rooted = input.clone();
    communicator.reduce(&mut rooted, op, 0).unwrap();
    assert!(rank > 0 || bits(&rooted) == want, "{count} at the root");
}

#[test]
fn operators_fold_in_the_canonical_order_by_every_algorithm() {
    for options in canonical_ways() {
        for world_size in [1, 2, 3, 4] {
            world(world_size, &options, |communicator| {
                for count in [0, 1, 5, 1021] {
                    check(communicator, count);
                }
            });
        }
    }
}

/// A tree's order is not the canonical one, but as fixed; five ranks are no power of two.
#[test]
fn ranks_agree_to_the_bit_where_operators_fold_in_the_order_of_a_tree() {
    for algorithm in [Algorithm::RecursiveDoubling, Algorithm::HalvingDoubling] {
        for world_size in [2, 4, 5] {
            let all = world(world_size, &forced(TransportKind::Tcp, algorithm), |communicator| {
                let mut data = data(communicator.rank(), 1021);
                communicator.all_reduce(&mut data, leaky_sum()).unwrap();
                bits(&data)
            });
            assert!(all.iter().all(|bits| *bits == all[0]), "{algorithm}: {world_size} ranks");
        }
    }
}

#[test]
fn operators_fold_long_vectors_in_pieces() {
    for options in every_way() {
        world(3, &options, |communicator| check(communicator, 300_001));
    }
}

#[test]
fn results_of_operators_can_be_scaled_and_fused() {
    world(2, &over(TransportKind::Tcp), |communicator| {
        let (mut one, mut two) = (data(communicator.rank(), 100), data(communicator.rank(), 100));
        let tensors = &mut [one.as_mut_slice(), two.as_mut_slice()];
        let halved = Reduction::user(leaky_sum()).postscale(0.5);
        communicator.all_reduce_fused(tensors, halved).unwrap();
        let want: Vec<f32> = folded(communicator, 100).into_iter().map(|x| x * 0.5).collect();
        assert_eq!([bits(&one), bits(&two)], [bits(&want), bits(&want)]);
    });
}

#[test]
fn ranks_with_operators_of_different_names_are_told_so() {
    for options in every_way() {
        let errors = world(2, &options, |communicator| {
            let name = ["left", "right"][communicator.rank() as usize];
            let op = UserOp::new(name, |_: &mut [f32], _: &[f32]| {});
            communicator.all_reduce(&mut [1.0f32; 10], op).unwrap_err()
        });
        let told = |error: &CollectiveError| matches!(error, CollectiveError::Mismatch { .. });
        assert!(errors.iter().any(told), "{errors:?}");
    }
}

/// The call panics; nothing of it stays posted, the communicator says why it is of no use, and the
/// other rank is not left waiting.
#[test]
fn an_operator_that_panics_ends_the_operation_on_every_rank() {
    for options in every_way() {
        let outcomes = world(2, &options, |communicator| {
            let rank = communicator.rank();
            let op = UserOp::new("panics on one rank", move |_: &mut [f32], _: &[f32]| {
                assert!(rank == 0, "on purpose");
            });
            let mut data = vec![1.0f32; 100_000];
            let call = || communicator.all_reduce(&mut data, op);
            let outcome = catch_unwind(AssertUnwindSafe(call));
            let next = communicator.all_reduce(&mut data, ReduceOp::Sum);
            (outcome.is_err(), next.unwrap_err().to_string())
        });
        assert!(!outcomes[0].0 && outcomes[1].0, "{outcomes:?}");
        assert!(outcomes[1].1.contains("panicked"), "{}", outcomes[1].1);
        assert!(!outcomes[0].1.contains("timed out"), "{}", outcomes[0].1);
    }
}

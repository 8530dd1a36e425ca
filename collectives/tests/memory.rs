//! What a rank holds besides the user's buffers: stated, bounded, and true.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/weighing.rs"]
mod weighing;

use std::sync::Barrier;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{Communicator, ReduceOp, TransportKind};
use support::{contexts, forced, over};
use weighing::live_bytes;

const RANKS: u32 = 8;

/// Promised for eight ranks.
const LIMIT: usize = 64 << 20;

/// Names, channels and threads of eight ranks, and what the test itself holds.
const SMALL_THINGS: usize = 1 << 20;

fn run_all(communicator: &Communicator, part: usize) {
    let (rank, sum) = (communicator.rank(), ReduceOp::Sum);
    let (mut data, mut own) = (vec![1.0f32; part * RANKS as usize], vec![1.0f32; part]);
    let input = data.clone();
    communicator.all_reduce(&mut data, sum).unwrap();
    communicator.all_reduce_into(&input, &mut data, sum).unwrap();
    communicator.reduce_scatter(&input, &mut own, sum).unwrap();
    communicator.all_gather(&own, &mut data).unwrap();
    for root in [0, RANKS - 1] {
        communicator.broadcast(&mut data, root).unwrap();
        communicator.reduce_into(&input, (rank == root).then_some(&mut data), sum, root).unwrap();
    }
    communicator.shift(&input, &mut data, None).unwrap();
    let mut tensors: Vec<&mut [f32]> = data.chunks_mut(10_007).collect();
    communicator.all_reduce_fused(&mut tensors, sum).unwrap();
}

#[test]
fn eight_ranks_stay_below_64_mib_each_and_know_what_they_hold() {
    use Algorithm::{OneShot, Ring, TwoShot};
    let (tcp, shm) = (TransportKind::Tcp, TransportKind::Shm);
    let ways =
        [over(tcp), forced(tcp, Ring), forced(tcp, OneShot), over(shm), forced(shm, TwoShot)];
    for options in ways {
        let before = live_bytes();
        let barrier = Barrier::new(RANKS as usize);
        let held = contexts(RANKS, &options, |context| {
            let communicator = context.communicator().unwrap();
            for part in [1, 8_000, 200_003] {
                run_all(&communicator, part);
            }
            communicator.barrier().unwrap();
            // The vectors are gone; nobody goes on before all have looked.
            barrier.wait();
            let live = live_bytes().saturating_sub(before);
            barrier.wait();
            (context.memory_bytes() + communicator.memory_bytes(), live)
        });
        let (each, live): (Vec<usize>, Vec<usize>) = held.into_iter().unzip();
        let stated: usize = each.iter().sum();
        assert!(each.iter().all(|bytes| *bytes < LIMIT), "{options:?}: {each:?}");
        for live in live {
            assert!(live <= stated + SMALL_THINGS, "{options:?}: {live} bytes, {stated} stated");
        }
    }
}

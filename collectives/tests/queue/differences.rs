//! Ranks that submit different things, or not all of them the same.

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use paceline_collectives::queue::{Handle, QueueError, QueueOptions};
use paceline_collectives::{ReduceOp, Reduction, TransportKind};

use super::support::{every_way, over};
use super::{options, queues, wait};

#[test]
fn groups_are_all_or_nothing() {
    queues(3, &over(TransportKind::Shm), &options(), |queue| {
        let tensors = vec![vec![1f32; 3], vec![2.0; 5], vec![]];
        let group = queue.all_reduce_group("group", tensors, ReduceOp::Sum);
        let lone = queue.all_reduce("lone", vec![1f32], ReduceOp::Sum);
        assert_eq!(wait(group).unwrap(), [vec![3.0; 3], vec![6.0; 5], vec![]]);
        assert_eq!(wait(lone).unwrap(), [3.0]);
        let length = if queue.rank() == 1 { 4 } else { 5 };
        let group =
            queue.all_reduce_group("odd", vec![vec![1f32; 3], vec![2.0; length]], ReduceOp::Sum);
        let failed = wait(group).unwrap_err();
        assert!(failed.to_string().contains("tensors of [3, 4] f32"), "{failed}");
        assert_eq!(failed.buffer.unwrap(), [vec![1.0; 3], vec![2.0; length]]);
    });
}

#[test]
fn differences_are_named_on_all_ranks_and_end_nothing() {
    queues(3, &over(TransportKind::Tcp), &options(), |queue| {
        let is_odd = queue.rank() == 1;
        let op = if is_odd { ReduceOp::Max } else { ReduceOp::Sum };
        let by_op = queue.all_reduce("op", vec![1f32; 4], op);
        let count =
            queue.all_reduce("count", vec![1f32; if is_odd { 5 } else { 4 }], ReduceOp::Sum);
        let root = queue.broadcast("root", vec![1f32; 4], u32::from(is_odd));
        let factor = if is_odd { 0.5 } else { 1.0 };
        let scaled = Reduction::new(ReduceOp::Sum).postscale(factor);
        let scale = queue.all_reduce("scale", vec![1f32; 4], scaled);
        let dtype = if is_odd {
            wait(queue.all_reduce("dtype", vec![1f64; 4], ReduceOp::Sum)).unwrap_err().error
        } else {
            wait(queue.all_reduce("dtype", vec![1f32; 4], ReduceOp::Sum)).unwrap_err().error
        };
        let dtype = dtype.to_string();
        assert!(dtype.contains("ranks 0, 2 submitted all_reduce of 4 f32 (sum)"), "{dtype}");
        assert!(dtype.contains("rank 1 submitted all_reduce of 4 f64 (sum)"), "{dtype}");
        for (handle, theirs) in [
            (by_op, "(max)"),
            (count, "of 5 f32"),
            (root, "from rank 1"),
            (scale, "factors 1 and 0.5"),
        ] {
            let failed = wait(handle).unwrap_err();
            assert!(matches!(failed.error, QueueError::Mismatch { .. }), "{failed}");
            assert!(failed.to_string().contains(theirs), "{failed}");
            assert!(failed.buffer.unwrap().len() >= 4);
        }
        // The same names work when all agree, and what was known of them is forgotten.
        for value in [1f32, 2.0] {
            let sum = wait(queue.all_reduce("op", vec![value], ReduceOp::Sum)).unwrap();
            assert_eq!(sum, [3.0 * value]);
        }
        let late = if is_odd { ReduceOp::Max } else { ReduceOp::Sum };
        let failed = wait(queue.all_reduce("op", vec![1f32], late)).unwrap_err();
        assert!(matches!(failed.error, QueueError::Mismatch { .. }), "{failed}");
    });
}

#[test]
fn what_a_rank_does_not_submit_is_reported_and_fails() {
    let stalls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&stalls);
    let impatient = QueueOptions {
        timeout: Some(Duration::from_millis(900)),
        stall_report_after: Duration::from_millis(200),
        on_stall: Arc::new(move |stall| seen.lock().unwrap().push(stall.clone())),
        ..options()
    };
    let failed_everywhere = Barrier::new(3);
    queues(3, &over(TransportKind::Tcp), &impatient, |queue| {
        let is_late = queue.rank() == 1;
        let submit = |value: f32| queue.all_reduce("grad.7", vec![value], ReduceOp::Sum);
        let expect_stall = |handle: Handle<Vec<f32>>| {
            let failed = wait(handle).unwrap_err();
            let text = failed.to_string();
            assert!(text.starts_with("grad.7 was not submitted by rank 1 within"), "{text}");
            assert_eq!(failed.buffer.unwrap().len(), 1);
        };
        if !is_late {
            expect_stall(submit(1.0));
        }
        failed_everywhere.wait();
        if is_late {
            // Its part of what the others gave up fails alike, at once; then all are in step.
            expect_stall(submit(1.0));
        }
        assert_eq!(wait(submit(2.0)).unwrap(), [6.0]);
    });
    let stalls = stalls.lock().unwrap();
    assert!(!stalls.is_empty());
    for stall in &*stalls {
        assert_eq!((&*stall.name, &*stall.missing), ("grad.7", &[1][..]));
        assert!(stall.to_string().starts_with("grad.7: waits for rank 1 since"), "{stall}");
    }
}

#[test]
fn ranks_without_data_join() {
    for context_options in every_way() {
        let others_joined = Barrier::new(3);
        queues(3, &context_options, &options(), |queue| {
            let rank = queue.rank() as usize;
            for epoch in 0..2 {
                // Rank 2 has the most data and comes last.
                for step in 0..4 + rank {
                    let sum = queue.all_reduce("sum", vec![1f32; 10], ReduceOp::Sum);
                    let max = queue.all_reduce("max", vec![-3i32; 4], ReduceOp::Max);
                    let prod = queue.all_reduce("prod", vec![2f64; 5], ReduceOp::Prod);
                    let with_data = [3u8, 3, 3, 3, 2, 1][step];
                    assert_eq!(wait(sum).unwrap(), [f32::from(with_data); 10], "{epoch} {step}");
                    assert_eq!(wait(max).unwrap(), [-3; 4]);
                    assert_eq!(wait(prod).unwrap(), [2f64.powi(with_data.into()); 5]);
                }
                if rank == 2 {
                    others_joined.wait();
                    assert_eq!(wait(queue.join()).unwrap(), 2);
                } else {
                    let joined = queue.join();
                    let refused = queue.all_reduce("sum", vec![1f32], ReduceOp::Sum);
                    let failed = wait(refused).unwrap_err();
                    assert!(matches!(failed.error, QueueError::Joined { .. }), "{failed}");
                    others_joined.wait();
                    assert_eq!(wait(joined).unwrap(), 2);
                }
            }
        });
    }
}

#[test]
fn what_cannot_be_submitted_fails_at_once() {
    queues(1, &over(TransportKind::Tcp), &options(), |queue| {
        let failed = wait(queue.all_reduce("average", vec![1i32; 3], ReduceOp::Avg)).unwrap_err();
        assert!(matches!(failed.error, QueueError::Submit { .. }), "{failed}");
        assert_eq!(failed.buffer.unwrap(), [1; 3]);
        let failed = wait(queue.broadcast("root", vec![1i32; 3], 1)).unwrap_err();
        assert!(matches!(failed.error, QueueError::Submit { .. }), "{failed}");
    });
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        if queue.rank() == 0 {
            let first = queue.all_reduce("twice", vec![1i32], ReduceOp::Sum);
            let failed = wait(queue.all_reduce("twice", vec![1i32], ReduceOp::Sum)).unwrap_err();
            assert!(matches!(failed.error, QueueError::Duplicate { .. }), "{failed}");
            wait(queue.all_reduce("go", vec![1i32], ReduceOp::Sum)).unwrap();
            assert_eq!(wait(first).unwrap(), [2]);
        } else {
            wait(queue.all_reduce("go", vec![1i32], ReduceOp::Sum)).unwrap();
            wait(queue.all_reduce("twice", vec![1i32], ReduceOp::Sum)).unwrap();
        }
    });
}

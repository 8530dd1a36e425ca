//! The queue: worlds whose ranks are threads of this process, each with the thread of its queue.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::queue::{Failed, Handle, Queue, QueueError, QueueOptions};
use paceline_collectives::{
    Communicator, Context, ContextOptions, Element, ReduceOp, Reduction, TransportKind, UserOp,
    bf16,
};

use support::{contexts, every_way, over};

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn options() -> QueueOptions {
    QueueOptions::default()
}

/// Runs `body` as every rank, each with a queue.
fn queues<R: Send>(
    world_size: u32,
    context_options: &ContextOptions,
    options: &QueueOptions,
    body: impl Fn(&Queue) -> R + Sync,
) -> Vec<R> {
    contexts(world_size, context_options, |context| {
        body(&Queue::new(context.communicator().unwrap(), options).unwrap())
    })
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        usize::try_from((self.0 >> 33) % sides as u64).unwrap()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.roll(last + 1));
        }
    }
}

fn wait<B>(handle: Handle<B>) -> Result<B, Failed<B>> {
    handle.wait_timeout(PATIENCE).expect("the handle completes")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Vectors of one of several types.
#[derive(Clone, Debug, PartialEq)]
enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bf16(Vec<bf16>),
    I32(Vec<i32>),
}

#[derive(Debug)]
enum DataHandle {
    F32(Handle<Vec<f32>>),
    F64(Handle<Vec<f64>>),
    Bf16(Handle<Vec<bf16>>),
    I32(Handle<Vec<i32>>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Reduce(ReduceOp),
    Broadcast(u32),
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    kind: Kind,
    priority: i32,
    data: Data,
}

const LENGTHS: [usize; 6] = [0, 1, 7, 300, 5000, 70_000];

fn tensors(count: usize, world_size: u32, rank: u32) -> Vec<Tensor> {
    let mut dice = Dice(7);
    let tensor = |index| {
        let length = LENGTHS[dice.roll(if index % 20 == 0 { 6 } else { 5 })];
        let kind = match dice.roll(8) {
            0 => Kind::Broadcast(u32::try_from(dice.roll(world_size as usize)).unwrap()),
            1 => Kind::Reduce(ReduceOp::Max),
            _ => Kind::Reduce(ReduceOp::Sum),
        };
        let priority = [0, 0, 0, 5, -5][dice.roll(5)];
        let dtype = dice.roll(4);
        // Sums of these depend on their order.
        let mut contents = Dice(1000 * u64::from(rank) + index);
        let mut value = || f64::from(u32::try_from(contents.roll(2_000_001)).unwrap()) / 1e6 - 1.0;
        let data = match dtype {
            0 => Data::F64((0..length).map(|_| value()).collect()),
            1 => Data::Bf16((0..length).map(|_| bf16::from_f64(value())).collect()),
            2 => Data::I32(
                (0..length).map(|_| i32::try_from(contents.roll(1000)).unwrap()).collect(),
            ),
            _ => Data::F32((0..length).map(|_| f32::from(bf16::from_f64(value())) / 3.0).collect()),
        };
        Tensor { name: format!("tensor.{index}"), kind, priority, data }
    };
    (0..count as u64).map(tensor).collect()
}

fn blocking<T: Element>(communicator: &Communicator, data: &mut [T], kind: Kind) {
    match kind {
        Kind::Reduce(op) => communicator.all_reduce(data, op).unwrap(),
        Kind::Broadcast(root) => communicator.broadcast(data, root).unwrap(),
    }
}

fn expected(communicator: &Communicator, tensors: &[Tensor]) -> Vec<Data> {
    let one = |tensor: &Tensor| {
        let mut data = tensor.data.clone();
        match &mut data {
            Data::F32(data) => blocking(communicator, data, tensor.kind),
            Data::F64(data) => blocking(communicator, data, tensor.kind),
            Data::Bf16(data) => blocking(communicator, data, tensor.kind),
            Data::I32(data) => blocking(communicator, data, tensor.kind),
        }
        data
    };
    tensors.iter().map(one).collect()
}

fn queued<T: Element>(queue: &Queue, tensor: &Tensor, data: &[T]) -> Handle<Vec<T>> {
    let (queue, name) = (queue.priority(tensor.priority), &*tensor.name);
    match tensor.kind {
        Kind::Reduce(op) => queue.all_reduce(name, data.to_vec(), op),
        Kind::Broadcast(root) => queue.broadcast(name, data.to_vec(), root),
    }
}

fn submit(queue: &Queue, tensor: &Tensor) -> DataHandle {
    match &tensor.data {
        Data::F32(data) => DataHandle::F32(queued(queue, tensor, data)),
        Data::F64(data) => DataHandle::F64(queued(queue, tensor, data)),
        Data::Bf16(data) => DataHandle::Bf16(queued(queue, tensor, data)),
        Data::I32(data) => DataHandle::I32(queued(queue, tensor, data)),
    }
}

fn result(handle: DataHandle) -> Data {
    match handle {
        DataHandle::F32(handle) => Data::F32(wait(handle).unwrap()),
        DataHandle::F64(handle) => Data::F64(wait(handle).unwrap()),
        DataHandle::Bf16(handle) => Data::Bf16(wait(handle).unwrap()),
        DataHandle::I32(handle) => Data::I32(wait(handle).unwrap()),
    }
}

/// Everything in an order of this rank's own, with pauses; the results in the order of `tensors`.
fn in_random_order(queue: &Queue, tensors: &[Tensor], seed: u64) -> Vec<Data> {
    let mut dice = Dice(seed);
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    dice.shuffle(&mut order);
    let mut handles: Vec<Option<DataHandle>> = tensors.iter().map(|_| None).collect();
    for index in order {
        if dice.roll(32) == 0 {
            thread::sleep(Duration::from_micros(300));
        }
        handles[index] = Some(submit(queue, &tensors[index]));
    }
    handles.into_iter().map(|handle| result(handle.unwrap())).collect()
}

fn any_order(context: &Context, seed: u64, count: usize, options: &QueueOptions) {
    let (world_size, rank) = (context.world_size(), context.rank());
    let communicator = context.communicator().unwrap();
    let tensors = tensors(count, world_size, rank);
    let expected = expected(&context.communicator().unwrap(), &tensors);
    let queue = Queue::new(communicator, options).unwrap();
    for step in 0..3 {
        let seed = seed + 10 * step + u64::from(rank);
        let results = in_random_order(&queue, &tensors, seed);
        for ((tensor, result), expected) in tensors.iter().zip(&results).zip(&expected) {
            let case = (&tensor.name, tensor.kind, world_size, seed);
            assert!(result == expected, "{case:?}");
        }
    }
}

#[test]
fn any_order_gives_the_bits_of_blocking_operations() {
    for world_size in 1..=4 {
        for (way, context_options) in every_way().iter().enumerate() {
            let seed = 1000 * u64::from(world_size) + 100 * way as u64;
            contexts(world_size, context_options, |context| {
                any_order(context, seed, 120, &options());
            });
        }
    }
}

#[test]
fn a_small_cache_and_no_fusion_change_no_bits() {
    let tcp = over(TransportKind::Tcp);
    let small = QueueOptions { cache_capacity: 16, ..options() };
    contexts(3, &tcp, |context| any_order(context, 1, 60, &small));
    let unfused = QueueOptions { fusion_threshold: 0, ..options() };
    contexts(3, &tcp, |context| any_order(context, 2, 60, &unfused));
    let slow = QueueOptions { cycle_time: Duration::from_millis(2), ..options() };
    contexts(2, &tcp, |context| any_order(context, 3, 60, &slow));
}

#[test]
fn the_steady_state_exchanges_no_names() {
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let step = || {
            let submit =
                |index| queue.all_reduce(format!("{index}"), vec![1f32; 100], ReduceOp::Sum);
            let handles: Vec<_> = (0..100).map(submit).collect();
            handles.into_iter().for_each(|handle| drop(wait(handle).unwrap()));
        };
        step();
        let warm = queue.counts();
        for _ in 0..10 {
            step();
        }
        let counts = queue.counts();
        assert_eq!(counts.exchanges, warm.exchanges);
        assert_eq!(counts.submissions - warm.submissions, 1000);
        // They are fused, and no round does nothing but on the way from one step to the next.
        let (rounds, operations) =
            (counts.rounds - warm.rounds, counts.operations - warm.operations);
        assert!(operations <= 1000, "{counts:?}");
        assert!(rounds <= 2 * operations + 20, "{counts:?}");
    });
}

#[test]
fn ranks_that_wait_for_each_other_do_not_spin() {
    let meeting = Barrier::new(2);
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let names = if queue.rank() == 0 { ["a", "b"] } else { ["b", "a"] };
        let first = queue.all_reduce(names[0], vec![1f32], ReduceOp::Sum);
        thread::sleep(Duration::from_millis(300));
        let rounds = queue.counts().rounds;
        assert!(rounds < 1000, "{rounds} rounds for nothing");
        meeting.wait();
        let second = queue.all_reduce(names[1], vec![2f32], ReduceOp::Sum);
        assert_eq!((wait(first).unwrap(), wait(second).unwrap()), (vec![3.0], vec![3.0]));
    });
}

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
fn all_gather_collects_in_the_order_of_ranks() {
    queues(3, &over(TransportKind::Tcp), &options(), |queue| {
        let gathered = wait(queue.all_gather("ranks", vec![queue.rank(); 2])).unwrap();
        assert_eq!(gathered, [0, 0, 1, 1, 2, 2]);
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
fn priorities_decide_who_goes_first() {
    let gate_open = Arc::new(AtomicBool::new(false));
    let submitted = Barrier::new(2);
    let one_by_one = QueueOptions { fusion_threshold: 0, ..options() };
    queues(2, &over(TransportKind::Tcp), &one_by_one, |queue| {
        let order = Arc::new(Mutex::new(Vec::new()));
        let is_open = Arc::clone(&gate_open);
        let gate = UserOp::new("gate", move |_: &mut [f32], _: &[f32]| {
            until("the gate opens", || is_open.load(Ordering::Acquire));
        });
        let logged = |what: i32| {
            let order = Arc::clone(&order);
            UserOp::new("logged", move |_: &mut [f32], _: &[f32]| {
                let mut order = order.lock().unwrap();
                if order.last() != Some(&what) {
                    order.push(what);
                }
            })
        };
        let gate = queue.all_reduce("gate", vec![1f32; 2], &gate);
        let handles: Vec<_> = [(0, "a"), (-1, "b"), (7, "c"), (3, "d")]
            .into_iter()
            .map(|(priority, name)| {
                queue.priority(priority).all_reduce(name, vec![1f32; 2], logged(priority))
            })
            .collect();
        submitted.wait();
        gate_open.store(true, Ordering::Release);
        wait(gate).unwrap();
        handles.into_iter().for_each(|handle| drop(wait(handle).unwrap()));
        assert_eq!(*order.lock().unwrap(), [7, 3, 0, -1]);
    });
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

#[test]
fn a_rank_that_is_gone_fails_everything_with_the_cause() {
    // In memory that ranks share, it takes the coordinator to tell that one has left.
    let [tcp, _, messages] = every_way();
    for context_options in [tcp, messages] {
        contexts(3, &context_options, |context| {
            let communicator = context.communicator().unwrap();
            if context.rank() == 1 {
                return;
            }
            let queue = Queue::new(communicator, &options()).unwrap();
            let submit = |name: &str| queue.all_reduce(name, vec![1f32; 7], ReduceOp::Sum);
            for handle in [submit("a"), submit("b")] {
                let failed = wait(handle).unwrap_err();
                assert!(matches!(failed.error, QueueError::Communicator { .. }), "{failed}");
                assert_eq!(failed.buffer.unwrap().len(), 7);
            }
            let failed = wait(submit("c")).unwrap_err();
            assert!(matches!(failed.error, QueueError::Communicator { .. }), "{failed}");
            assert!(wait(queue.join()).is_err());
        });
    }
}

#[test]
fn a_panic_is_reported_and_nobody_hangs() {
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let is_broken = queue.rank() == 0;
        let broken = UserOp::new("broken", move |_: &mut [f32], _: &[f32]| {
            assert!(!is_broken, "the operator does not like it");
        });
        // Both ranks reduce a half of it.
        let failed = wait(queue.all_reduce("a", vec![1f32; 1 << 20], &broken)).unwrap_err();
        if is_broken {
            assert!(matches!(failed.error, QueueError::Panicked { .. }), "{failed}");
            let failed = wait(queue.all_reduce("b", vec![1f32], ReduceOp::Sum)).unwrap_err();
            assert!(failed.to_string().contains("the operator does not like it"), "{failed}");
        } else {
            assert!(failed.error.is_fatal(), "{failed}");
        }
    });
}

#[test]
fn handles_that_are_dropped_change_nothing() {
    queues(2, &over(TransportKind::Shm), &options(), |queue| {
        for index in 0..50 {
            let handle = queue.all_reduce(format!("{index}"), vec![1f32; 100], ReduceOp::Sum);
            if (index + queue.rank()).is_multiple_of(2) {
                drop(handle);
            } else {
                assert_eq!(wait(handle).unwrap(), [2.0; 100]);
            }
        }
    });
}

#[test]
fn who_drops_the_queue_lets_the_others_know() {
    contexts(3, &over(TransportKind::Tcp), |context| {
        let queue = Queue::new(context.communicator().unwrap(), &options()).unwrap();
        let last = queue.all_reduce("last", vec![1f32], ReduceOp::Sum);
        if context.rank() == 1 {
            // Waits for what is under way.
            drop(queue);
            assert!(last.is_complete());
            return;
        }
        assert_eq!(wait(last).unwrap(), [3.0]);
        let failed = wait(queue.all_reduce("too late", vec![1f32], ReduceOp::Sum)).unwrap_err();
        assert_eq!(failed.to_string(), "rank 1 closed the queue");
    });
}

#[test]
fn several_queues_of_a_context_work_at_the_same_time() {
    contexts(2, &over(TransportKind::Tcp), |context| {
        let queue = || Queue::new(context.communicator().unwrap(), &options()).unwrap();
        let (first, second) = (queue(), queue());
        let blocking = context.communicator().unwrap();
        for step in 0..20 {
            let submit = |queue: &Queue| queue.all_reduce("a", vec![1f32; 1000], ReduceOp::Sum);
            let handles = if (step + context.rank()).is_multiple_of(2) {
                [submit(&first), submit(&second)]
            } else {
                let second = submit(&second);
                [submit(&first), second]
            };
            blocking.barrier().unwrap();
            for handle in handles {
                assert_eq!(wait(handle).unwrap(), [2.0; 1000]);
            }
        }
    });
}

#[test]
fn groups_of_ranks_have_queues_of_their_own() {
    for context_options in every_way() {
        contexts(4, &context_options, |context| {
            let world = context.communicator().unwrap();
            let half = world.split(Some(context.rank() % 2), 0).unwrap().unwrap();
            let [world, half] = [world, half].map(|all| Queue::new(all, &options()).unwrap());
            let submit = |queue: &Queue| {
                queue.all_reduce("rank", vec![f64::from(context.rank())], ReduceOp::Sum)
            };
            let handles = if context.rank() < 2 {
                [submit(&world), submit(&half)]
            } else {
                let half = submit(&half);
                [submit(&world), half]
            };
            let of_half = if context.rank().is_multiple_of(2) { 2.0 } else { 4.0 };
            assert_eq!(handles.map(|handle| wait(handle).unwrap()), [[6.0], [of_half]]);
            // Errors name ranks of the world.
            let odd_one_out = vec![1f32; 1 + context.rank() as usize / 2];
            let failed = wait(half.all_reduce("odd", odd_one_out, ReduceOp::Sum)).unwrap_err();
            let name = format!(", rank {} submitted all_reduce of 2", context.rank() % 2 + 2);
            assert!(failed.to_string().contains(&name), "{failed}");
        });
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn handles_are_futures() {
    queues(2, &over(TransportKind::Tcp), &options(), |queue| {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = std::task::Context::from_waker(&waker);
        let mut handle = pin!(queue.all_reduce("a", vec![1f32; 10], ReduceOp::Avg));
        let result = loop {
            match handle.as_mut().poll(&mut context) {
                Poll::Ready(result) => break result,
                Poll::Pending => thread::park_timeout(PATIENCE),
            }
        };
        assert_eq!(result.unwrap(), [1.0; 10]);
    });
}

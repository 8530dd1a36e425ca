//! Tensors that every rank submits in an order of its own.

use std::thread;
use std::time::Duration;

use paceline_collectives::queue::{Handle, Queue, QueueOptions};
use paceline_collectives::{Communicator, Context, Element, ReduceOp, TransportKind, bf16};

use super::dice::Dice;
use super::support::{contexts, every_way, over};
use super::{options, wait};

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

//! In the steady state of an operation nothing is allocated: not by short ones or long ones, not over
//! any transport, and not while a rank waits for another or is ahead of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Checksum, Communicator, ContextOptions, Element, ReduceOp, Reduction, TransportKind, bf16, f16,
};
use support::{forced, over, world};

/// Counts what each thread allocates while it is told to.
struct Counting;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[expect(clippy::print_stderr, reason = "shows where the allocation comes from")]
fn count() {
    if COUNTS.get() {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // Showing it allocates.
        COUNTS.set(false);
        eprintln!("allocated:\n{}", Backtrace::force_capture());
        COUNTS.set(true);
    }
}

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(run: impl FnOnce()) -> u64 {
    ALLOCATIONS.set(0);
    COUNTS.set(true);
    run();
    COUNTS.set(false);
    ALLOCATIONS.get()
}

/// The buffers of every collective.
struct Buffers<T> {
    data: Vec<T>,
    input: Vec<T>,
    part: Vec<T>,
}

impl<T: Element> Buffers<T> {
    fn new(value: T, part: usize, world_size: usize) -> Self {
        let whole = vec![value; part * world_size];
        Self { data: whole.clone(), input: whole, part: vec![value; part] }
    }

    fn run_all(&mut self, communicator: &Communicator, reduction: &Reduction<T>) {
        let op = || reduction.clone();
        let (rank, root) = (communicator.rank(), communicator.world_size() - 1);
        let Self { data, input, part } = self;
        communicator.all_reduce(data, op()).unwrap();
        communicator.all_reduce_into(input, data, op()).unwrap();
        communicator.reduce_scatter(input, part, op()).unwrap();
        communicator.reduce_scatter_in_place(data, op()).unwrap();
        communicator.all_gather(part, data).unwrap();
        communicator.all_gather_in_place(data).unwrap();
        communicator.broadcast(data, root).unwrap();
        communicator.broadcast_into((rank == root).then_some(&input[..]), data, root).unwrap();
        communicator.reduce(data, op(), root).unwrap();
        let output = (rank == root).then_some(&mut data[..]);
        communicator.reduce_into(input, output, op(), root).unwrap();
        communicator.barrier().unwrap();
        communicator.shift(input, data, None).unwrap();
        communicator.all_to_all(input, data).unwrap();
        let output = (rank == root).then_some(&mut data[..]);
        communicator.gather(part, output, root).unwrap();
        communicator.scatter((rank == root).then_some(&input[..]), part, root).unwrap();
    }
}

/// Warm up, then count. The first rounds may still allocate: connections come to life, tables and
/// buffers grow to the sizes of the operations, and a rank that does nothing but send for the first time
/// gets a courier.
fn assert_free(communicator: &Communicator, what: &str, mut round: impl FnMut(&Communicator)) {
    for _ in 0..3 {
        round(communicator);
    }
    let found = allocations(|| (0..3).for_each(|_| round(communicator)));
    // To notice that a peer has left costs memory, so nobody leaves before all have counted.
    communicator.barrier().unwrap();
    let (rank, world_size) = (communicator.rank(), communicator.world_size());
    assert_eq!(found, 0, "{what}: rank {rank} of {world_size} allocated {found} times");
}

fn ways() -> Vec<(&'static str, ContextOptions)> {
    use Algorithm::{
        Dissemination, HalvingDoubling, OneShot, RecursiveDoubling, Ring, Star, TwoShot,
    };
    let (tcp, shm) = (TransportKind::Tcp, TransportKind::Shm);
    let mut ways = vec![
        ("tcp", over(tcp)),
        ("tcp, three sockets", ContextOptions { sockets: Some(3), ..over(tcp) }),
        ("tcp, checksums", ContextOptions { checksum: Checksum::Crc32c, ..over(tcp) }),
        ("shared memory", over(shm)),
        ("one-shot in shared memory", forced(shm, Algorithm::NodeOneShot)),
        ("two-shot in shared memory", forced(shm, Algorithm::NodeTwoShot)),
    ];
    for algorithm in
        [Ring, OneShot, Dissemination, Star, TwoShot, RecursiveDoubling, HalvingDoubling]
    {
        ways.push((algorithm.name(), forced(tcp, algorithm)));
        ways.push((algorithm.name(), forced(shm, algorithm)));
    }
    ways
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| drop(black_box(vec![0u8; 1 << 20]))), 1);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn no_collective_allocates() {
    for (name, options) in ways() {
        for world_size in [2, 3] {
            world(world_size, &options, |communicator| {
                for part in [0, 1, 5_000, 50_001] {
                    let mut buffers = Buffers::new(1.0f32, part, world_size as usize);
                    assert_free(communicator, name, |communicator| {
                        buffers.run_all(communicator, &ReduceOp::Avg.into());
                    });
                }
            });
        }
    }
}

/// What is recorded lies in memory that was there before, and the thread that writes is another one.
#[test]
fn a_timeline_does_not_make_it_allocate() {
    let directory = tempfile::tempdir().unwrap();
    for (name, options) in ways() {
        let timeline = Some(directory.path().join("timeline.json"));
        world(2, &ContextOptions { timeline, ..options }, |communicator| {
            for part in [1, 50_001] {
                let mut buffers = Buffers::new(1.0f32, part, 2);
                assert_free(communicator, name, |communicator| {
                    buffers.run_all(communicator, &ReduceOp::Avg.into());
                });
            }
        });
    }
}

#[test]
fn no_type_makes_it_allocate() {
    fn check<T: Element>(communicator: &Communicator, value: T) {
        let mut buffers = Buffers::new(value, 3_000, communicator.world_size() as usize);
        assert_free(communicator, T::DTYPE.name(), |communicator| {
            buffers.run_all(communicator, &ReduceOp::Max.into());
        });
    }
    for options in [over(TransportKind::Tcp), over(TransportKind::Shm)] {
        world(2, &options, |communicator| {
            check(communicator, 1.0f64);
            check(communicator, f16::from_f32(1.0));
            check(communicator, bf16::from_f32(1.0));
            check(communicator, 1i64);
            check(communicator, 1i32);
            check(communicator, 1u8);
        });
    }
}

#[test]
fn factors_do_not_make_it_allocate() {
    for (name, options) in ways() {
        world(2, &options, |communicator| {
            for part in [1, 50_001] {
                let mut buffers = Buffers::new(1.0f32, part, 2);
                let reduction = Reduction::new(ReduceOp::Sum).prescale(0.5).postscale(0.25);
                assert_free(communicator, name, |communicator| {
                    buffers.run_all(communicator, &reduction);
                });
            }
        });
    }
}

#[test]
fn messages_and_groups_do_not_allocate() {
    for (name, options) in ways() {
        world(3, &options, |communicator| {
            let rank = communicator.rank();
            let turned = communicator.split(Some(0), -i64::from(rank)).unwrap().unwrap();
            let mut data = vec![1.0f32; 50_001];
            assert_free(communicator, name, |communicator| {
                for count in [1, 1_000, 50_001] {
                    let data = &mut data[..count];
                    turned.all_reduce(data, ReduceOp::Avg).unwrap();
                    // Once around.
                    if rank > 0 {
                        communicator.recv(data, rank - 1, 5).unwrap();
                    }
                    communicator.send(data, (rank + 1) % 3, 5).unwrap();
                    if rank == 0 {
                        communicator.recv(data, 2, 5).unwrap();
                    }
                }
            });
        });
    }
}

#[test]
fn fused_operations_do_not_allocate() {
    for (name, options) in ways() {
        world(3, &options, |communicator| {
            let mut tensors: Vec<Vec<f32>> =
                [7, 100_000, 0, 3000, 16_000, 1, 50_000].map(|count| vec![1.0; count]).into();
            let mut slices: Vec<&mut [f32]> = tensors.iter_mut().map(Vec::as_mut_slice).collect();
            assert_free(communicator, name, |communicator| {
                communicator.all_reduce_fused(&mut slices, ReduceOp::Avg).unwrap();
            });
        });
    }
}

#[test]
fn ranks_that_wait_or_are_ahead_do_not_allocate() {
    let ways = [over(TransportKind::Tcp), over(TransportKind::Shm)];
    let messages = forced(TransportKind::Shm, Algorithm::BinomialTree);
    for options in ways.into_iter().chain([messages]) {
        world(3, &options, |communicator| {
            let mut late = 0;
            let mut short = [1.0f32; 100];
            let mut long = vec![1.0f32; 1 << 18];
            assert_free(communicator, "waiting", |communicator| {
                // Each in turn comes so late that the others sleep, and that messages to it are
                // there before it asks for them.
                late = (late + 1) % communicator.world_size();
                if communicator.rank() == late {
                    std::thread::sleep(Duration::from_millis(60));
                }
                for _ in 0..20 {
                    communicator.broadcast(&mut short, (late + 1) % 3).unwrap();
                }
                communicator.all_reduce(&mut long, ReduceOp::Avg).unwrap();
                communicator.barrier().unwrap();
            });
        });
    }
}

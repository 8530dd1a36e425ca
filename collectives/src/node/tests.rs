//! Every operation against the definition, with members in threads; see `process_tests` for
//! processes.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use paceline_devices::{DType, Element, ReduceOp, bf16, f16};
use paceline_transports::shm::Arena;
use paceline_transports::{Signature, Way};

use super::*;
use crate::kernels::Kernel;
use crate::schedule::Partition;

fn arenas(members: u32) -> Vec<Arena> {
    let layout = arena_layout(members);
    let first = Arena::create(layout, 0).unwrap();
    let fd = || first.as_fd().try_clone_to_owned().unwrap();
    let others: Vec<_> =
        (1..members).map(|member| Arena::join(fd(), layout, member).unwrap()).collect();
    std::iter::once(first).chain(others).collect()
}

/// Runs `program` on every member in a thread of its own, and returns what they return.
fn on_all<R: Send>(
    members: u32,
    tuning: Option<Tuning>,
    program: impl Fn(&mut NodeGroup) -> R + Sync,
) -> Vec<R> {
    std::thread::scope(|scope| {
        let program = &program;
        let start = |arena: Arena| {
            scope.spawn(move || {
                let tuning = tuning.unwrap_or_else(|| Tuning::new(arena.members()));
                program(&mut NodeGroup::with_tuning(arena, tuning))
            })
        };
        let threads: Vec<_> = arenas(members).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Drives an operation to its end, as an engine does: spin, yield, park.
pub(super) fn finish(group: &mut NodeGroup, request: NodeRequest<'_>) -> Result<(), NodeError> {
    // SAFETY: the tests lend buffers of the right size until this returns.
    let mut op = unsafe { group.start(request) }?;
    let give_up = Instant::now() + Duration::from_secs(120);
    let mut idle = 0;
    loop {
        match op.step(group)? {
            Progress::Done => return Ok(()),
            Progress::Moved => idle = 0,
            Progress::Waiting if idle < 10 => idle += 1,
            Progress::Waiting if idle < 20 => {
                idle += 1;
                std::thread::yield_now();
            }
            Progress::Waiting => op.park(group, Duration::from_millis(50)),
        }
        assert!(Instant::now() < give_up, "{op:?} does not end");
    }
}

fn signature(kind: u8, count: usize) -> Signature {
    let mut bytes = [kind; Signature::LEN];
    bytes[..8].copy_from_slice(&(count as u64).to_le_bytes());
    Signature(bytes)
}

/// Requests only borrow their kernels; those of tests stay for good, each once, and can be found.
fn kernel(dtype: DType, op: ReduceOp) -> Option<&'static Kernel> {
    static KERNELS: Mutex<Vec<(DType, ReduceOp, &'static Kernel)>> = Mutex::new(Vec::new());
    let mut kernels = KERNELS.lock().unwrap();
    let same = |known: &&(DType, ReduceOp, &'static Kernel)| known.0 == dtype && known.1 == op;
    if let Some((_, _, kernel)) = kernels.iter().find(same) {
        return Some(*kernel);
    }
    let kernel = &*Box::leak(Box::new(Kernel::new(dtype, op)?));
    kernels.push((dtype, op, kernel));
    Some(kernel)
}

pub(super) fn request<T: Element>(
    kind: NodeKind,
    op: ReduceOp,
    count: usize,
    input: &[T],
    output: *mut T,
) -> NodeRequest<'static> {
    let input = input.as_ptr().cast();
    let (signature, output) = (signature(0, count), output.cast());
    let kernel = kernel(T::DTYPE, op);
    let manner = Manner::preferred(3, count * size_of::<T>());
    NodeRequest {
        kind,
        manner,
        dtype: T::DTYPE,
        kernel,
        count,
        cut: None,
        signature,
        input,
        output,
    }
}

/// The manners that a tensor allows.
fn manners(members: u32, bytes: usize) -> impl Iterator<Item = Manner> {
    let all = [Manner::TwoShot, Manner::OneShot];
    all.into_iter().filter(move |manner| manner.allows(members, bytes))
}

/// What a member contributes: small integers, and for floats at some places fractions whose sum
/// depends on the order.
pub(super) trait Sample: Element {
    fn sample(member: usize, index: usize) -> Self;
}

fn whole(member: usize, index: usize) -> u8 {
    u8::try_from((member * 31 + index * 7) % 5 + 1).unwrap()
}

macro_rules! samples {
    ($($float:ty: $convert:expr),*; $($integer:ty),*) => {
        $(impl Sample for $float {
            fn sample(member: usize, index: usize) -> Self {
                let fraction = if index % 3 == 0 { 0.1 * (member + 1) as f32 } else { 0.0 };
                $convert(f32::from(whole(member, index)) + fraction)
            }
        })*
        $(impl Sample for $integer {
            fn sample(member: usize, index: usize) -> Self {
                Self::from(whole(member, index))
            }
        })*
    };
}

samples!(f64: f64::from, f32: |x| x, f16: f16::from_f32, bf16: bf16::from_f32; i64, i32, u8);

pub(super) fn inputs<T: Sample>(members: usize, count: usize) -> Vec<Vec<T>> {
    (0..members).map(|member| (0..count).map(|at| T::sample(member, at)).collect()).collect()
}

/// The definition: chunk c is the left fold of x_{c+1}, x_{c+2}, …, x_c.
pub(super) fn reduced<T: Sample>(inputs: &[Vec<T>], op: ReduceOp) -> Vec<T> {
    let (members, count) = (inputs.len(), inputs[0].len());
    let kernel = Kernel::new(T::DTYPE, op).unwrap();
    let mut result = Vec::with_capacity(count);
    for owner in 0..members {
        let chunk = Partition::new(count, members).range(owner);
        let mut folded = inputs[(owner + 1) % members][chunk.clone()].to_vec();
        for place in 2..=members {
            kernel.reduce_assign(&mut folded, &inputs[(owner + place) % members][chunk.clone()]);
        }
        let ranks = u32::try_from(members).unwrap();
        // SAFETY: the vector holds as many elements of the kernel's type.
        unsafe { kernel.finish(folded.as_mut_ptr().cast(), folded.len(), ranks) };
        result.extend(folded);
    }
    result
}

/// Sizes around every boundary: inline, one-shot, one block, several rounds, wrap of the rings.
fn counts(size: usize) -> Vec<usize> {
    let mut counts = vec![0, 1, 2, 3, 5, 9, 10, 11, 17, 100, 1001, 4096];
    counts.extend([9_000, 40_000, 70_001, 700_001, 3_000_003].map(|bytes| bytes / size));
    counts
}

/// Small rings and blocks: many rounds, many wraps, also for short vectors.
fn fine_grained() -> Tuning {
    Tuning { block_bytes_max: 1024, streaming_bytes_min: 5000, shared_stores: Some(Way::Streaming) }
}

fn check_all_reduce<T: Sample>(members: u32, op: ReduceOp, tuning: Option<Tuning>, most: usize) {
    let counts: Vec<_> =
        counts(size_of::<T>()).into_iter().filter(|count| count * size_of::<T>() <= most).collect();
    let all: Vec<_> = counts.iter().map(|count| inputs::<T>(members as usize, *count)).collect();
    let expected: Vec<_> = all.iter().map(|inputs| reduced(inputs, op)).collect();
    on_all(members, tuning, |group| {
        for ((count, inputs), expected) in counts.iter().zip(&all).zip(&expected) {
            for manner in manners(members, count * size_of::<T>()) {
                let mut data = inputs[group.member()].clone();
                let mut output = vec![T::sample(9, 9); *count + 1];
                let kind = NodeKind::AllReduce;
                let call = request(kind, op, *count, &data, output.as_mut_ptr());
                finish(group, NodeRequest { manner, ..call }).unwrap();
                assert!(output[..*count] == expected[..], "{op} of {count} {}", T::DTYPE);
                assert_eq!(output[*count], T::sample(9, 9));
                let target = data.as_mut_ptr();
                let call = request(kind, op, *count, &data, target);
                finish(group, NodeRequest { manner, ..call }).unwrap();
                assert!(data == *expected, "{op} of {count} {} in place", T::DTYPE);
            }
        }
    });
}

#[test]
fn all_reduce_of_every_type_and_operator() {
    for op in ReduceOp::ALL {
        for members in [2, 3] {
            if op.supports(DType::F32) {
                check_all_reduce::<f64>(members, op, None, 80_000);
                check_all_reduce::<f32>(members, op, None, 80_000);
                check_all_reduce::<f16>(members, op, None, 80_000);
                check_all_reduce::<bf16>(members, op, None, 80_000);
            }
            if op.supports(DType::I32) {
                check_all_reduce::<i64>(members, op, None, 80_000);
                check_all_reduce::<i32>(members, op, None, 80_000);
                check_all_reduce::<u8>(members, op, None, 80_000);
            }
        }
    }
}

#[test]
fn all_reduce_of_every_size_and_world() {
    for members in 1..=8 {
        check_all_reduce::<f32>(members, ReduceOp::Sum, None, 4_000_000);
        let fine = Some(fine_grained());
        check_all_reduce::<f32>(members, ReduceOp::Avg, fine, 100_000);
    }
}

#[test]
fn unaligned_views_are_reduced_in_place() {
    let expected = reduced(&inputs::<f32>(3, 5003), ReduceOp::Sum);
    on_all(3, Some(fine_grained()), |group| {
        let mut padded = vec![0.0f32; 5004];
        padded[1..].copy_from_slice(&inputs::<f32>(3, 5003)[group.member()]);
        let view = &mut padded[1..];
        let target = view.as_mut_ptr();
        finish(group, request(NodeKind::AllReduce, ReduceOp::Sum, 5003, view, target)).unwrap();
        assert!(view == expected);
    });
}

#[test]
fn the_other_collectives_follow_their_definitions() {
    for (members, tuning) in [(1, None), (2, None), (3, None), (4, Some(fine_grained()))] {
        for count in [0, 1, 3, 10, 40, 1000, 30_011, 300_003] {
            let all = inputs::<f32>(members as usize, count);
            let sum = reduced(&all, ReduceOp::Sum);
            on_all(members, tuning, |group| {
                for manner in manners(members, count * size_of::<f32>()) {
                    check_collectives(group, manner, &all, &sum);
                }
            });
        }
    }
}

fn check_collectives(group: &mut NodeGroup, manner: Manner, all: &[Vec<f32>], sum: &[f32]) {
    let (count, own) = (sum.len(), &all[group.member()]);
    let chunk = Partition::new(count, all.len()).range(group.member());
    let run = |group: &mut NodeGroup, kind, input: &[f32], output: *mut f32| {
        let call = request(kind, ReduceOp::Sum, count, input, output);
        finish(group, NodeRequest { manner, ..call }).unwrap();
    };
    let mut part = vec![0.0; chunk.len()];
    run(group, NodeKind::ReduceScatter, own, part.as_mut_ptr());
    assert!(part == sum[chunk.clone()], "reduce_scatter of {count}");
    let mut whole = vec![0.0; count];
    run(group, NodeKind::AllGather, &part, whole.as_mut_ptr());
    assert!(whole == sum, "all_gather of {count}");
    if manner == Manner::OneShot {
        run(group, NodeKind::Barrier, &[], std::ptr::null_mut());
    }
    for root in 0..u32::try_from(all.len()).unwrap() {
        let at_root = root as usize == group.member();
        let mut data = own.clone();
        let target = data.as_mut_ptr();
        run(group, NodeKind::Broadcast { root }, &data, target);
        assert!(data == all[root as usize], "broadcast of {count} from {root}");
        let mut apart = vec![0.0; count];
        run(group, NodeKind::Broadcast { root }, own, apart.as_mut_ptr());
        assert!(apart == all[root as usize], "broadcast of {count} from {root}, out of place");
        let mut data = own.clone();
        let target = data.as_mut_ptr();
        run(group, NodeKind::Reduce { root }, &data, target);
        assert!(data == if at_root { sum } else { own }, "reduce of {count}");
        let target = if at_root { apart.as_mut_ptr() } else { std::ptr::null_mut() };
        run(group, NodeKind::Reduce { root }, own, target);
        assert!(!at_root || apart == sum, "reduce of {count}, out of place");
    }
}

#[test]
fn rooted_operations_may_run_ahead_without_harm() {
    // Roots never wait for data, so this is where a slot might be overwritten too early.
    on_all(3, Some(fine_grained()), |group| {
        for round in 0..1200_usize {
            let count = [1, 7, 40, 3000][round % 4];
            let manner = [Manner::OneShot, Manner::TwoShot][round / 4 % 3 % 2];
            let root = u32::try_from(round % 3).unwrap();
            let value = round as f32;
            let mut data = vec![if group.member() == root as usize { value } else { -1.0 }; count];
            let target = data.as_mut_ptr();
            let kind = NodeKind::Broadcast { root };
            let call = request(kind, ReduceOp::Sum, count, &data, target);
            finish(group, NodeRequest { manner, ..call }).unwrap();
            assert!(data.iter().all(|element| *element == value), "round {round}");
        }
    });
}

#[test]
fn different_calls_are_an_error_that_names_both() {
    let errors = on_all(3, None, |group| {
        let mut data = vec![1.0f32; 100_000];
        let count = if group.member() == 1 { 5 } else { 100_000 };
        let target = data.as_mut_ptr();
        let call = request(NodeKind::AllReduce, ReduceOp::Sum, count, &data, target);
        let error = finish(group, call).unwrap_err();
        let again = finish(group, call).unwrap_err();
        assert_eq!(again, NodeError::Unfinished { op_seq: 0 });
        error
    });
    let (most, odd) = (signature(0, 100_000), signature(0, 5));
    for (member, error) in errors.into_iter().enumerate() {
        match error {
            NodeError::SignatureMismatch { member: other, op_seq: 0, ours, theirs } => {
                let expected = if member == 1 { (odd, most) } else { (most, odd) };
                assert_eq!((ours, theirs), expected);
                assert_eq!(other == 1, member != 1);
            }
            // A third member may hear that the first two gave up before it meets the difference.
            NodeError::Aborted { op_seq: 0, .. } => assert_ne!(member, 1),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_member_that_gives_up_ends_the_waiting_of_all() {
    let outcomes = on_all(3, None, |group| {
        if group.member() == 2 {
            group.abort();
            return Ok(());
        }
        let mut data = vec![1.0f32; 10];
        let target = data.as_mut_ptr();
        finish(group, request(NodeKind::AllReduce, ReduceOp::Sum, 10, &data, target))
    });
    let aborted = Err(NodeError::Aborted { member: 2, op_seq: 0 });
    assert_eq!(outcomes, [aborted.clone(), aborted, Ok(())]);
}

#[test]
#[should_panic(expected = "has a kernel for its type")]
fn kernels_for_another_type_are_refused() {
    let mut data = [1i32];
    let target = data.as_mut_ptr();
    let sum = request(NodeKind::AllReduce, ReduceOp::Sum, 1, &data, target);
    let kernel = Kernel::new(DType::F32, ReduceOp::Sum);
    let mut group = NodeGroup::new(arenas(1).remove(0));
    let _ = finish(&mut group, NodeRequest { kernel: kernel.as_ref(), ..sum });
}

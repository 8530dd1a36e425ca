//! All-to-all, gather, scatter and the forms with chunks of any lengths, over every transport, against
//! results computed the slow way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use paceline_collectives::plan::Algorithm;
use paceline_collectives::{
    Bool, Buffer, Collective, CollectiveError, Communicator, ContextOptions, Element, RawCall,
    ReduceOp, TransportKind, bf16,
};
use support::{forced, over, world};

const WORLDS: std::ops::RangeInclusive<u32> = 1..=8;

/// Over TCP, in shared memory as the plan chooses and forced either way.
fn ways() -> [ContextOptions; 4] {
    let shm = TransportKind::Shm;
    [
        over(TransportKind::Tcp),
        over(shm),
        forced(shm, Algorithm::NodeOneShot),
        forced(shm, Algorithm::NodeTwoShot),
    ]
}

/// The same and over messages in shared memory.
fn ways_and(messages: Algorithm) -> impl Iterator<Item = ContextOptions> {
    ways().into_iter().chain([forced(TransportKind::Shm, messages)])
}

/// Element `nth` of what `from` has for `to`.
trait Sample: Element + PartialEq + std::fmt::Debug {
    fn sample(from: usize, to: usize, nth: usize) -> Self;
    const NOTHING: Self;
}

fn mix(from: usize, to: usize, nth: usize) -> u8 {
    u8::try_from((from * 131 + to * 31 + nth * 7 + 1) % 251).unwrap()
}

impl Sample for f64 {
    const NOTHING: Self = -1.0;
    fn sample(from: usize, to: usize, nth: usize) -> Self {
        Self::from(mix(from, to, nth)) + 0.25
    }
}

impl Sample for bf16 {
    const NOTHING: Self = Self::ZERO;
    fn sample(from: usize, to: usize, nth: usize) -> Self {
        Self::from_f32(f32::from(mix(from, to, nth)) + 1.0)
    }
}

impl Sample for i32 {
    const NOTHING: Self = -1;
    fn sample(from: usize, to: usize, nth: usize) -> Self {
        Self::from(mix(from, to, nth)) << 16
    }
}

impl Sample for u8 {
    const NOTHING: Self = 255;
    fn sample(from: usize, to: usize, nth: usize) -> Self {
        mix(from, to, nth)
    }
}

impl Sample for Bool {
    const NOTHING: Self = Self::FALSE;
    fn sample(from: usize, to: usize, nth: usize) -> Self {
        Self::from(mix(from, to, nth).is_multiple_of(2))
    }
}

fn block<T: Sample>(from: usize, to: usize, count: usize) -> Vec<T> {
    (0..count).map(|nth| T::sample(from, to, nth)).collect()
}

fn sizes(communicator: &Communicator) -> (usize, usize) {
    (communicator.rank() as usize, communicator.world_size() as usize)
}

/// Lengths that differ from rank to rank, some of them 0, up to about `scale`.
fn length(from: usize, to: usize, scale: usize) -> usize {
    [scale, 0, 1, scale / 3 + 1, 0, scale / 2][(from * 5 + to * 3) % 6]
}

fn lengths(count: usize, of: impl Fn(usize) -> usize) -> Vec<usize> {
    (0..count).map(of).collect()
}

/// The nth chunk of each list, for rank `rank`.
fn own_start(counts: &[usize], rank: usize) -> usize {
    counts[..rank].iter().sum()
}

fn check_all_to_all<T: Sample>(communicator: &Communicator, count: usize) {
    let (rank, ranks) = sizes(communicator);
    let input: Vec<T> = (0..ranks).flat_map(|to| block(rank, to, count)).collect();
    let mut output = vec![T::NOTHING; input.len()];
    communicator.all_to_all(&input, &mut output).unwrap();
    let want: Vec<T> = (0..ranks).flat_map(|from| block(from, rank, count)).collect();
    assert!(output == want, "{} blocks of {count} on {rank}/{ranks}", T::DTYPE);
}

fn check_all_to_all_v<T: Sample>(communicator: &Communicator, scale: usize) {
    let (rank, ranks) = sizes(communicator);
    let sent = lengths(ranks, |to| length(rank, to, scale));
    let received = lengths(ranks, |from| length(from, rank, scale));
    let input: Vec<T> = (0..ranks).flat_map(|to| block(rank, to, sent[to])).collect();
    let mut output = vec![T::NOTHING; received.iter().sum()];
    communicator.all_to_all_v(&input, &sent, &mut output, &received).unwrap();
    let want: Vec<T> = (0..ranks).flat_map(|from| block(from, rank, received[from])).collect();
    assert!(output == want, "{} blocks of {scale} on {rank}/{ranks}", T::DTYPE);
}

#[test]
fn all_to_all_of_every_kind() {
    for options in ways_and(Algorithm::Pairwise) {
        for world_size in WORLDS {
            world(world_size, &options, |communicator| {
                for count in [0, 1, 3, 1000, 40_001] {
                    check_all_to_all::<f64>(communicator, count);
                    check_all_to_all_v::<f64>(communicator, count);
                }
                check_all_to_all::<bf16>(communicator, 333);
                check_all_to_all_v::<bf16>(communicator, 333);
                check_all_to_all::<i32>(communicator, 70_000);
                check_all_to_all_v::<u8>(communicator, 100_001);
                check_all_to_all::<Bool>(communicator, 17);
            });
        }
    }
}

fn check_gather<T: Sample>(communicator: &Communicator, root: usize, count: usize) {
    let (rank, ranks) = sizes(communicator);
    let input: Vec<T> = block(rank, root, count);
    let is_root = rank == root;
    let mut output = vec![T::NOTHING; if is_root { count * ranks } else { 3 }];
    let lent = (is_root || count.is_multiple_of(2)).then_some(&mut output[..]);
    communicator.gather(&input, lent, u32::try_from(root).unwrap()).unwrap();
    if is_root {
        let want: Vec<T> = (0..ranks).flat_map(|from| block(from, root, count)).collect();
        assert!(output == want, "{} gather of {count} to {root}/{ranks}", T::DTYPE);
    } else {
        assert_eq!(output, [T::NOTHING; 3]);
    }
}

fn check_gather_v<T: Sample>(communicator: &Communicator, root: usize, scale: usize) {
    let (rank, ranks) = sizes(communicator);
    let counts = lengths(ranks, |from| length(from, root, scale));
    let input: Vec<T> = block(rank, root, counts[rank]);
    let is_root = rank == root;
    let mut output = vec![T::NOTHING; counts.iter().sum()];
    let lent = is_root.then_some((&mut output[..], &counts[..]));
    communicator.gather_v(&input, lent, u32::try_from(root).unwrap()).unwrap();
    if is_root {
        let want: Vec<T> = (0..ranks).flat_map(|from| block(from, root, counts[from])).collect();
        assert!(output == want, "{} gather_v of {scale} to {root}/{ranks}", T::DTYPE);
    }
}

fn check_scatter<T: Sample>(communicator: &Communicator, root: usize, count: usize) {
    let (rank, ranks) = sizes(communicator);
    let input: Vec<T> = (0..ranks).flat_map(|to| block(root, to, count)).collect();
    let mut output = vec![T::NOTHING; count];
    let lent = (rank == root).then_some(&input[..]);
    communicator.scatter(lent, &mut output, u32::try_from(root).unwrap()).unwrap();
    assert!(output == block::<T>(root, rank, count), "{count} from {root} to {rank}/{ranks}");
}

fn check_scatter_v<T: Sample>(communicator: &Communicator, root: usize, scale: usize) {
    let (rank, ranks) = sizes(communicator);
    let counts = lengths(ranks, |to| length(root, to, scale));
    let input: Vec<T> = (0..ranks).flat_map(|to| block(root, to, counts[to])).collect();
    let mut output = vec![T::NOTHING; counts[rank]];
    let lent = (rank == root).then_some((&input[..], &counts[..]));
    communicator.scatter_v(lent, &mut output, u32::try_from(root).unwrap()).unwrap();
    assert!(output == block::<T>(root, rank, counts[rank]), "from {root} to {rank}/{ranks}");
}

#[test]
fn gather_and_scatter_of_every_kind_with_every_root() {
    for options in ways_and(Algorithm::Direct) {
        for world_size in WORLDS {
            world(world_size, &options, |communicator| {
                for root in 0..world_size as usize {
                    for count in [0, 1, 1000, 30_001] {
                        check_gather::<f64>(communicator, root, count);
                        check_scatter::<f64>(communicator, root, count);
                        check_gather_v::<f64>(communicator, root, count);
                        check_scatter_v::<f64>(communicator, root, count);
                    }
                    check_gather::<u8>(communicator, root, 77);
                    check_scatter::<bf16>(communicator, root, 77);
                    check_gather_v::<Bool>(communicator, root, 70_001);
                    check_scatter_v::<i32>(communicator, root, 5);
                }
            });
        }
    }
}

fn check_all_gather_v<T: Sample>(communicator: &Communicator, counts: &[usize]) {
    let (rank, ranks) = sizes(communicator);
    let want: Vec<T> = (0..ranks).flat_map(|from| block(from, 0, counts[from])).collect();
    let own: Vec<T> = block(rank, 0, counts[rank]);
    let mut output = vec![T::NOTHING; want.len()];
    communicator.all_gather_v(&own, &mut output, counts).unwrap();
    assert!(output == want, "{} {counts:?} on {rank}", T::DTYPE);
    let mut in_place = vec![T::NOTHING; want.len()];
    in_place[own_start(counts, rank)..][..own.len()].copy_from_slice(&own);
    communicator.all_gather_v_in_place(&mut in_place, counts).unwrap();
    assert!(in_place == want, "{} {counts:?} on {rank}", T::DTYPE);
}

/// The fold of chunk `owner` in the canonical order.
fn folded(owner: usize, ranks: usize, element: impl Fn(usize) -> f32) -> f32 {
    let order = (1..=ranks).map(|step| element((owner + step) % ranks));
    order.reduce(|left, right| left + right).unwrap()
}

fn check_reduce_scatter_v(communicator: &Communicator, counts: &[usize]) {
    let (rank, ranks) = sizes(communicator);
    let element = |of: usize, at: usize| ((at as f32 + 0.1) * 0.7).sin() * (of as f32 + 1.3).exp();
    let count = counts.iter().sum();
    let input: Vec<f32> = (0..count).map(|at| element(rank, at)).collect();
    let start = own_start(counts, rank);
    let want: Vec<u32> = (start..start + counts[rank])
        .map(|at| folded(rank, ranks, |of| element(of, at)).to_bits())
        .collect();
    let bits = |found: &[f32]| found.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let mut output = vec![0.0; counts[rank]];
    communicator.reduce_scatter_v(&input, &mut output, counts, ReduceOp::Sum).unwrap();
    assert_eq!(bits(&output), want, "{counts:?} on {rank}");
    let mut data = input.clone();
    let own = communicator.reduce_scatter_v_in_place(&mut data, counts, ReduceOp::Sum).unwrap();
    assert_eq!(own, start..start + counts[rank]);
    assert_eq!(bits(&data[own.clone()]), want, "{counts:?} on {rank}");
    assert_eq!(data[..own.start], input[..own.start], "others' chunks stay");
    assert_eq!(data[own.end..], input[own.end..], "others' chunks stay");
}

#[test]
fn chunks_of_any_lengths_are_gathered_and_reduced_with_the_same_bits_everywhere() {
    let ring = forced(TransportKind::Tcp, Algorithm::Ring);
    for options in ways_and(Algorithm::TwoShot).chain([ring]) {
        for world_size in WORLDS {
            world(world_size, &options, |communicator| {
                let ranks = world_size as usize;
                for scale in [0, 1, 7, 30_001] {
                    let ragged = lengths(ranks, |rank| length(rank, scale, scale));
                    let one_has_all =
                        lengths(ranks, |rank| if rank == ranks / 2 { 3 * scale } else { 0 });
                    for counts in [ragged, one_has_all, vec![scale; ranks]] {
                        check_all_gather_v::<f64>(communicator, &counts);
                        check_all_gather_v::<u8>(communicator, &counts);
                        check_reduce_scatter_v(communicator, &counts);
                    }
                }
            });
        }
    }
}

#[test]
fn even_counts_give_the_bits_of_an_all_reduce() {
    for options in ways() {
        world(5, &options, |communicator| {
            let rank = communicator.rank() as f32;
            let count = 10_003;
            let data: Vec<f32> =
                (0..count).map(|at| (at as f32 * 0.3).cos() * (rank + 0.7).exp()).collect();
            let counts: Vec<usize> = (0..5).map(|rank| count / 5 + usize::from(rank < 3)).collect();
            let mut reduced = data.clone();
            communicator.all_reduce(&mut reduced, ReduceOp::Avg).unwrap();
            let own = communicator.own_chunk(count);
            let mut part = vec![0.0; own.len()];
            communicator.reduce_scatter_v(&data, &mut part, &counts, ReduceOp::Avg).unwrap();
            let bits = |data: &[f32]| data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&part), bits(&reduced[own]));
        });
    }
}

#[test]
fn groups_exchange_among_themselves() {
    for options in [over(TransportKind::Tcp), over(TransportKind::Shm)] {
        world(5, &options, |communicator| {
            // Ranks 4, 2, 0 and 3, 1: their places are not those that they have in the world.
            let color = communicator.rank() % 2;
            let group = communicator.split(Some(color), -i64::from(communicator.rank()));
            let group = group.unwrap().unwrap();
            assert_eq!(group.world_size(), 3 - color);
            for scale in [1, 20_001] {
                check_all_to_all::<i32>(&group, scale);
                check_all_to_all_v::<f64>(&group, scale);
                for root in 0..group.world_size() as usize {
                    check_gather::<u8>(&group, root, scale);
                    check_gather_v::<f64>(&group, root, scale);
                    check_scatter::<f64>(&group, root, scale);
                    check_scatter_v::<u8>(&group, root, scale);
                }
                let counts = lengths(group.world_size() as usize, |rank| length(rank, 0, scale));
                check_all_gather_v::<f64>(&group, &counts);
                check_reduce_scatter_v(&group, &counts);
            }
        });
    }
}

#[test]
fn raw_gather_and_scatter_work_in_place_on_the_root() {
    for options in ways_and(Algorithm::Direct) {
        world(3, &options, |communicator| {
            let (rank, _) = sizes(communicator);
            let is_root = rank == 1;
            let mut data: Vec<i32> = if is_root { vec![-1; 6] } else { vec![0; 2] };
            let at = if is_root { 2 } else { 0 };
            data[at..at + 2].copy_from_slice(&block::<i32>(rank, 1, 2));
            let buffer = Buffer::of_mut(&mut data);
            let own = Some(buffer.part(at..at + 2));
            let whole = is_root.then_some(buffer);
            let root = Some(1);
            let gather =
                RawCall { root, input: own, output: whole, ..RawCall::new(Collective::Gather) };
            let scatter =
                RawCall { root, input: whole, output: own, ..RawCall::new(Collective::Scatter) };
            // SAFETY: the vector outlives the call, and nothing else refers to it meanwhile.
            unsafe { communicator.run_raw(&gather) }.unwrap();
            if is_root {
                let want: Vec<i32> = (0..3).flat_map(|from| block(from, 1, 2)).collect();
                assert_eq!(data, want);
                data.reverse();
            }
            // SAFETY: as above.
            unsafe { communicator.run_raw(&scatter) }.unwrap();
            let mut mine = block::<i32>(2 - rank, 1, 2);
            mine.reverse();
            assert_eq!(data[at..at + 2], mine);
        });
    }
}

#[test]
fn counts_that_make_no_sense_are_refused_and_do_no_harm() {
    world(2, &over(TransportKind::Tcp), |communicator| {
        let mut out = [0u8; 4];
        let refused = [
            (communicator.all_to_all(&[1; 3], &mut out[..3]), "3 elements are no 2 blocks"),
            (communicator.all_to_all(&[1; 2], &mut out), "the input has 2 elements, the output 4"),
            (communicator.all_gather_v(&[1], &mut out, &[4]), "1 counts are given"),
            (communicator.all_gather_v(&[1], &mut out, &[1, 2]), "its counts add up to 3"),
            (
                communicator.all_gather_v(&[1], &mut out, &[usize::MAX, 5]),
                "add up to more than fits in memory",
            ),
            (communicator.all_gather_v(&[1], &mut out, &[2, 2]), "the counts say 2 for this rank"),
            (communicator.all_gather_v_in_place(&mut out, &[4, 1]), "add up to 5"),
            (
                communicator.reduce_scatter_v(&[1, 2], &mut out, &[1, 1], ReduceOp::Sum),
                "the output has 4 elements, but the counts say 1",
            ),
            (
                communicator.all_to_all_v(&[1, 2], &[1, 1], &mut out, &[2, 2]),
                "has 1 elements for itself, but expects 2",
            ),
            (communicator.gather(&[1u8], None, communicator.rank()), "no output is given"),
            (communicator.gather(&[1], Some(&mut out), communicator.rank()), "4 elements, not 2"),
            (communicator.gather::<u8>(&[1], None, 2), "root 2 is no rank"),
            (communicator.scatter(None, &mut out, communicator.rank()), "no input is given"),
            (
                communicator.scatter_v(Some((&[1, 2], &[2])), &mut out, communicator.rank()),
                "1 counts are given for the input",
            ),
        ];
        for (refused, why) in refused {
            let error = refused.unwrap_err();
            assert!(matches!(error, CollectiveError::InvalidArgument { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}, not {why}");
        }
        let raw = RawCall {
            input: Some(Buffer::of(&out)),
            output: Some(Buffer::of(&out)),
            ..RawCall::new(Collective::AllToAllV)
        };
        // SAFETY: nothing is written, since the call is refused.
        let error = unsafe { communicator.run_raw(&raw) }.unwrap_err().to_string();
        assert!(error.contains("no counts are given for the input"), "{error}");
        communicator.barrier().unwrap();
    });
}

/// That an operation which the ranks call differently fails on all of them or all but those who have
/// what they need, and that a failure names what differs and who.
fn assert_told(
    call: impl Fn(&Communicator) -> Result<(), CollectiveError> + Sync,
    what: &[&str],
    options: &ContextOptions,
) {
    let errors: Vec<CollectiveError> = world(2, options, |communicator| {
        let first = call(communicator).err();
        // Who had what it needed learns of it in the next operation.
        first.unwrap_or_else(|| communicator.barrier().unwrap_err())
    });
    let told = |error: &CollectiveError| what.iter().all(|what| error.to_string().contains(what));
    let with_sources: Vec<String> = errors.iter().map(|error| format!("{error:?}")).collect();
    assert!(errors.iter().any(told), "{with_sources:?}");
    for error in &errors {
        assert!(!error.is_timeout(), "{error}");
    }
}

#[test]
fn ranks_that_disagree_on_counts_are_told_so() {
    for options in [over(TransportKind::Tcp), over(TransportKind::Shm)] {
        let both = ["on rank", "from rank"];
        for scale in [1, 100_000] {
            let gather_v = |communicator: &Communicator| {
                let counts = [[scale, 2 * scale], [2 * scale, scale]];
                let counts = counts[communicator.rank() as usize];
                let own = vec![1u8; counts[communicator.rank() as usize]];
                communicator.all_gather_v(&own, &mut vec![0; 3 * scale], &counts)
            };
            assert_told(gather_v, &["all_gather_v", "but rank", "counts"], &options);
            let all_to_all_v = |communicator: &Communicator| {
                // Rank 0 sends less than rank 1 expects.
                let (sent, received) = match communicator.rank() {
                    0 => ([0, scale], [0, 0]),
                    _ => ([0, 0], [scale + 1, 0]),
                };
                let (input, mut output) = (vec![1u8; sent[1]], vec![0u8; received[0]]);
                communicator.all_to_all_v(&input, &sent, &mut output, &received)
            };
            assert_told(all_to_all_v, &["all_to_all_v", both[0], both[1]], &options);
            let nothing_expected = |communicator: &Communicator| {
                let sent = if communicator.rank() == 0 { [0, scale] } else { [0, 0] };
                communicator.all_to_all_v(&vec![1u8; sent[1]], &sent, &mut [], &[0, 0])
            };
            assert_told(nothing_expected, &["all_to_all_v", both[0], both[1]], &options);
            let gather_v = |communicator: &Communicator| match communicator.rank() {
                0 => {
                    let counts = [1, scale];
                    let mut output = vec![0u8; 1 + scale];
                    communicator.gather_v(&[1], Some((&mut output, &counts)), 0)
                }
                _ => communicator.gather_v(&vec![1u8; scale + 3], None, 0),
            };
            assert_told(gather_v, &["gather_v", "on rank 0", "from rank 1"], &options);
            let scatter_v = |communicator: &Communicator| match communicator.rank() {
                0 => {
                    let input = vec![0u8; 1 + scale];
                    communicator.scatter_v(Some((&input, &[1, scale])), &mut [0], 0)
                }
                _ => communicator.scatter_v(None, &mut vec![1u8; scale + 3], 0),
            };
            assert_told(scatter_v, &["scatter_v", "on rank 1", "from rank 0"], &options);
        }
        let gather = |communicator: &Communicator| {
            let own = vec![1u8; 3 + communicator.rank() as usize];
            let mut output = [0; 6];
            let output = (communicator.rank() == 0).then_some(&mut output[..]);
            communicator.gather(&own, output, 0)
        };
        assert_told(gather, &["gather", "6 u8", "8 u8", "but rank"], &options);
        let other_operation = |communicator: &Communicator| match communicator.rank() {
            0 => communicator.all_to_all(&[1u8; 2], &mut [0; 2]),
            _ => communicator.all_to_all_v(&[1u8; 2], &[1, 1], &mut [0; 2], &[1, 1]),
        };
        assert_told(other_operation, &["all_to_all", "but rank"], &options);
    }
}

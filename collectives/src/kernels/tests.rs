//! Every kernel on every instruction set of this machine against a scalar reference that shares no
//! code with it, bit for bit.

mod convert;
mod reference;
mod scale;
mod user;

use paceline_devices::{DType, ReduceOp};
use proptest::prelude::*;

use super::{Isa, Kernel, Stores, copy};
use reference::{alone, finished, reference};

/// SplitMix64: an endless stream of bits from a seed.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Elements, a quarter of them special for some type: zeros, ones, extremes, subnormals,
    /// infinities, NaNs.
    fn elements(&mut self, dtype: DType, count: usize) -> Vec<u8> {
        const LEADING_BITS: [u64; 8] = [0, 0x3c00, 0x3f80, 0x7bff, 0x7c00, 0x7f80, 0x7ff0, 0x7fff];
        let mut bytes = Vec::with_capacity(count * dtype.size());
        for _ in 0..count {
            let (random, choice) = (self.next(), self.next());
            let sign = choice & (1 << 63);
            let rest = [0, u64::MAX, random][(choice >> 8) as usize % 3] >> 16;
            let special = sign | LEADING_BITS[(choice >> 16) as usize % 8] << 48 | rest;
            let element = if choice % 4 == 0 { special } else { random };
            bytes.extend_from_slice(&element.to_be_bytes()[..dtype.size()]);
            let start = bytes.len() - dtype.size();
            bytes[start..].reverse();
        }
        bytes
    }
}

/// Memory whose elements start `offset` elements after an address aligned to 64, and which notices
/// writes beyond them.
struct Guarded {
    memory: Vec<u64>,
    start: usize,
    bytes: usize,
}

impl Guarded {
    const CANARY: u64 = 0xa5a5_a5a5_a5a5_a5a5;

    fn new(content: &[u8], dtype: DType, offset: usize) -> Self {
        let mut memory = vec![Self::CANARY; content.len() / 8 + 48];
        let start = memory.as_ptr().align_offset(64) * 8 + 64 + offset * dtype.size();
        // SAFETY: start is at most 56 + 64 + 63 * 8 bytes into a vector that is larger than the
        // content by 384; offsets are below 16 elements.
        let to = unsafe { memory.as_mut_ptr().cast::<u8>().add(start) };
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(content.as_ptr(), content.len()) };
        Self { memory, start, bytes: content.len() }
    }

    fn pointer(&mut self) -> *mut u8 {
        self.memory.as_mut_ptr().cast::<u8>().wrapping_add(self.start)
    }

    /// The elements, after a check that nothing else was written.
    fn elements(&self) -> Vec<u8> {
        let all: Vec<u8> = self.memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let end = self.start + self.bytes;
        let untouched = all[..self.start].iter().chain(&all[end..]).all(|byte| *byte == 0xa5);
        assert!(untouched, "a kernel wrote beyond its output");
        all[self.start..end].to_vec()
    }
}

fn kernels(dtype: DType, op: ReduceOp) -> impl Iterator<Item = (Isa, Stores, Kernel)> {
    let all =
        Isa::ALL.into_iter().flat_map(|isa| [(isa, Stores::Cached), (isa, Stores::Streaming)]);
    all.filter_map(move |(isa, stores)| {
        Some((isa, stores, Kernel::with_isa(dtype, op, isa)?.with_stores(stores)))
    })
}

fn supported() -> impl Iterator<Item = (DType, ReduceOp)> {
    let all = DType::ALL.into_iter().flat_map(|dtype| ReduceOp::ALL.map(|op| (dtype, op)));
    all.filter(|(dtype, op)| op.supports(*dtype))
}

/// `op` on `count` elements by every kernel, out of place and in place.
fn check_reduce(seed: u64, count: usize, offsets: [usize; 3]) {
    for (dtype, op) in supported() {
        let mut bits = Bits(seed);
        let contents = [(); 3].map(|()| bits.elements(dtype, count));
        let expected = reference(dtype, op, &contents[0], &contents[1]);
        for (isa, stores, kernel) in kernels(dtype, op) {
            for out in 0..3 {
                let mut buffers =
                    [0, 1, 2].map(|index| Guarded::new(&contents[index], dtype, offsets[index]));
                let [a, b, _] = buffers.each_mut().map(Guarded::pointer);
                let to = buffers[out].pointer();
                // SAFETY: three buffers of `count` aligned elements; `to` is one of them.
                unsafe { kernel.reduce(to, a, b, count) };
                let case = format!("{dtype} {op} {isa:?} {stores:?}, out is operand {out}");
                assert!(buffers[out].elements() == expected, "{case}: {count} at {offsets:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_kernel_equals_the_reference(
        seed: u64,
        count in 0_usize..300,
        offsets in prop::array::uniform3(0_usize..16),
    ) {
        check_reduce(seed, count, offsets);
    }

    #[test]
    fn a_fold_equals_repeated_reductions(
        seed: u64,
        inputs in 1_usize..10,
        count in prop_oneof![0_usize..40, 500_usize..2500],
        offset in 0_usize..16,
        out_is_input in prop::option::of(0_usize..10),
        ranks in 1_u32..70,
    ) {
        check_fold(seed, inputs, count, offset, out_is_input, ranks);
    }
}

#[test]
fn counts_around_every_loop_boundary_equal_the_reference() {
    for count in [0, 1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257, 511, 513, 4097] {
        check_reduce(count as u64, count, [0, 0, 0]);
        check_reduce(count as u64, count, [1, 3, 7]);
    }
}

/// Left fold of `inputs` random operands; `out` is a new buffer or one of them.
fn check_fold(
    seed: u64,
    inputs: usize,
    count: usize,
    offset: usize,
    out_is_input: Option<usize>,
    ranks: u32,
) {
    for (dtype, op) in supported() {
        let mut bits = Bits(seed);
        let contents: Vec<_> = (0..=inputs).map(|_| bits.elements(dtype, count)).collect();
        let combine = |a: Vec<u8>, b: &Vec<u8>| reference(dtype, op, &a, b);
        let folded = match &contents[..inputs] {
            [lone] => alone(dtype, op, lone),
            [first, others @ ..] => others.iter().fold(first.clone(), combine),
            [] => unreachable!("there is at least one input"),
        };
        let finished = finished(dtype, op, &folded, ranks);
        for (isa, stores, kernel) in kernels(dtype, op) {
            for (finish, expected) in [(false, &folded), (true, &finished)] {
                let mut buffers: Vec<_> =
                    contents.iter().map(|content| Guarded::new(content, dtype, offset)).collect();
                let pointers: Vec<_> = buffers.iter_mut().map(Guarded::pointer).collect();
                let out = out_is_input.filter(|index| *index < inputs).unwrap_or(inputs);
                let operands: Vec<_> =
                    pointers[..inputs].iter().map(|to| to.cast_const()).collect();
                if finish {
                    // SAFETY: all buffers have `count` aligned elements; `out` is one of them.
                    unsafe { kernel.fold_and_finish(pointers[out], &operands, count, ranks) };
                } else {
                    // SAFETY: as above.
                    unsafe { kernel.fold(pointers[out], &operands, count) };
                }
                let case = format!("{dtype} {op} {isa:?} {stores:?}, finish {finish}, out {out}");
                assert!(buffers[out].elements() == *expected, "{case}: {inputs} x {count}");
            }
        }
    }
}

#[test]
fn finish_divides_in_place_and_only_averages() {
    for (dtype, op) in supported() {
        for (count, ranks) in [(0, 1), (1, 1), (7, 2), (100, 3), (257, 64), (513, 1000)] {
            let content = Bits(u64::from(ranks)).elements(dtype, count);
            let expected = finished(dtype, op, &content, ranks);
            for (isa, stores, kernel) in kernels(dtype, op) {
                let mut data = Guarded::new(&content, dtype, 3);
                // SAFETY: `count` aligned elements of our own.
                unsafe { kernel.finish(data.pointer(), count, ranks) };
                assert!(data.elements() == expected, "{dtype} {op} {isa:?} {stores:?} {count}");
            }
        }
    }
}

#[test]
fn every_half_combines_like_the_reference() {
    let every: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut bits = Bits(1);
    for dtype in [DType::F16, DType::Bf16] {
        let partners = bits.elements(dtype, 24);
        for partner in partners.as_chunks::<2>().0 {
            let partner = partner.repeat(every.len() / 2);
            for op in [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max] {
                let expected = reference(dtype, op, &every, &partner);
                for (isa, _, kernel) in kernels(dtype, op) {
                    let mut out = Guarded::new(&every, dtype, 0);
                    let mut next = Guarded::new(&partner, dtype, 1);
                    let (to, next) = (out.pointer(), next.pointer());
                    // SAFETY: both have 65536 aligned elements.
                    unsafe { kernel.reduce(to, to, next, every.len() / 2) };
                    assert!(out.elements() == expected, "{dtype} {op} {isa:?}");
                }
            }
        }
    }
}

#[test]
fn copies_keep_every_byte_and_touch_no_other() {
    for bytes in [0, 1, 15, 63, 64, 65, 127, 128, 1000, 4096, 10_001] {
        for (to_offset, from_offset) in [(0, 0), (1, 0), (0, 5), (15, 15), (9, 2)] {
            let content = Bits(bytes as u64).elements(DType::U8, bytes);
            for stores in [Stores::Cached, Stores::Streaming] {
                let mut from = Guarded::new(&content, DType::U8, from_offset);
                let mut to = Guarded::new(&vec![0; bytes], DType::U8, to_offset);
                // SAFETY: two buffers of `bytes` bytes.
                unsafe { copy(to.pointer(), from.pointer(), bytes, stores) };
                assert!(to.elements() == content, "{bytes} {to_offset} {from_offset} {stores:?}");
            }
        }
    }
}

#[test]
fn there_is_a_kernel_exactly_for_each_defined_pair() {
    for dtype in DType::ALL {
        for op in ReduceOp::ALL {
            assert_eq!(Kernel::new(dtype, op).is_some(), op.supports(dtype), "{dtype} {op}");
        }
    }
}

#[test]
fn slices_are_reduced_in_and_out_of_place() {
    let kernel = Kernel::new(DType::F32, ReduceOp::Max).unwrap();
    let (mut a, b) = ([1.0_f32, -0.0, f32::NEG_INFINITY], [0.5_f32, 0.0, -3.0]);
    let mut out = [0.0_f32; 3];
    kernel.reduce_into(&mut out, &a, &b);
    kernel.reduce_assign(&mut a, &b);
    assert_eq!(out.map(f32::to_bits), [1.0_f32, 0.0, -3.0].map(f32::to_bits));
    assert_eq!(a.map(f32::to_bits), out.map(f32::to_bits));
}

#[test]
#[should_panic(expected = "differ in length")]
fn slices_of_different_length_are_refused() {
    let kernel = Kernel::new(DType::I32, ReduceOp::Sum).unwrap();
    kernel.reduce_into(&mut [0_i32; 3], &[0; 3], &[0; 2]);
}

#[test]
#[should_panic(expected = "another element type")]
fn slices_of_another_type_are_refused() {
    let kernel = Kernel::new(DType::I32, ReduceOp::Sum).unwrap();
    kernel.reduce_assign(&mut [0_u8; 3], &[0; 3]);
}

//! Reduction kernels against what memory and the second-level cache give.
//!
//! Throughput counts 3n bytes for n bytes per operand: two read, one written. The `floor` entries are
//! the same traffic by hand-written `f32` additions in the widest registers; a kernel is as fast as
//! its memory if it reaches them. From memory there are two floors, for stores through the caches
//! (which read each destination line first) and past them.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use paceline_collectives::kernels::{self, Kernel, Stores};
use paceline_devices::{DType, ReduceOp, bf16, f16};

/// Bytes per operand: two orders of magnitude beyond a second-level cache.
const MEMORY_BYTES: usize = 64 << 20;

/// Bytes per operand such that three fit into a second-level cache of 512 KiB, but no first-level one.
const CACHE_BYTES: usize = 128 << 10;

/// Elements of ordinary values for every type: 1.0 to 1.1 in `f16`, small normal numbers in others.
/// As 64-bit words, which are aligned for all types.
fn operand(bytes: usize) -> Vec<u64> {
    let element = |index: usize| 0x3c00 + (index % 97) as u64;
    (0..bytes / 8).map(|index| element(index) * 0x0001_0001_0001_0001).collect()
}

/// Heap buffers as users have them: aligned as the allocator pleases.
struct Operands {
    out: Vec<u64>,
    a: Vec<u64>,
    b: Vec<u64>,
    bytes: usize,
}

impl Operands {
    fn new(bytes: usize) -> Self {
        Self { out: operand(bytes), a: operand(bytes), b: operand(bytes), bytes }
    }

    fn reduce(&mut self, kernel: &Kernel) {
        let (out, count) = (self.out.as_mut_ptr().cast(), self.bytes / kernel.dtype().size());
        // SAFETY: three separate buffers of `bytes` bytes; 64-bit words are aligned for all types.
        unsafe { kernel.reduce(out, self.a.as_ptr().cast(), self.b.as_ptr().cast(), count) }
    }

    fn reduce_in_place(&mut self, kernel: &Kernel) {
        let (out, count) = (self.out.as_mut_ptr().cast(), self.bytes / kernel.dtype().size());
        // SAFETY: as above; the output may equal one operand.
        unsafe { kernel.reduce(out, out, self.b.as_ptr().cast(), count) }
    }
}

/// The same traffic by hand.
#[cfg(target_arch = "x86_64")]
mod floor {
    use std::arch::x86_64::{
        __m512, _mm_sfence, _mm512_add_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_stream_ps,
    };

    use super::{Operands, Stores};

    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("avx512f")
    }

    /// # Safety
    /// The machine has AVX-512 F; buffers are a multiple of 64 bytes long and larger than that.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add(operands: &mut Operands, stores: Stores, in_place: bool) {
        let bytes = operands.bytes;
        let (out, b) = (operands.out.as_mut_ptr(), operands.b.as_ptr());
        let a = if in_place { out } else { operands.a.as_ptr() };
        // Streaming stores must be aligned; the few bytes before are left out.
        let first = if stores == Stores::Streaming { out.cast::<u8>().align_offset(64) } else { 0 };
        for at in (first..bytes - 63).step_by(64) {
            let (out, a, b) =
                (out.wrapping_byte_add(at), a.wrapping_byte_add(at), b.wrapping_byte_add(at));
            // SAFETY: 64 bytes from `at` lie within the buffer.
            let a: __m512 = unsafe { _mm512_loadu_ps(a.cast()) };
            // SAFETY: as above.
            let b = unsafe { _mm512_loadu_ps(b.cast()) };
            let sum = _mm512_add_ps(a, b);
            if stores == Stores::Streaming {
                // SAFETY: as above, and `first` is such that `out` is aligned.
                unsafe { _mm512_stream_ps(out.cast(), sum) };
            } else {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(out.cast(), sum) };
            }
        }
        _mm_sfence();
    }
}

#[cfg(target_arch = "x86_64")]
fn floors(group: &mut BenchmarkGroup<'_, WallTime>, operands: &mut Operands, kinds: &[Stores]) {
    if !floor::is_available() {
        return;
    }
    for &stores in kinds {
        group.bench_function(format!("floor {stores:?}"), |bencher| {
            // SAFETY: `is_available` said so; the operands are whole kibibytes.
            bencher.iter(|| unsafe { floor::add(black_box(operands), stores, false) });
        });
    }
    group.bench_function("floor in place", |bencher| {
        // SAFETY: as above.
        bencher.iter(|| unsafe { floor::add(black_box(operands), Stores::Cached, true) });
    });
}

#[cfg(not(target_arch = "x86_64"))]
fn floors(_: &mut BenchmarkGroup<'_, WallTime>, _: &mut Operands, _: &[Stores]) {}

fn every_kernel(criterion: &mut Criterion, name: &str, bytes: usize, kinds: &[Stores]) {
    let mut operands = Operands::new(bytes);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::BytesDecimal(3 * bytes as u64));
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(600));
    floors(&mut group, &mut operands, kinds);
    for dtype in DType::ALL {
        // The bitwise operators work on bytes whatever the type; the logical ones are much alike.
        let ops = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Prod, ReduceOp::LogicalAnd];
        for (op, kernel) in ops.into_iter().filter_map(|op| Some((op, Kernel::new(dtype, op)?))) {
            for &stores in kinds {
                let kernel = kernel.clone().with_stores(stores);
                group.bench_function(format!("{dtype} {op} {stores:?}"), |bencher| {
                    bencher.iter(|| black_box(&mut operands).reduce(&kernel));
                });
            }
        }
        let kernel = Kernel::new(dtype, ReduceOp::Max).expect("defined for all types");
        group.bench_function(format!("{dtype} max in place"), |bencher| {
            bencher.iter(|| black_box(&mut operands).reduce_in_place(&kernel));
        });
    }
    group.finish();
}

/// Four operands in one pass; throughput counts them and the result, as a floor would.
fn folds(criterion: &mut Criterion) {
    let operands = [(); 4].map(|()| operand(CACHE_BYTES / 2));
    let inputs = operands.each_ref().map(|operand| operand.as_ptr().cast::<u8>());
    let mut out = operand(CACHE_BYTES / 2);
    let mut group = criterion.benchmark_group("fold of four from L2");
    group.throughput(Throughput::BytesDecimal(5 * CACHE_BYTES as u64 / 2));
    for dtype in DType::ALL {
        let Some(kernel) = Kernel::new(dtype, ReduceOp::Sum) else { continue };
        group.bench_function(dtype.name(), |bencher| {
            let count = CACHE_BYTES / 2 / dtype.size();
            let out = black_box(&mut out).as_mut_ptr().cast();
            // SAFETY: five separate buffers of `count` elements.
            bencher.iter(|| unsafe { kernel.fold(out, black_box(&inputs), count) });
        });
    }
    group.finish();
}

/// Between `f32` and the halves; throughput counts what is read and what is written.
fn conversions(criterion: &mut Criterion) {
    for (name, bytes) in [("from memory", MEMORY_BYTES), ("from L2", CACHE_BYTES)] {
        let mut numbers = vec![1.0_f32; bytes / 4];
        let (mut f16s, mut bf16s) = (vec![f16::ONE; bytes / 4], vec![bf16::ONE; bytes / 4]);
        let mut group = criterion.benchmark_group(format!("conversion {name}"));
        group.throughput(Throughput::BytesDecimal(bytes as u64 / 2 * 3));
        group.sample_size(10);
        group.bench_function("f32 to f16", |bencher| {
            bencher.iter(|| kernels::narrow(black_box(&mut f16s), black_box(&numbers), 1.0));
        });
        group.bench_function("f32 to bf16", |bencher| {
            bencher.iter(|| kernels::narrow(black_box(&mut bf16s), black_box(&numbers), 1.0));
        });
        group.bench_function("f16 to f32", |bencher| {
            bencher.iter(|| kernels::widen(black_box(&mut numbers), black_box(&f16s), 1.0));
        });
        group.bench_function("bf16 to f32", |bencher| {
            bencher.iter(|| kernels::widen(black_box(&mut numbers), black_box(&bf16s), 1.0));
        });
        group.finish();
    }
}

/// Out of an arena in cache into a large buffer, piece by piece; throughput counts 2n.
fn copies(criterion: &mut Criterion) {
    const PIECE_BYTES: usize = 1 << 20;
    let (from, mut to) = (operand(PIECE_BYTES), operand(MEMORY_BYTES));
    let mut group = criterion.benchmark_group("copy of 1 MiB pieces to memory");
    group.throughput(Throughput::BytesDecimal(2 * MEMORY_BYTES as u64));
    group.sample_size(10);
    for stores in [Stores::Cached, Stores::Streaming] {
        group.bench_function(format!("{stores:?}"), |bencher| {
            bencher.iter(|| {
                for piece in to.chunks_exact_mut(PIECE_BYTES / 8) {
                    let (to, from) = (piece.as_mut_ptr().cast(), black_box(&from).as_ptr().cast());
                    // SAFETY: both have the length of a piece.
                    unsafe { kernels::copy(to, from, PIECE_BYTES, stores) };
                }
            });
        });
    }
    group.finish();
}

/// What an operation pays beside the elements: to find a kernel, and to call it for one element.
fn overheads(criterion: &mut Criterion) {
    criterion.bench_function("find a kernel", |bencher| {
        bencher.iter(|| Kernel::new(black_box(DType::F32), black_box(ReduceOp::Sum)));
    });
    let kernel = Kernel::new(DType::F32, ReduceOp::Sum).expect("defined for floats");
    let (mut all, next) = ([1.0_f32], [0.0_f32]);
    criterion.bench_function("reduce one element", |bencher| {
        bencher.iter(|| kernel.reduce_assign(black_box(&mut all), black_box(&next)));
    });
}

fn all(criterion: &mut Criterion) {
    every_kernel(criterion, "from memory", MEMORY_BYTES, &[Stores::Cached, Stores::Streaming]);
    every_kernel(criterion, "from L2", CACHE_BYTES, &[Stores::Cached]);
    folds(criterion);
    conversions(criterion);
    copies(criterion);
    overheads(criterion);
}

criterion_group!(benches, all);
criterion_main!(benches);

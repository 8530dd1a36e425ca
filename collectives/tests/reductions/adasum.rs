use paceline_collectives::{
    CollectiveError, Communicator, Element, Float, ReduceOp, TransportKind, bf16, f16,
};

use super::{every_way, number, over, world};

/// A float as a test sees it.
trait Number: Float {
    /// What a result may be off by, for numbers around 1, after some levels of the tree.
    const TOLERANCE: f64;

    fn new(value: f64) -> Self;
    fn value(self) -> f64;
}

macro_rules! numbers {
    ($($float:ty: $tolerance:expr, $new:expr, $value:expr;)*) => {$(
        impl Number for $float {
            const TOLERANCE: f64 = $tolerance;

            fn new(value: f64) -> Self {
                let new: fn(f64) -> Self = $new;
                new(value)
            }

            fn value(self) -> f64 {
                let value: fn(Self) -> f64 = $value;
                value(self)
            }
        }
    )*};
}

#[expect(clippy::cast_possible_truncation, reason = "any number will do")]
fn single(value: f64) -> f32 {
    value as f32
}

numbers! {
    f64: 1e-13, |value| value, |float| float;
    f32: 1e-5, single, f64::from;
    f16: 0.03, f16::from_f64, f16::to_f64;
    bf16: 0.2, bf16::from_f64, bf16::to_f64;
}

fn data<T: Number>(rank: u32, count: usize) -> Vec<T> {
    (0..count).map(|index| T::new(number(rank, index))).collect()
}

/// The definition: neighbours are combined, then the results, and who has no partner goes on.
fn reference(mut vectors: Vec<Vec<f64>>) -> Vec<f64> {
    while vectors.len() > 1 {
        let combine = |pair: &[Vec<f64>]| match pair {
            [a, b] => {
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let (ab, aa, bb) = (dot(a, b), dot(a, a), dot(b, b));
                let share = |norm: f64| if norm > 0.0 { 1.0 - ab / (2.0 * norm) } else { 1.0 };
                a.iter().zip(b).map(|(a, b)| share(aa) * a + share(bb) * b).collect()
            }
            alone => alone[0].clone(),
        };
        vectors = vectors.chunks(2).map(combine).collect();
    }
    vectors.remove(0)
}

fn exact<T: Number>(ranks: u32, count: usize) -> Vec<f64> {
    let values = |rank| data::<T>(rank, count).into_iter().map(T::value).collect();
    reference((0..ranks).map(values).collect())
}

fn bits<T: Element>(data: &[T]) -> Vec<u8> {
    format!("{data:?}").into_bytes()
}

fn check<T: Number>(communicator: &Communicator, count: usize) -> Vec<u8> {
    let mut result = data::<T>(communicator.rank(), count);
    communicator.all_reduce_adasum(&mut result).unwrap();
    let want = exact::<T>(communicator.world_size(), count);
    for (index, (got, want)) in result.iter().zip(&want).enumerate() {
        let got = got.value();
        let case = (T::DTYPE, communicator.world_size(), count, index);
        assert!((got - want).abs() <= T::TOLERANCE * want.abs().max(1.0), "{case:?}: {got} {want}");
    }
    bits(&result)
}

#[test]
fn it_is_what_the_definition_says_and_the_same_everywhere() {
    for world_size in 1..=7 {
        let runs = every_way().map(|options| {
            let results = world(world_size, &options, |communicator| {
                let counts = [0, 1, 6, 7, 8, 100, 1021, 20_160];
                let of_all = counts.map(|count| {
                    let floats =
                        [check::<f64>(communicator, count), check::<f32>(communicator, count)];
                    let halves =
                        [check::<f16>(communicator, count), check::<bf16>(communicator, count)];
                    [floats.concat(), halves.concat()].concat()
                });
                of_all.concat()
            });
            assert!(results.iter().all(|bits| *bits == results[0]), "ranks differ");
            results[0].clone()
        });
        assert!(runs.iter().all(|bits| *bits == runs[0]), "transports differ");
    }
}

#[test]
fn fusing_tensors_changes_no_bit() {
    for options in every_way() {
        for world_size in [2, 3, 4] {
            world(world_size, &options, |communicator| {
                // Together they are more than is staged at once, and one of them is alone.
                let counts = [5, 0, 3000, 7, 1_100_000, 64, 900_001, 1];
                let tensors = counts.map(|count| data::<f32>(communicator.rank(), count));
                let mut fused = tensors.clone();
                let mut slices = fused.each_mut().map(Vec::as_mut_slice);
                communicator.all_reduce_adasum_fused(&mut slices).unwrap();
                for (mut alone, fused) in tensors.into_iter().zip(&fused) {
                    communicator.all_reduce_adasum(&mut alone).unwrap();
                    assert!(alone == *fused, "{} elements of {world_size}", alone.len());
                }
                communicator.all_reduce_adasum_fused::<f32>(&mut []).unwrap();
            });
        }
    }
}

/// One result of what the ranks contribute.
fn combined(world_size: u32, input: impl Fn(u32) -> Vec<f64> + Sync) -> Vec<f64> {
    let results = world(world_size, &over(TransportKind::Shm), |communicator| {
        let mut data = input(communicator.rank());
        communicator.all_reduce_adasum(&mut data).unwrap();
        data
    });
    results[0].clone()
}

#[test]
fn orthogonal_gradients_add() {
    let basis = |rank: u32| (0..5).map(|at| f64::from(u8::from(at == rank))).collect();
    for world_size in 2..=5 {
        let sum = combined(world_size, basis);
        let want: Vec<f64> = (0..5).map(|at| f64::from(u8::from(at < world_size))).collect();
        assert_eq!(sum, want);
    }
}

#[test]
fn parallel_gradients_are_averaged() {
    for world_size in 2..=6 {
        assert_eq!(combined(world_size, |_| vec![3.0, -1.5, 8.0]), [3.0, -1.5, 8.0]);
    }
    // Of two that point the same way: (1 - 1/2 · 2) a + (1 - 1/4) b = 3/4 b = 3/2 a, where b = 2 a.
    let scaled = combined(2, |rank| vec![f64::from(rank + 1), f64::from(4 * (rank + 1))]);
    assert_eq!(scaled, [1.5, 6.0]);
}

#[test]
fn zeros_change_nothing_and_a_common_factor_goes_through() {
    let gradient = |rank: u32| (0..9).map(|at| number(rank, at)).collect::<Vec<f64>>();
    let with_zeros = |rank: u32| if rank == 1 { vec![0.0; 9] } else { gradient(rank) };
    assert_eq!(combined(2, with_zeros), gradient(0));
    let plain = combined(4, gradient);
    // Powers of two scale without rounding, also far from 1.
    for factor in [2f64.powi(-200), 2f64.powi(300)] {
        let scale = |all: &[f64]| all.iter().map(|element| element * factor).collect::<Vec<_>>();
        assert_eq!(combined(4, |rank| scale(&gradient(rank))), scale(&plain));
    }
}

#[test]
fn what_is_no_number_reaches_all_ranks() {
    let results = world(3, &over(TransportKind::Tcp), |communicator| {
        let mut data = vec![1.0f32; 40];
        if communicator.rank() == 1 {
            data[17] = f32::NAN;
        }
        communicator.all_reduce_adasum(&mut data).unwrap();
        data
    });
    // The products are of the whole vector.
    assert!(results.iter().flatten().all(|element| element.is_nan()), "{results:?}");
}

#[test]
fn another_call_elsewhere_is_named() {
    for options in every_way() {
        let errors = world(2, &options, |communicator| {
            let mut data = [1.0f32; 64];
            if communicator.rank() == 0 {
                communicator.all_reduce_adasum(&mut data).unwrap_err()
            } else {
                communicator.all_reduce(&mut data, ReduceOp::Sum).unwrap_err()
            }
        });
        let told = errors.iter().find_map(|error| match error {
            CollectiveError::Mismatch { .. } => Some(error.to_string()),
            _ => None,
        });
        let told = told.unwrap();
        assert!(
            told.contains("adasum #0 (64 f32") || told.contains("called adasum (64 f32"),
            "{told}"
        );
        assert!(told.contains("all_reduce"), "{told}");
    }
    let errors = world(2, &over(TransportKind::Tcp), |communicator| {
        let mut data = vec![1.0f32; 100 + communicator.rank() as usize];
        communicator.all_reduce_adasum(&mut data).unwrap_err()
    });
    assert!(errors.iter().any(|error| error.to_string().contains("101 f32")), "{errors:?}");
}

use super::reference::scaled;
use super::*;
use crate::kernels::Scaler;

const FACTORS: [f64; 9] = [1.0, -1.0, 0.0, 0.5, 1.0 / 3.0, 1e-30, 1e30, f64::INFINITY, f64::NAN];

fn floats() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| dtype.is_float())
}

#[test]
fn every_scaler_equals_the_reference() {
    for (dtype, factor) in floats().flat_map(|dtype| FACTORS.map(|factor| (dtype, factor))) {
        for (count, offset) in [(0, 0), (1, 3), (15, 1), (17, 0), (257, 5), (2049, 2)] {
            let content = Bits(count as u64).elements(dtype, count);
            let expected = scaled(dtype, &content, factor);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let scaler = Scaler::with_isa(dtype, factor, isa).unwrap();
                let mut data = Guarded::new(&content, dtype, offset);
                // SAFETY: `count` aligned elements of our own.
                unsafe { scaler.scale(data.pointer(), count) };
                assert!(data.elements() == expected, "{dtype} * {factor} {isa:?} {count}");
            }
        }
    }
}

#[test]
fn integers_and_truth_values_have_no_scale() {
    for dtype in DType::ALL {
        assert_eq!(Scaler::new(dtype, 0.5).is_some(), dtype.is_float(), "{dtype}");
    }
}

/// A post-scale comes once, after the division of an average, whichever function finishes.
#[test]
fn a_kernel_scales_what_it_finishes() {
    let (count, ranks) = (1500, 3);
    for (dtype, op) in supported().filter(|(dtype, _)| dtype.is_float()) {
        let mut bits = Bits(7);
        let contents = [(); 3].map(|()| bits.elements(dtype, count));
        let two = reference(dtype, op, &contents[0], &contents[1]);
        let folded = reference(dtype, op, &two, &contents[2]);
        let expected = scaled(dtype, &finished(dtype, op, &folded, ranks), 0.7);
        for (isa, stores, kernel) in kernels(dtype, op) {
            let kernel = kernel.with_postscale(Scaler::with_isa(dtype, 0.7, isa).unwrap());
            let [mut a, mut b, mut c] =
                contents.each_ref().map(|content| Guarded::new(content, dtype, 1));
            let mut out = Guarded::new(&contents[0], dtype, 0);
            let inputs = [&mut a, &mut b, &mut c].map(|input| input.pointer().cast_const());
            // SAFETY: four buffers of `count` aligned elements.
            unsafe { kernel.fold_and_finish(out.pointer(), &inputs, count, ranks) };
            assert!(out.elements() == expected, "{dtype} {op} {isa:?} {stores:?} at once");
            let to = out.pointer();
            // SAFETY: as above.
            unsafe { kernel.fold(to, &inputs, count) };
            assert!(out.elements() == folded, "{dtype} {op} {isa:?} {stores:?} unfinished");
            // SAFETY: as above.
            unsafe { kernel.finish(to, count, ranks) };
            assert!(out.elements() == expected, "{dtype} {op} {isa:?} {stores:?} afterwards");
        }
    }
}

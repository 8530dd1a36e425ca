use std::ptr;

use paceline_devices::{DType, Element};

use super::level::Isa;
use super::stream;
use super::table::{MultiplyFn, multiply_function};

/// Multiplies elements by a factor.
///
/// The factor is rounded to the type that elements are computed in, `f64` or `f32`, once; each
/// product is rounded once to nearest even, halves from `f32`. A product that is NaN is the canonical
/// one.
#[derive(Clone, Copy, Debug)]
pub struct Scaler {
    dtype: DType,
    multiply: MultiplyFn,
    factor: f64,
}

impl Scaler {
    /// The fastest of this machine; `None` for elements that are no floats.
    pub fn new(dtype: DType, factor: f64) -> Option<Self> {
        Self::with_isa(dtype, factor, Isa::best())
    }

    /// The one for one instruction set, for tests and comparisons. `None` also where the machine
    /// lacks it.
    pub fn with_isa(dtype: DType, factor: f64, isa: Isa) -> Option<Self> {
        let multiply = multiply_function(dtype, isa)?;
        Some(Self { dtype, multiply, factor })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The type that elements are computed in.
    pub fn precision(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// The factor as it is applied: rounded to [`Scaler::precision`].
    #[expect(clippy::cast_possible_truncation, reason = "as the kernels round it")]
    pub fn factor(&self) -> f64 {
        match self.precision() {
            DType::F32 => f64::from(self.factor as f32),
            _ => self.factor,
        }
    }

    /// `data[i] = data[i] * factor`, for `i` in `0..count`.
    ///
    /// # Safety
    /// `data` points to `count` elements of [`Scaler::dtype`], aligned for it, valid for reads and
    /// writes, and nobody else accesses them meanwhile. With `count` 0 any pointer will do.
    pub unsafe fn scale(&self, data: *mut u8, count: usize) {
        // SAFETY: `with_isa` chose a function that this machine can run; all else is up to the
        // caller.
        unsafe { (self.multiply)(data, count, self.factor) }
    }

    /// `out[i] = input[i] * factor`, for `i` in `0..count`, in one pass.
    ///
    /// # Safety
    /// Both point to `count` elements of [`Scaler::dtype`], aligned for it; `out` is valid for
    /// writes, `input` for reads; the two are equal or do not overlap. Nobody else writes to them or
    /// reads `out` meanwhile.
    pub unsafe fn scale_into(&self, out: *mut u8, input: *const u8, count: usize) {
        if ptr::eq(out, input) {
            // SAFETY: the conditions are those of this function.
            return unsafe { self.scale(out, count) };
        }
        let size = self.dtype.size();
        let mut done = 0;
        while done < count {
            let (out, input) = (out.wrapping_add(done * size), input.wrapping_add(done * size));
            let block = stream::block_length(out, size).min(count - done);
            // SAFETY: the block lies within both buffers, which do not overlap.
            unsafe { ptr::copy_nonoverlapping(input, out, block * size) };
            // SAFETY: the block that was just written, still in the first-level cache.
            unsafe { self.scale(out, block) };
            done += block;
        }
    }

    /// `data[i] = data[i] * factor`.
    ///
    /// # Panics
    /// If `T` is not the scaler's type.
    pub fn scale_slice<T: Element>(&self, data: &mut [T]) {
        assert_eq!(T::DTYPE, self.dtype, "the scaler is for another element type");
        // SAFETY: the slice has the scaler's type, and `&mut` overlaps nothing.
        unsafe { self.scale(data.as_mut_ptr().cast(), data.len()) }
    }
}

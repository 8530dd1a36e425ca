use paceline_devices::{DType, Element};

use super::level::Isa;
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

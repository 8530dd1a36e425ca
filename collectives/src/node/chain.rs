//! Left folds of several operands.

use crate::kernels::Kernel;

/// `output = ((x0 op x1) op x2) …`, divided by the number of operands for an average.
///
/// Intermediate values go to `scratch`. It may be `output` if no operand is; either way it should be
/// small enough to stay in the first-level cache.
///
/// # Safety
/// All pointers are aligned for the kernel's type; operands are valid for reads and `scratch` and
/// `output` for writes of `count` elements. `output` equals at most one operand, `scratch` none, and
/// nothing else overlaps. Nobody else writes to the operands or accesses the other two.
pub(super) unsafe fn fold_chain(
    kernel: &Kernel,
    output: *mut u8,
    scratch: *mut u8,
    operands: &[*const u8],
    count: usize,
) {
    let last = operands.len() - 1;
    let mut accumulated = operands[0];
    if last == 0 {
        // SAFETY: a single operand is valid, and may be the output itself.
        unsafe { std::ptr::copy(accumulated, output, count * kernel.dtype().size()) };
    }
    for (place, next) in operands.iter().enumerate().skip(1) {
        let to = if place == last { output } else { scratch };
        // SAFETY: the caller vouches for the operands; `to` equals the accumulated value, the next
        // operand, or neither, never both.
        unsafe { kernel.reduce(to, accumulated, *next, count) };
        accumulated = to;
    }
    let ranks = u32::try_from(operands.len()).expect("members are counted in u32");
    // SAFETY: `output` holds the fold of `count` elements.
    unsafe { kernel.finish(output, count, ranks) };
}

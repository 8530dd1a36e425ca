//! How vectors are reduced: an operator, and the factors around it.

use paceline_devices::{DType, Element, ReduceOp};

use crate::kernels::{Kernel, Scaler, UserOp};

/// How the vectors of all ranks become one.
///
/// Every call that reduces takes anything that can become a reduction: a [`ReduceOp`], a [`UserOp`],
/// or one of them with factors.
///
/// ```
/// use paceline_collectives::{Context, ReduceOp, Reduction};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let communicator = Context::from_environment()?.communicator()?;
/// let mut gradients = [1.0f32; 8];
/// communicator.all_reduce(&mut gradients, ReduceOp::Sum)?;
/// communicator.all_reduce(&mut gradients, Reduction::new(ReduceOp::Sum).postscale(0.5))?;
/// # assert_eq!(gradients, [0.5; 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Reduction<T> {
    operator: Operator<T>,
    scale: Scale,
}

#[derive(Clone, Debug)]
enum Operator<T> {
    BuiltIn(ReduceOp),
    User(UserOp<T>),
}

/// Factors before and after a reduction of floats; all ranks must pass the same.
///
/// Factors are rounded to the type that elements are computed in: `f64` for `f64`, else `f32`. Every
/// rank's element is multiplied once before it is combined with any other, every result once after
/// the last combination (and after the division of an average), and each product is rounded to the
/// element type. So the result has the same bits whatever the algorithm, as without factors.
///
/// A factor after costs next to nothing: results are multiplied where they are made, in the caches.
/// A factor before costs a pass over the elements, in place where the result replaces them and
/// otherwise on the way into other memory. A factor of 1 costs nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// What elements are multiplied by; Horovod's `prescale_factor`.
    pub before: f64,
    /// What results are multiplied by; Horovod's `postscale_factor`.
    pub after: f64,
}

impl Default for Scale {
    /// Both factors are 1.
    fn default() -> Self {
        Self { before: 1.0, after: 1.0 }
    }
}

impl<T> Reduction<T> {
    /// By a built-in operator.
    pub fn new(op: ReduceOp) -> Self {
        Self { operator: Operator::BuiltIn(op), scale: Scale::default() }
    }

    /// By a built-in operator, with factors.
    pub(crate) fn scaled_by(op: ReduceOp, scale: Scale) -> Self {
        Self { operator: Operator::BuiltIn(op), scale }
    }

    /// By an operator of the user's.
    pub fn user(op: UserOp<T>) -> Self {
        Self { operator: Operator::User(op), scale: Scale::default() }
    }

    /// What ranks must agree on: the operator, or the name of the user's, and the factors.
    pub(crate) fn facts(&self) -> (Option<ReduceOp>, Option<&str>, Scale) {
        match &self.operator {
            Operator::BuiltIn(op) => (Some(*op), None, self.scale),
            Operator::User(user) => (None, Some(user.name()), self.scale),
        }
    }

    /// Multiplies every element by `factor` before it is reduced. Floats only.
    #[must_use]
    pub fn prescale(self, factor: f64) -> Self {
        Self { scale: Scale { before: factor, ..self.scale }, ..self }
    }

    /// Multiplies every result by `factor`. Floats only.
    #[must_use]
    pub fn postscale(self, factor: f64) -> Self {
        Self { scale: Scale { after: factor, ..self.scale }, ..self }
    }
}

impl<T> From<ReduceOp> for Reduction<T> {
    fn from(op: ReduceOp) -> Self {
        Self::new(op)
    }
}

impl<T> From<UserOp<T>> for Reduction<T> {
    fn from(op: UserOp<T>) -> Self {
        Self::user(op)
    }
}

impl<T> From<&UserOp<T>> for Reduction<T> {
    fn from(op: &UserOp<T>) -> Self {
        Self::user(op.clone())
    }
}

/// What carries out a reduction of elements of one type.
#[derive(Clone, Debug)]
pub(crate) struct Reducer {
    /// `None` for an operator of the user's.
    pub(crate) op: Option<ReduceOp>,
    /// Post-scales, too.
    pub(crate) kernel: Kernel,
    pub(crate) prescale: Option<Scaler>,
    /// What the kernel and the scaler have been told.
    scale: Scale,
    /// A digest of what the operator's code does not say: the name of the user's, and the factors.
    /// All ranks must share it; 0 for a plain built-in operator.
    pub(crate) variant: u16,
}

impl Reducer {
    /// # Errors
    /// A sentence that says what is not defined for the type.
    #[inline]
    pub(crate) fn new(op: ReduceOp, scale: Scale, dtype: DType) -> Result<Self, String> {
        let kernel = Kernel::new(dtype, op).ok_or_else(|| undefined(op, dtype))?;
        let plain =
            Self { op: Some(op), kernel, prescale: None, scale: Scale::default(), variant: 0 };
        plain.scaled(scale, &[])
    }

    /// # Errors
    /// As for [`Reducer::new`].
    #[inline]
    pub(crate) fn typed<T: Element>(reduction: &Reduction<T>) -> Result<Self, String> {
        match &reduction.operator {
            Operator::BuiltIn(op) => Self::new(*op, reduction.scale, T::DTYPE),
            Operator::User(user) => {
                let kernel = Kernel::user(user);
                let variant = digest(user.name().bytes());
                let plain =
                    Self { op: None, kernel, prescale: None, scale: Scale::default(), variant };
                plain.scaled(reduction.scale, user.name().as_bytes())
            }
        }
    }

    /// The same without the factor before, for elements that were multiplied.
    pub(crate) fn of_prescaled(&self) -> Self {
        Self { prescale: None, ..self.clone() }
    }

    /// What travels as a digest only, for people; `None` for a plain built-in operator.
    pub(crate) fn details(&self) -> Option<String> {
        let Scale { before, after } = self.scale;
        let factors = || format!("the factors are {before} and {after}");
        let is_scaled = self.scale != Scale::default();
        match self.kernel.user_name() {
            Some(name) if is_scaled => Some(format!("the operator is {name}, {}", factors())),
            Some(name) => Some(format!("the operator is {name}")),
            None => is_scaled.then(factors),
        }
    }

    #[inline]
    fn scaled(self, scale: Scale, name: &[u8]) -> Result<Self, String> {
        if scale == Scale::default() {
            return Ok(self);
        }
        let dtype = self.kernel.dtype();
        let scaler = |factor: f64| {
            let scaler = Scaler::new(dtype, factor)
                .ok_or_else(|| format!("a scale is not defined for {dtype}; only for floats"))?;
            if !scaler.factor().is_finite() {
                return Err(format!(
                    "the factor {factor:e} is no number in {}",
                    scaler.precision()
                ));
            }
            Ok((scaler.factor() != 1.0).then_some(scaler))
        };
        let factors = [scale.before, scale.after].map(f64::to_le_bytes);
        let variant = digest(name.iter().copied().chain(factors.into_iter().flatten()));
        let kernel = match scaler(scale.after)? {
            Some(scaler) => self.kernel.with_postscale(scaler),
            None => self.kernel,
        };
        Ok(Self { kernel, prescale: scaler(scale.before)?, scale, variant, ..self })
    }
}

/// What carries out a reduction of `f32` that are halves on the wire: factors apply to the `f32`.
#[derive(Clone, Debug)]
pub(crate) struct CompressedReducer {
    /// Of the halves, without factors, but with a variant that tells of them.
    pub(crate) halves: Reducer,
    pub(crate) before: f32,
    pub(crate) after: f32,
}

impl CompressedReducer {
    /// # Errors
    /// As for [`Reducer::new`].
    #[expect(
        clippy::cast_possible_truncation,
        reason = "factors are rounded to what they apply to"
    )]
    pub(crate) fn new(reduction: &Reduction<f32>, half: DType) -> Result<Self, String> {
        let Operator::BuiltIn(op) = reduction.operator else {
            return Err(format!("an operator of the user's on f32 cannot combine {half}"));
        };
        let Reducer { variant, scale, .. } = Reducer::typed(reduction)?;
        let halves = Reducer { variant, scale, ..Reducer::new(op, Scale::default(), half)? };
        let Scale { before, after } = reduction.scale;
        Ok(Self { halves, before: before as f32, after: after as f32 })
    }
}

#[cold]
fn undefined(op: ReduceOp, dtype: DType) -> String {
    let defined: Vec<&str> = ReduceOp::defined_for(dtype).map(ReduceOp::name).collect();
    format!("{op} is not defined for {dtype}, which has {}", defined.join(", "))
}

/// FNV-1a, folded to 16 bits, and never 0.
fn digest(bytes: impl Iterator<Item = u8>) -> u16 {
    let hash = bytes
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [a, b, c, d] = hash.to_le_bytes();
    u16::from_le_bytes([a ^ c, b ^ d]).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(reduction: Reduction<f32>) -> u16 {
        Reducer::typed(&reduction).unwrap().variant
    }

    #[test]
    fn names_and_factors_tell_reductions_apart() {
        let sum = || Reduction::new(ReduceOp::Sum);
        let user = |name: &str| Reduction::user(UserOp::new(name, |_: &mut [f32], _: &[f32]| {}));
        let variants = [
            variant(sum()),
            variant(sum().prescale(0.5)),
            variant(sum().postscale(0.5)),
            variant(sum().prescale(0.5).postscale(0.5)),
            variant(user("a")),
            variant(user("b")),
            variant(user("a").postscale(0.5)),
        ];
        assert_eq!(variants[0], 0);
        for (index, variant) in variants.iter().enumerate() {
            assert!(!variants[..index].contains(variant), "{variants:?}");
        }
        assert_eq!(variant(sum().prescale(1.0).postscale(1.0)), 0);
    }

    #[test]
    fn what_is_undefined_is_refused_by_name() {
        let reducer = |op, before, dtype| Reducer::new(op, Scale { before, after: 1.0 }, dtype);
        let text = |op, before, dtype| reducer(op, before, dtype).unwrap_err();
        let average = text(ReduceOp::Avg, 1.0, DType::I16);
        assert!(average.starts_with("avg is not defined for i16, which has sum, min"), "{average}");
        assert!(text(ReduceOp::BitXor, 1.0, DType::Bf16).contains("bxor is not defined for bf16"));
        assert!(text(ReduceOp::Sum, 1.0, DType::Bool).contains("sum is not defined for bool"));
        assert!(text(ReduceOp::Sum, 0.5, DType::I32).contains("a scale is not defined for i32"));
        // Finite, but not among the numbers that halves are computed in.
        assert!(text(ReduceOp::Sum, 1e300, DType::F16).contains("1e300"));
        assert!(text(ReduceOp::Sum, f64::NAN, DType::F64).contains("NaN"));
        assert!(reducer(ReduceOp::Sum, 1e300, DType::F64).unwrap().prescale.is_some());
    }
}

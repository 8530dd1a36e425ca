use std::fmt;
use std::hash::{Hash, Hasher};

/// A truth value in one byte, of which every value means something: 0 is false, all else true.
///
/// The collectives take this instead of [`bool`], of which only the bytes 0 and 1 are values: what
/// a peer sends lands in the caller's memory as it is, and must not be undefined behaviour there.
/// A `bool` can be lent as it is where it is only read: see [`Bool::from_bools`].
///
/// Two are equal if both are true or both false. Operators make 0 and 1 only; collectives that move
/// elements move bytes.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct Bool(u8);

impl Bool {
    /// False, as the byte 0.
    pub const FALSE: Self = Self(0);

    /// True, as the byte 1.
    pub const TRUE: Self = Self(1);

    /// What it says.
    pub const fn is_true(self) -> bool {
        self.0 != 0
    }

    /// A byte as a truth value; [`to_byte`](Self::to_byte) gives it back as it was.
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// The byte in memory.
    pub const fn to_byte(self) -> u8 {
        self.0
    }

    /// The same memory, as elements that can be reduced.
    pub const fn from_bools(bools: &[bool]) -> &[Self] {
        // SAFETY: both are one byte, every value of `bool` is one of `Bool`, and a shared slice
        // can only be read.
        unsafe { std::slice::from_raw_parts(bools.as_ptr().cast(), bools.len()) }
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Self(u8::from(value))
    }
}

impl From<Bool> for bool {
    fn from(value: Bool) -> Self {
        value.is_true()
    }
}

impl PartialEq for Bool {
    fn eq(&self, other: &Self) -> bool {
        self.is_true() == other.is_true()
    }
}

impl Eq for Bool {}

impl Hash for Bool {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.is_true().hash(state);
    }
}

impl fmt::Debug for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.is_true(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_a_truth_value() {
        for byte in 0..=u8::MAX {
            let value = Bool::from_byte(byte);
            assert_eq!(bool::from(value), byte != 0);
            assert_eq!(value, Bool::from(byte != 0));
            assert_eq!(value.to_byte(), byte);
        }
        assert_eq!((Bool::FALSE.to_byte(), Bool::TRUE.to_byte()), (0, 1));
    }

    #[test]
    fn bools_are_lent_without_a_copy() {
        let bools = [true, false, true];
        let lent = Bool::from_bools(&bools);
        assert_eq!(lent, [Bool::TRUE, Bool::FALSE, Bool::TRUE]);
        assert!(std::ptr::addr_eq(lent.as_ptr(), bools.as_ptr()));
    }
}

use std::ops::Range;
use std::ptr::NonNull;

use crate::{DType, Element};

/// Where elements lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Memory {
    /// In this process's address space, from this byte on.
    Host(NonNull<u8>),
}

/// Elements of one type, one behind the other: a slice without its type and lifetime.
///
/// A buffer says where elements are; it gives no right to touch them. Who may, and for how long, is
/// the contract of what it is passed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The memory, which is aligned for the elements.
    pub memory: Memory,
    /// Elements of the memory that come before the first one of the buffer.
    pub offset: usize,
    /// How many elements the buffer has.
    pub count: usize,
    /// What they are.
    pub dtype: DType,
}

impl Buffer {
    /// The elements of a slice, to be read.
    pub fn of<T: Element>(elements: &[T]) -> Self {
        Self::host(NonNull::from(elements).cast(), elements.len(), T::DTYPE)
    }

    /// The elements of a slice, to be read and written.
    pub fn of_mut<T: Element>(elements: &mut [T]) -> Self {
        let count = elements.len();
        Self::host(NonNull::from(elements).cast(), count, T::DTYPE)
    }

    /// A buffer of no elements.
    pub const fn empty(dtype: DType) -> Self {
        // As aligned as the widest element.
        Self::host(NonNull::<u64>::dangling().cast(), 0, dtype)
    }

    const fn host(start: NonNull<u8>, count: usize, dtype: DType) -> Self {
        Self { memory: Memory::Host(start), offset: 0, count, dtype }
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// When the range does not lie in the buffer.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.count, "part outside its buffer");
        Self { offset: self.offset + range.start, count: range.len(), ..self }
    }

    /// The first byte in this process's address space.
    pub fn host_address(&self) -> *mut u8 {
        let Memory::Host(start) = self.memory;
        start.as_ptr().wrapping_add(self.offset * self.dtype.size())
    }

    /// Bytes of all elements.
    pub const fn bytes(&self) -> usize {
        self.count * self.dtype.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_parts_are_counted_in_elements() {
        let mut elements = [1.0f64, 2.0, 3.0, 4.0, 5.0];
        let whole = Buffer::of_mut(&mut elements);
        assert_eq!((whole.count, whole.bytes(), whole.dtype), (5, 40, DType::F64));
        let part = whole.part(1..5).part(2..3);
        assert_eq!((part.offset, part.count), (3, 1));
        assert!(std::ptr::eq(part.host_address(), elements[3..].as_ptr().cast()));
        assert_eq!(Buffer::of(&elements), whole);
        assert_eq!(Buffer::empty(DType::F32).bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "part outside")]
    fn a_part_does_not_reach_beyond_its_buffer() {
        let _ = Buffer::of(&[1u8, 2]).part(1..3);
    }
}

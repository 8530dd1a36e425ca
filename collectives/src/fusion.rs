//! Several tensors in one buffer, laid out chunk by chunk (see [`Partition::fused`]).

use std::ops::Range;

use paceline_devices::Element;

use crate::error::CollectiveError;
use crate::schedule::Partition;

/// The staging buffer of fused operations. It grows to the largest operation and stays.
#[derive(Debug, Default)]
pub(crate) struct FusionBuffer {
    /// Words, so that every element type is aligned in it.
    words: Vec<u64>,
}

impl FusionBuffer {
    /// Copies the tensors in and returns the elements.
    pub(crate) fn gather<T: Element>(
        &mut self,
        tensors: &[&mut [T]],
        parts: usize,
    ) -> Result<&mut [T], CollectiveError> {
        let count: usize = tensors.iter().map(|tensor| tensor.len()).sum();
        let words = (count * size_of::<T>()).div_ceil(size_of::<u64>());
        if words > self.words.len() {
            let more = words - self.words.len();
            self.words.try_reserve_exact(more).map_err(|_| CollectiveError::Memory {
                collective: "all_reduce",
                message: format!("cannot allocate {} bytes for fused tensors", words * 8),
            })?;
            self.words.resize(words, 0);
        }
        let staged = self.elements(count);
        let mut at = 0;
        for part in 0..parts {
            for tensor in tensors {
                let piece = &tensor[piece(tensor.len(), parts, part)];
                staged[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
        }
        Ok(staged)
    }

    /// Copies the elements back.
    pub(crate) fn scatter<T: Element>(&mut self, tensors: &mut [&mut [T]], parts: usize) {
        let count: usize = tensors.iter().map(|tensor| tensor.len()).sum();
        let staged = self.elements::<T>(count);
        let mut at = 0;
        for part in 0..parts {
            for tensor in tensors.iter_mut() {
                let range = piece(tensor.len(), parts, part);
                let piece = &mut tensor[range];
                piece.copy_from_slice(&staged[at..at + piece.len()]);
                at += piece.len();
            }
        }
    }

    fn elements<T: Element>(&mut self, count: usize) -> &mut [T] {
        let available = size_of_val(self.words.as_slice()) / size_of::<T>();
        assert!(count <= available, "the buffer was grown before");
        // SAFETY: the words hold at least `count` elements, are aligned for every element type
        // (none is wider than a word), and any bits are an element (see `Element`).
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), count) }
    }
}

/// A number that is the same on two ranks only if they fuse tensors of the same lengths (but for one
/// case in four thousand million), and never 0. FNV-1a over the lengths, folded to 32 bits.
pub(crate) fn digest(lengths: impl Iterator<Item = usize>) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for length in lengths {
        hash = (hash ^ length as u64).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    u32::from_le_bytes([a ^ e, b ^ f, c ^ g, d ^ h]).max(1)
}

/// The elements of a tensor that belong to chunk `part`.
fn piece(length: usize, parts: usize, part: usize) -> Range<usize> {
    Partition::new(length, parts).range(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_lists_apart() {
        let of = |lengths: &[usize]| digest(lengths.iter().copied());
        assert_eq!(of(&[10, 90]), of(&[10, 90]));
        assert_ne!(of(&[10, 90]), of(&[50, 50]));
        assert_ne!(of(&[10, 90]), of(&[90, 10]));
        assert_ne!(of(&[100]), 0);
        assert_ne!(of(&[]), 0);
    }

    #[test]
    fn tensors_survive_the_buffer() {
        let mut buffer = FusionBuffer::default();
        for parts in 1..=5 {
            let mut first = [1.0f32, 2.0, 3.0, 4.0, 5.0];
            let mut second = [6.0f32, 7.0];
            let mut tensors = [&mut first[..], &mut [], &mut second[..]];
            let staged = buffer.gather(&tensors, parts).unwrap();
            assert_eq!(staged.len(), 7);
            assert_eq!(staged[0], 1.0);
            staged.iter_mut().for_each(|value| *value += 10.0);
            buffer.scatter(&mut tensors, parts);
            assert_eq!(first, [11.0, 12.0, 13.0, 14.0, 15.0]);
            assert_eq!(second, [16.0, 17.0]);
        }
    }
}

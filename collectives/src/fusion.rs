//! Several tensors as one operation: what goes alone, what is packed, and the buffer for it.
//!
//! Packing a tensor saves the crossings that it would take alone and costs two copies of its bytes.
//! So long tensors are reduced where they are, and the short ones between them are packed, as many
//! as the caches hold. In the buffer they lie chunk by chunk (see [`Partition::fused`]).

use std::ops::Range;
use std::sync::Arc;

use paceline_devices::{DType, Element};

use crate::error::CollectiveError;
use crate::schedule::Partition;

/// What is worth packing. Equal on all ranks, or they would disagree on the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FusionLimits {
    /// Bytes of the longest tensor that is packed.
    pub(crate) tensor_bytes_max: usize,
    /// Bytes that are packed together, but for a lone tensor of more.
    pub(crate) pack_bytes_max: usize,
}

impl FusionLimits {
    /// Longer tensors gain nothing, more bytes leave the second-level cache (benches/RESULTS.md).
    pub(crate) const TUNED: Self = Self { tensor_bytes_max: 64 << 10, pack_bytes_max: 1 << 20 };

    /// The next batch of tensors of these sizes in bytes.
    pub(crate) fn batch(&self, bytes: impl Iterator<Item = usize>) -> Batch {
        let mut batch = Batch { tensors: 0, packs_up_to: Some(self.tensor_bytes_max) };
        let (mut packed, mut packed_bytes) = (0, 0);
        for bytes in bytes {
            if bytes <= self.tensor_bytes_max {
                if packed > 0 && packed_bytes + bytes > self.pack_bytes_max {
                    break;
                }
                packed += 1;
                packed_bytes += bytes;
            }
            batch.tensors += 1;
        }
        if packed == 1 {
            // Alone it needs no copying.
            batch.packs_up_to = None;
        }
        batch
    }

    /// The number of elements in each operation on tensors of so many elements.
    pub(crate) fn operations(&self, counts: &[usize], element_bytes: usize) -> Vec<usize> {
        let bytes = |count: &usize| count * element_bytes;
        let (mut operations, mut rest) = (Vec::new(), counts);
        while !rest.is_empty() {
            let batch = self.batch(rest.iter().map(bytes));
            let (tensors, after) = rest.split_at(batch.tensors);
            rest = after;
            let packed = tensors.iter().filter(|count| batch.packs(bytes(count)));
            if packed.clone().next().is_some() {
                operations.push(packed.sum());
            }
            operations.extend(tensors.iter().filter(|count| !batch.packs(bytes(count))));
        }
        operations
    }
}

/// Tensors that are taken care of together: the short ones as one operation, then each of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// How many tensors, at least one unless there are none.
    pub(crate) tensors: usize,
    packs_up_to: Option<usize>,
}

impl Batch {
    /// Whether a tensor of the batch, of so many bytes, is packed.
    pub(crate) fn packs(&self, bytes: usize) -> bool {
        self.packs_up_to.is_some_and(|limit| bytes <= limit)
    }
}

/// The staging buffer of fused operations, and of inputs that are scaled or compressed. It grows to
/// the largest operation and stays.
#[derive(Debug, Default)]
pub(crate) struct FusionBuffer {
    /// Words, so that every element type is aligned in it.
    words: Vec<u64>,
    /// Where the chunks of the last operation lie.
    bounds: Arc<[usize]>,
}

impl FusionBuffer {
    /// Bytes of memory held.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>() + size_of_val(&*self.bounds)
    }

    /// Brings those of the tensors in that are packed, by `copy`, which may change their type; returns
    /// the elements, and how they are cut. Bytes are those of the elements that come out.
    pub(crate) fn gather<T, S: Element>(
        &mut self,
        tensors: &[&mut [T]],
        batch: Batch,
        parts: usize,
        copy: impl Fn(&mut [S], &[T]),
    ) -> Result<(&mut [S], Partition), CollectiveError> {
        let packed = || tensors.iter().filter(|tensor| batch.packs(tensor.len() * size_of::<S>()));
        let count: usize = packed().map(|tensor| tensor.len()).sum();
        self.grow(count * size_of::<S>(), "all_reduce")?;
        let lengths = packed().map(|tensor| tensor.len());
        let partition = Partition::fused(lengths, parts, &mut self.bounds);
        let staged = self.elements(count);
        let mut at = 0;
        for part in 0..parts {
            for tensor in packed() {
                let piece = &tensor[piece(tensor.len(), parts, part)];
                copy(&mut staged[at..at + piece.len()], piece);
                at += piece.len();
            }
        }
        Ok((staged, partition))
    }

    /// The memory, at least so many bytes of it.
    pub(crate) fn grow(
        &mut self,
        bytes: usize,
        collective: &'static str,
    ) -> Result<&mut [u64], CollectiveError> {
        let words = bytes.div_ceil(size_of::<u64>());
        if words > self.words.len() {
            let more = words - self.words.len();
            self.words.try_reserve_exact(more).map_err(|_| CollectiveError::Memory {
                collective,
                message: format!("cannot allocate {} bytes of staging memory", words * 8),
            })?;
            self.words.resize(words, 0);
        }
        Ok(&mut self.words)
    }

    /// Brings the elements back, by `copy`.
    pub(crate) fn scatter<T, S: Element>(
        &mut self,
        tensors: &mut [&mut [T]],
        batch: Batch,
        parts: usize,
        copy: impl Fn(&mut [T], &[S]),
    ) {
        let packs = |tensor: &&mut &mut [T]| batch.packs(tensor.len() * size_of::<S>());
        let count: usize = tensors.iter_mut().filter(packs).map(|tensor| tensor.len()).sum();
        let staged = self.elements::<S>(count);
        let mut at = 0;
        for part in 0..parts {
            for tensor in tensors.iter_mut().filter(packs) {
                let range = piece(tensor.len(), parts, part);
                let piece = &mut tensor[range];
                copy(piece, &staged[at..at + piece.len()]);
                at += piece.len();
            }
        }
    }

    /// The first elements of the memory, which was grown to hold them.
    pub(crate) fn elements<T: Element>(&mut self, count: usize) -> &mut [T] {
        as_elements(&mut self.words, count)
    }

    /// All of the memory.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

/// The first `count` elements in some memory, which must have room for them.
pub(crate) fn as_elements<T: Element>(words: &mut [u64], count: usize) -> &mut [T] {
    let available = size_of_val(words) / size_of::<T>();
    assert!(count <= available, "the memory was made to hold them");
    // SAFETY: the words hold at least `count` elements, are aligned for every element type (none is
    // wider than a word), and any bits are an element (see `Element`).
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), count) }
}

/// So many elements of zero bits, which are values of every type; `None` if there is no memory.
pub(crate) fn zeros<T: Element>(count: usize) -> Option<Vec<T>> {
    let mut elements: Vec<T> = Vec::new();
    elements.try_reserve_exact(count).ok()?;
    // SAFETY: there is room for so many elements.
    unsafe { elements.as_mut_ptr().write_bytes(0, count) };
    // SAFETY: they have just been written, and any bits are an element (see `Element`).
    unsafe { elements.set_len(count) };
    Some(elements)
}

/// The same elements, if they are `f32`.
pub(crate) fn as_singles<T: Element>(elements: &mut [T]) -> Option<&mut [f32]> {
    if T::DTYPE != DType::F32 {
        return None;
    }
    let (data, count) = (elements.as_mut_ptr(), elements.len());
    // SAFETY: only `f32` has this element type.
    Some(unsafe { std::slice::from_raw_parts_mut(data.cast(), count) })
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
        let limits = FusionLimits { tensor_bytes_max: 20, pack_bytes_max: 1 << 20 };
        let mut buffer = FusionBuffer::default();
        for parts in 1..=5 {
            let mut first = [1.0f32, 2.0, 3.0, 4.0, 5.0];
            let mut long = [9.0f32; 6];
            let mut second = [6.0f32, 7.0];
            let mut tensors = [&mut first[..], &mut [], &mut long[..], &mut second[..]];
            let batch = limits.batch(tensors.iter().map(|tensor| size_of_val(*tensor)));
            let copied = <[f32]>::copy_from_slice;
            let (staged, partition) = buffer.gather(&tensors, batch, parts, copied).unwrap();
            assert_eq!((staged.len(), partition.count()), (7, 7));
            assert_eq!(staged[0], 1.0);
            staged.iter_mut().for_each(|value| *value += 10.0);
            buffer.scatter(&mut tensors, batch, parts, copied);
            assert_eq!(first, [11.0, 12.0, 13.0, 14.0, 15.0]);
            assert_eq!(second, [16.0, 17.0]);
            assert_eq!(long, [9.0; 6]);
        }
    }

    #[test]
    fn batches_fill_the_buffer_and_take_long_tensors_along() {
        let limits = FusionLimits { tensor_bytes_max: 4, pack_bytes_max: 10 };
        let batch = |bytes: &[usize]| limits.batch(bytes.iter().copied()).tensors;
        assert_eq!(batch(&[4, 4, 2, 1, 4]), 3);
        assert_eq!(batch(&[4, 100, 4, 100, 100, 2, 0, 1]), 7);
        assert_eq!(batch(&[100, 100]), 2);
        assert_eq!(batch(&[0, 0]), 2);
        assert_eq!(batch(&[]), 0);
        let tight = FusionLimits { tensor_bytes_max: 4, pack_bytes_max: 3 };
        assert_eq!(tight.batch([4, 4].into_iter()).tensors, 1);
    }

    #[test]
    fn a_lone_short_tensor_is_not_packed() {
        let limits = FusionLimits { tensor_bytes_max: 4, pack_bytes_max: 10 };
        let packs = |bytes: &[usize], tensor: usize| {
            limits.batch(bytes.iter().copied()).packs(bytes[tensor])
        };
        assert!(!packs(&[4, 100], 0));
        assert!(packs(&[4, 100, 4], 0) && !packs(&[4, 100, 4], 1));
        assert_eq!(limits.operations(&[2, 50, 2, 1, 1], 2), [5, 50, 1]);
    }
}

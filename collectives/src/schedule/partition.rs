use std::ops::Range;
use std::sync::Arc;

/// How a vector falls into one chunk per rank.
///
/// A lone tensor is cut into chunks whose sizes differ by at most one element, the longer ones
/// first. That depends on nothing but the two numbers, so that every algorithm cuts in the same
/// places. Fused tensors are laid out chunk by chunk ([`Partition::fused`]): every element keeps
/// the owner that it would have alone, hence its order of reduction. Where ranks say how much is
/// whose, chunks have just these lengths ([`Partition::explicit`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    count: usize,
    parts: usize,
    longest: usize,
    /// Where each chunk begins, and the end; `None` for even chunks.
    bounds: Option<Arc<[usize]>>,
    /// Which portion of each chunk is meant, of how many: 0 of 1 is all of it.
    portion: (usize, usize),
}

impl Partition {
    /// Cuts `count` elements into `parts` (≥ 1) chunks.
    pub fn new(count: usize, parts: usize) -> Self {
        assert!(parts > 0, "a partition has at least one part");
        Self { count, parts, longest: count.div_ceil(parts), bounds: None, portion: (0, 1) }
    }

    /// The layout of several tensors in one vector: first chunk 0 of every tensor, in their order,
    /// then chunk 1 of every tensor, and so on. `bounds` is where it keeps the places of the chunks;
    /// it is allocated anew only if it is too short or belongs to a partition that still exists.
    pub fn fused(
        counts: impl Iterator<Item = usize> + Clone,
        parts: usize,
        bounds: &mut Arc<[usize]>,
    ) -> Self {
        let length =
            |part| counts.clone().map(|count| Self::new(count, parts).range(part).len()).sum();
        Self::of_lengths_in(parts, length, bounds)
    }

    /// Whether its chunks leave no elements between them.
    pub(crate) fn is_whole(&self) -> bool {
        self.portion.1 == 1
    }

    /// Chunks of just these lengths, one behind the other; `bounds` is as for [`Partition::fused`].
    pub(crate) fn of_lengths_in(
        parts: usize,
        length: impl Fn(usize) -> usize,
        bounds: &mut Arc<[usize]>,
    ) -> Self {
        assert!(parts > 0, "a partition has at least one part");
        if bounds.len() != parts + 1 || Arc::get_mut(bounds).is_none() {
            *bounds = vec![0; parts + 1].into();
        }
        let places = Arc::get_mut(bounds).expect("nobody else has it");
        let mut longest = 0;
        for part in 0..parts {
            let chunk = length(part);
            longest = longest.max(chunk);
            places[part + 1] = places[part] + chunk;
        }
        let (count, bounds) = (places[parts], Some(Arc::clone(bounds)));
        Self { count, parts, longest, bounds, portion: (0, 1) }
    }

    /// Of each chunk only portion `index` when it is cut into `of` even ones; the elements between
    /// belong to nobody.
    #[must_use]
    pub(crate) fn portion(self, index: usize, of: usize) -> Self {
        assert!(index < of && self.portion.1 == 1, "a portion of whole chunks");
        Self { longest: self.longest.div_ceil(of), portion: (index, of), ..self }
    }

    /// Chunks of just these lengths, one behind the other.
    pub fn explicit(lengths: &[usize]) -> Self {
        assert!(!lengths.is_empty(), "a partition has at least one part");
        Self::of_lengths(lengths.len(), |part| lengths[part])
    }

    /// A chunk of `length` elements for `part`, and empty ones for the others.
    pub fn only(part: usize, length: usize, parts: usize) -> Self {
        assert!(part < parts, "part outside the partition");
        Self::of_lengths(parts, |other| if other == part { length } else { 0 })
    }

    fn of_lengths(parts: usize, length: impl Fn(usize) -> usize) -> Self {
        let mut end = 0;
        let mut longest = 0;
        let ends = (0..parts).map(|part| {
            longest = longest.max(length(part));
            end += length(part);
            end
        });
        let bounds: Arc<[usize]> = std::iter::once(0).chain(ends).collect();
        Self { count: bounds[parts], parts, longest, bounds: Some(bounds), portion: (0, 1) }
    }

    /// Elements in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many chunks there are.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Whether its chunks have other lengths than those of a lone tensor, or may have.
    pub fn is_explicit(&self) -> bool {
        self.bounds.is_some() || self.portion.1 > 1
    }

    /// The elements of chunk `part`.
    pub fn range(&self, part: usize) -> Range<usize> {
        debug_assert!(part < self.parts, "part outside the partition");
        let chunk = self.chunk(part);
        let (index, of) = self.portion;
        if of == 1 {
            return chunk;
        }
        let portion = Self::new(chunk.len(), of).range(index);
        chunk.start + portion.start..chunk.start + portion.end
    }

    /// The whole chunk, whichever portion of it is meant.
    fn chunk(&self, part: usize) -> Range<usize> {
        if let Some(bounds) = &self.bounds {
            return bounds[part]..bounds[part + 1];
        }
        let (quotient, remainder) = (self.count / self.parts, self.count % self.parts);
        let start = part * quotient + part.min(remainder);
        start..start + quotient + usize::from(part < remainder)
    }

    /// Elements of the longest chunk.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// How many slices of at most `slice` elements each chunk is sent in. The same for all chunks,
    /// as both ends of a message must agree; the shorter chunks' last slice may be shorter or empty.
    pub fn slices(&self, slice: usize) -> usize {
        self.longest.div_ceil(slice.max(1))
    }

    /// Slice `index` of chunk `part`.
    pub fn slice(&self, part: usize, index: usize, slice: usize) -> Range<usize> {
        let chunk = self.range(part);
        let start = (chunk.start + index * slice).min(chunk.end);
        start..(start + slice).min(chunk.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_slices_tile_the_tensor() {
        for parts in 1..=16 {
            for count in (0..70).chain([1000, 1023, 4097]) {
                let partition = Partition::new(count, parts);
                let mut next = 0;
                for part in 0..parts {
                    let chunk = partition.range(part);
                    assert_eq!(chunk.start, next);
                    assert!(chunk.len() <= partition.longest());
                    next = chunk.end;
                    for slice in [1, 3, 64] {
                        let mut at = chunk.start;
                        for index in 0..partition.slices(slice) {
                            let piece = partition.slice(part, index, slice);
                            assert_eq!(piece.start, at);
                            assert!(piece.len() <= slice);
                            at = piece.end;
                        }
                        assert_eq!(at, chunk.end);
                    }
                }
                assert_eq!(next, count);
            }
        }
    }

    #[test]
    fn fused_tensors_keep_the_owner_of_every_element() {
        let counts = [0usize, 1, 10, 7, 100, 3];
        let mut bounds = Arc::default();
        for parts in 1..=9 {
            let fused = Partition::fused(counts.iter().copied(), parts, &mut bounds);
            assert_eq!(fused.count(), 121);
            for part in 0..parts {
                let alone: usize = counts
                    .iter()
                    .map(|count| Partition::new(*count, parts).range(part).len())
                    .sum();
                assert_eq!(fused.range(part).len(), alone);
                assert!(alone <= fused.longest());
            }
            assert_eq!(fused.range(0).start, 0);
            assert_eq!(fused.range(parts - 1).end, 121);
        }
    }

    #[test]
    fn chunks_may_have_any_lengths() {
        let partition = Partition::explicit(&[3, 0, 5, 0]);
        let ranges: Vec<_> = (0..4).map(|part| partition.range(part)).collect();
        assert_eq!(ranges, [0..3, 3..3, 3..8, 8..8]);
        assert_eq!((partition.count(), partition.longest()), (8, 5));
        let only = Partition::only(1, 7, 3);
        assert_eq!((only.range(0), only.range(1), only.range(2)), (0..0, 0..7, 7..7));
        assert_eq!((only.count(), only.longest()), (7, 7));
    }

    #[test]
    fn portions_tile_every_chunk() {
        for (count, parts, of) in [(100, 3, 4), (7, 2, 5), (0, 2, 2), (64, 4, 1)] {
            for part in 0..parts {
                let whole = Partition::new(count, parts).range(part);
                let mut next = whole.start;
                for index in 0..of {
                    let portions = Partition::new(count, parts).portion(index, of);
                    let portion = portions.range(part);
                    assert_eq!(portion.start, next);
                    assert!(portion.len() <= portions.longest());
                    next = portion.end;
                }
                assert_eq!(next, whole.end);
            }
        }
    }

    #[test]
    fn a_partition_leaves_its_memory_to_the_next() {
        let mut bounds = Arc::default();
        let first = Partition::fused([3, 4].into_iter(), 2, &mut bounds);
        let place = Arc::as_ptr(&bounds);
        let second = Partition::fused([30, 40].into_iter(), 2, &mut bounds);
        assert_eq!((first.range(1), second.range(1)), (4..7, 35..70), "both live");
        drop((first, second));
        let place_of_second = Arc::as_ptr(&bounds);
        assert!(!std::ptr::addr_eq(place, place_of_second));
        assert_eq!(Partition::fused([1, 1].into_iter(), 2, &mut bounds).range(0), 0..2);
        assert!(std::ptr::addr_eq(place_of_second, Arc::as_ptr(&bounds)));
    }
}

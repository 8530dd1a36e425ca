use std::ops::Range;

/// How a tensor falls into one chunk per rank: sizes differ by at most one element, the longer
/// ones first. It depends on nothing but the two numbers, so that every algorithm, and a fused
/// operation as well as a lone one, cuts a tensor in the same places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    count: usize,
    parts: usize,
}

impl Partition {
    /// Cuts `count` elements into `parts` (≥ 1) chunks.
    pub fn new(count: usize, parts: usize) -> Self {
        assert!(parts > 0, "a partition has at least one part");
        Self { count, parts }
    }

    /// The elements of chunk `part`.
    pub fn range(&self, part: usize) -> Range<usize> {
        debug_assert!(part < self.parts, "part outside the partition");
        let (quotient, remainder) = (self.count / self.parts, self.count % self.parts);
        let start = part * quotient + part.min(remainder);
        start..start + quotient + usize::from(part < remainder)
    }

    /// Elements of the longest chunk.
    pub fn longest(&self) -> usize {
        self.count.div_ceil(self.parts)
    }

    /// How many slices of at most `slice` elements each chunk is sent in. The same for all chunks,
    /// as both ends of a message must agree; the shorter chunks' last slice may be shorter or empty.
    pub fn slices(&self, slice: usize) -> usize {
        self.longest().div_ceil(slice.max(1))
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
}

//! Adasum: an all-to-all, after which each rank has its part of all vectors; the products of all pairs,
//! which take a small all-gather at each level of the tree; an all-gather of the results.
//!
//! It moves as many bytes as any all-reduce that is optimal in bandwidth. Every tensor has products of
//! its own, summed up over the ranks in their order, so that fusing tensors changes nothing.

use std::iter::zip;

use paceline_transports::copy_slice;

use super::{Communicator, State};
use crate::adasum::{Float, distances, factors, pairs};
use crate::call::Lent;
use crate::error::CollectiveError;
use crate::fusion::{self, FusionBuffer, as_elements};
use crate::signature::{Collective, OperationKind};

/// Bytes of tensors that are staged at once, but for a lone one of more: what saves most of the
/// messages without needing much memory.
const STAGED_MAX: usize = 4 << 20;

/// Products of one pair of tensors.
const PRODUCTS: usize = 3;

impl Communicator {
    /// Combines the ranks' vectors by Adasum; every rank gets the result, in place. Two of them become
    /// `(1 − a·b / 2|a|²) a + (1 − a·b / 2|b|²) b`, which is their sum where they are orthogonal and
    /// their average where they are equal; more are combined in pairs of neighbours, then pairs of these,
    /// and so on. Any number of ranks will do; one without a partner goes to the next level as it is.
    ///
    /// Products are summed up in `f64`, vectors are combined in `f64` or `f32` and rounded once at each
    /// level. A vector of zeros changes nothing. The result has the same bits on all ranks, in every run
    /// and over every transport.
    ///
    /// Memory for twice the vector (once, if its length is a multiple of the world size) is needed and
    /// kept for the next call, because nothing can be combined before the products are known.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_adasum<T: Float>(&self, data: &mut [T]) -> Result<(), CollectiveError> {
        self.all_reduce_adasum_fused(&mut [data])
    }

    /// As one [`all_reduce_adasum`](Self::all_reduce_adasum) for each tensor, with the same bits, at the
    /// price of one for some megabytes of them.
    ///
    /// # Errors
    /// [`CollectiveError`].
    pub fn all_reduce_adasum_fused<T: Float>(
        &self,
        tensors: &mut [&mut [T]],
    ) -> Result<(), CollectiveError> {
        let mut state = self.enter(Collective::Adasum)?;
        if self.world_size() == 1 {
            return Ok(());
        }
        let mut staging = std::mem::take(&mut state.fusion);
        let outcome = self.run_adasum(&mut state, &mut staging, tensors);
        state.fusion = staging;
        outcome
    }

    fn run_adasum<T: Float>(
        &self,
        state: &mut State,
        staging: &mut FusionBuffer,
        tensors: &mut [&mut [T]],
    ) -> Result<(), CollectiveError> {
        let digest = fusion::digest(tensors.iter().map(|tensor| tensor.len()));
        let mut rest = tensors;
        loop {
            let mut bytes = 0;
            let mut fits = |tensor: &&mut [T]| {
                bytes += size_of_val(&**tensor);
                bytes <= STAGED_MAX
            };
            let together = rest.iter().take_while(|tensor| fits(tensor)).count();
            let (tensors, after) = rest.split_at_mut(together.max(1).min(rest.len()));
            let count = tensors.iter().map(|tensor| tensor.len() as u64).sum();
            // Also of no tensors: the others may have some, and are told.
            let kind = OperationKind {
                dtype: Some(T::DTYPE),
                fused: digest,
                count,
                ..OperationKind::bare(Collective::Adasum)
            };
            let layout = Layout::new(tensors, self.world_size() as usize);
            if let Err(error) = staging.grow(layout.bytes::<T>(), Collective::Adasum.name()) {
                let operation = self.name(state, kind);
                return Err(self.fail(state, operation, error));
            }
            self.combine(state, staging.words(), tensors, layout, kind)?;
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn combine<T: Float>(
        &self,
        state: &mut State,
        words: &mut [u64],
        tensors: &mut [&mut [T]],
        layout: Layout,
        kind: OperationKind,
    ) -> Result<(), CollectiveError> {
        let Layout { ranks, block, .. } = layout;
        let own_words = layout.product_words();
        let (products, words) = words.split_at_mut(own_words * (1 + ranks));
        let (blocks, words) = words.split_at_mut((ranks * block * size_of::<T>()).div_ceil(8));
        let blocks = as_elements::<T>(blocks, ranks * block);
        if layout.is_packed {
            pack(as_elements::<T>(words, ranks * block), tensors, ranks);
        }
        let whole = match tensors {
            // It lies there as it should already.
            [tensor] if !layout.is_packed => &mut **tensor,
            _ => as_elements::<T>(words, ranks * block),
        };
        self.adasum_step(
            state,
            kind,
            Collective::AllToAll,
            Lent::apart(Some(whole), Some(blocks)),
        )?;
        for distance in distances(ranks) {
            let values = pairs(ranks, distance).count() * PRODUCTS * tensors.len();
            let (own, all) = products.split_at_mut(own_words);
            let own = as_elements::<f64>(own, values);
            let all = as_elements::<f64>(all, values * ranks);
            let mut place = own.chunks_exact_mut(PRODUCTS);
            layout.for_each_pair(blocks, tensors, distance, |first, second| {
                let products = T::products(first, second);
                if let Some(place) = place.next() {
                    place.copy_from_slice(&products);
                }
            });
            self.adasum_step(
                state,
                kind,
                Collective::AllGather,
                Lent::apart(Some(own), Some(all)),
            )?;
            let mut place = 0;
            layout.for_each_pair(blocks, tensors, distance, |first, second| {
                let mut sums = [0.0; PRODUCTS];
                for of_rank in all.chunks_exact(values) {
                    let parts = &of_rank[place..place + PRODUCTS];
                    zip(&mut sums, parts).for_each(|(sum, part)| *sum += part);
                }
                T::combine(first, second, factors(sums));
                place += PRODUCTS;
            });
        }
        let own = &blocks[..block];
        let whole = match tensors {
            [tensor] if !layout.is_packed => &mut **tensor,
            _ => as_elements::<T>(words, ranks * block),
        };
        self.adasum_step(state, kind, Collective::AllGather, Lent::apart(Some(own), Some(whole)))?;
        if layout.is_packed {
            unpack(as_elements::<T>(words, ranks * block), tensors, ranks);
        }
        Ok(())
    }

    /// One of the collectives that it consists of, in the name of the whole.
    fn adasum_step(
        &self,
        state: &mut State,
        kind: OperationKind,
        collective: Collective,
        lent: Lent<'_>,
    ) -> Result<(), CollectiveError> {
        let call = self.call(collective, None, lent)?;
        let choice = self.choose(&call);
        let kind = OperationKind { algorithm: choice.algorithm as u8, ..kind };
        self.execute_as(state, kind, &call, choice)
    }
}

/// Where everything is. The whole consists of a block for each rank, of equal lengths; each block of a
/// piece of every tensor, which are of equal lengths too, the last ones filled up with zeros.
#[derive(Clone, Copy, Debug)]
struct Layout {
    ranks: usize,
    tensors: usize,
    /// Elements of a block.
    block: usize,
    /// Whether tensors have to be copied to lie like this.
    is_packed: bool,
}

impl Layout {
    fn new<T>(tensors: &[&mut [T]], ranks: usize) -> Self {
        let block = tensors.iter().map(|tensor| tensor.len().div_ceil(ranks)).sum();
        let is_packed = match tensors {
            [tensor] => !tensor.len().is_multiple_of(ranks),
            _ => true,
        };
        Self { ranks, tensors: tensors.len(), block, is_packed }
    }

    /// Words of the products that one rank computes at a level.
    fn product_words(&self) -> usize {
        (self.ranks / 2) * PRODUCTS * self.tensors
    }

    fn bytes<T>(&self) -> usize {
        let whole = (self.ranks * self.block * size_of::<T>()).next_multiple_of(size_of::<u64>());
        let copies = if self.is_packed { 2 } else { 1 };
        copies * whole + self.product_words() * (1 + self.ranks) * size_of::<u64>()
    }

    /// Visits the pieces of all tensors of the pairs of blocks at a level, in the same order every time.
    fn for_each_pair<T>(
        &self,
        blocks: &mut [T],
        tensors: &[&mut [T]],
        distance: usize,
        mut visit: impl FnMut(&mut [T], &[T]),
    ) {
        for (first, second) in pairs(self.ranks, distance) {
            let (before, after) = blocks.split_at_mut(second * self.block);
            let mut first = &mut before[first * self.block..][..self.block];
            let mut second = &after[..self.block];
            for tensor in tensors {
                let length = tensor.len().div_ceil(self.ranks);
                let (of_first, rest_of_first) = first.split_at_mut(length);
                let (of_second, rest_of_second) = second.split_at(length);
                visit(of_first, of_second);
                (first, second) = (rest_of_first, rest_of_second);
            }
        }
    }
}

/// The piece of a tensor in the block of a rank: shorter than those of others, or empty, at the end.
fn piece(length: usize, ranks: usize, rank: usize) -> std::ops::Range<usize> {
    let longest = length.div_ceil(ranks);
    (rank * longest).min(length)..((rank + 1) * longest).min(length)
}

fn pack<T: Float>(whole: &mut [T], tensors: &[&mut [T]], ranks: usize) {
    let mut rest = whole;
    for rank in 0..ranks {
        for tensor in tensors {
            let (place, after) = rest.split_at_mut(tensor.len().div_ceil(ranks));
            let piece = &tensor[piece(tensor.len(), ranks, rank)];
            let (data, padding) = place.split_at_mut(piece.len());
            copy_slice(data, piece);
            padding.fill(T::ZERO);
            rest = after;
        }
    }
}

fn unpack<T: Float>(whole: &[T], tensors: &mut [&mut [T]], ranks: usize) {
    let mut rest = whole;
    for rank in 0..ranks {
        for tensor in tensors.iter_mut() {
            let length = tensor.len();
            let (place, after) = rest.split_at(length.div_ceil(ranks));
            let piece = &mut tensor[piece(length, ranks, rank)];
            copy_slice(piece, &place[..piece.len()]);
            rest = after;
        }
    }
}

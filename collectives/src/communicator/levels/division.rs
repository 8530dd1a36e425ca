//! How a vector is divided among nodes, streams and places.

use std::ops::Range;

use super::super::shared::Cuts;
use crate::call::{Call, Stage};
use crate::levels::Shape;
use crate::schedule::Partition;
use crate::signature::Collective;

/// Shorter vectors are all-reduced in one band: packed tensors are, too, and their bits are the same.
const BANDED_BYTES_MIN: usize = 2 << 20;

/// Bytes of a band: enough for its crossing to be worth the latency, few enough for the work on the
/// nodes before the first one crosses and after the last one has crossed to be short.
const BAND_BYTES_MIN: usize = 1 << 20;
const BAND_BYTES_MAX: usize = 4 << 20;

/// Bands of a vector, as far as their lengths allow.
const BANDS: usize = 8;

/// The division of one call's vector.
pub(super) struct Division<'a> {
    call: &'a Call<'a>,
    pub(super) shape: &'a Shape,
    cuts: &'a mut Cuts,
}

/// A part of a vector that is all-reduced by itself.
#[derive(Clone, Debug)]
pub(super) struct Band {
    /// Its elements.
    range: Range<usize>,
    /// How they fall to streams, and within them to nodes; counted from the band's first.
    chunks: Partition,
}

impl<'a> Division<'a> {
    pub(super) fn new(call: &'a Call<'a>, shape: &'a Shape, cuts: &'a mut Cuts) -> Self {
        Self { call, shape, cuts }
    }

    /// How a vector falls to the places of this node, in parts of these lengths.
    pub(super) fn by_place(&mut self, length: impl Fn(usize) -> usize) -> Partition {
        let ranks = self.shape.neighbours().len();
        Partition::of_lengths_in(ranks, length, &mut self.cuts.places)
    }

    /// The same, where each place that has a stream gets as much.
    pub(super) fn evenly(&mut self, count: usize) -> Partition {
        let streams = self.shape.streams();
        let even = Partition::new(count, streams);
        self.by_place(|place| if place < streams { even.range(place).len() } else { 0 })
    }

    /// How this rank's stream's part falls to the nodes, if it has a stream.
    pub(super) fn by_node(&mut self, length: impl Fn(usize) -> usize) -> Option<Partition> {
        let Self { shape, cuts, .. } = self;
        let cut = || Partition::of_lengths_in(shape.nodes(), length, &mut cuts.nodes);
        shape.has_stream().then(cut)
    }

    /// How the call's vector falls to the nodes: what belongs to a node's ranks is its block.
    pub(super) fn blocks(&mut self) -> Partition {
        let Self { call, shape, cuts } = self;
        let chunks = &call.partition;
        let length = |node| shape.block(node).map(|rank| chunks.range(rank).len()).sum();
        Partition::of_lengths_in(shape.nodes(), length, &mut cuts.blocks)
    }

    /// How many bands an all-reduce has.
    pub(super) fn bands(&self) -> usize {
        let bytes = self.call.agreed_bytes();
        if self.call.partition.is_explicit() || bytes < BANDED_BYTES_MIN {
            return 1;
        }
        bytes / (bytes / BANDS).clamp(BAND_BYTES_MIN, BAND_BYTES_MAX)
    }

    /// The band of this number.
    pub(super) fn band(&self, nth: usize) -> Band {
        let (whole, chunks) = (&self.call.partition, self.shape.nodes() * self.shape.streams());
        if whole.is_explicit() {
            return Band { range: 0..whole.count(), chunks: whole.clone() };
        }
        let range = Partition::new(whole.count(), self.bands()).range(nth);
        Band { chunks: Partition::new(range.len(), chunks), range }
    }

    /// The part of a band that a place deals with.
    fn part(&self, band: &Band, place: usize) -> Range<usize> {
        let (nodes, chunks) = (self.shape.nodes(), &band.chunks);
        if place >= self.shape.streams() {
            return chunks.count()..chunks.count();
        }
        chunks.range(place * nodes).start..chunks.range((place + 1) * nodes - 1).end
    }

    /// The stage in which a node reduces a band, each place its part.
    pub(super) fn reduction(&mut self, band: &Band) -> Stage {
        let call = self.call;
        let own = self.part(band, self.shape.place());
        Stage {
            collective: Collective::ReduceScatterV,
            root: None,
            input: call.input().part(band.range.clone()),
            output: call.output().part(band.range.clone()).part(own),
            partition: self.places_of(band),
        }
    }

    /// The stage in which this rank's stream reduces its part of a band, if it has one.
    pub(super) fn crossing(&mut self, band: &Band) -> Option<Stage> {
        let (nodes, place) = (self.shape.nodes(), self.shape.place());
        let own = self.call.output().part(band.range.clone()).part(self.part(band, place));
        let length = |node| band.chunks.range(place * nodes + node).len();
        let partition = self.by_node(length)?;
        let collective = Collective::AllReduce;
        Some(Stage { collective, root: None, input: own, output: own, partition })
    }

    /// The stage in which all of a node get all of a band.
    pub(super) fn gathering(&mut self, band: &Band) -> Stage {
        let output = self.call.output().part(band.range.clone());
        Stage {
            collective: Collective::AllGatherV,
            root: None,
            input: output.part(self.part(band, self.shape.place())),
            output,
            partition: self.places_of(band),
        }
    }

    fn places_of(&mut self, band: &Band) -> Partition {
        let Self { shape, cuts, .. } = self;
        let (nodes, streams) = (shape.nodes(), shape.streams());
        let of_stream = |place: usize| {
            let chunks = place * nodes..(place + 1) * nodes;
            chunks.map(|chunk| band.chunks.range(chunk).len()).sum()
        };
        let length = |place| if place < streams { of_stream(place) } else { 0 };
        Partition::of_lengths_in(shape.neighbours().len(), length, &mut cuts.places)
    }
}

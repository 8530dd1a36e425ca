//! The seams of [`crate::run`] and [`crate::floor`], carried out by a real communicator.

mod collective;
mod gradients;
mod queued;
mod tensors;

use paceline_collectives::queue::QueueError;
use paceline_collectives::{CollectiveError, Communicator};
use paceline_devices::DType;

pub use collective::CollectiveWorkload;
pub use gradients::{Bucketing, GradientsWorkload};
pub use queued::QueuedWorkload;

use crate::floor::{Exchange, Manner};
use crate::metrics::{Collective, Shape};
use crate::run::{BoxError, Group};
use crate::units::format_bytes;
use crate::verify::TestElement;

/// Memory for the buffers of an operation cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot allocate {} for the buffers of an operation", format_bytes(*.bytes))]
pub struct BufferError {
    /// Bytes wanted at once.
    pub bytes: u64,
}

/// The ranks of a communicator as a [`Group`].
#[derive(Debug)]
pub struct CommunicatorGroup<'a> {
    communicator: &'a Communicator,
}

impl<'a> CommunicatorGroup<'a> {
    /// Uses `communicator`, which the workloads may use as well: never at the same time.
    pub const fn new(communicator: &'a Communicator) -> Self {
        Self { communicator }
    }
}

impl Group for CommunicatorGroup<'_> {
    fn rank(&self) -> u32 {
        self.communicator.rank()
    }

    fn world_size(&self) -> u32 {
        self.communicator.world_size()
    }

    fn barrier(&mut self) -> Result<(), BoxError> {
        Ok(self.communicator.barrier()?)
    }

    fn broadcast(&mut self, value: u64) -> Result<u64, BoxError> {
        let mut word = [value.cast_signed()];
        self.communicator.broadcast(&mut word, 0)?;
        Ok(word[0].cast_unsigned())
    }

    fn gather(&mut self, values: &[u64]) -> Result<Vec<Vec<u64>>, BoxError> {
        let own: Vec<i64> = values.iter().map(|value| value.cast_signed()).collect();
        let ranks = index(self.world_size());
        let mut all = vec![0_i64; own.len() * ranks];
        self.communicator.all_gather(&own, &mut all)?;
        let of_rank = |rank: usize| {
            let block = &all[rank * own.len()..(rank + 1) * own.len()];
            block.iter().map(|value| value.cast_unsigned()).collect()
        };
        Ok((0..ranks).map(of_rank).collect())
    }
}

/// Bare exchanges between the ranks of a communicator.
#[derive(Debug)]
pub struct BareExchange<'a> {
    communicator: &'a Communicator,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<'a> BareExchange<'a> {
    /// Exchanges over the connections of `communicator`.
    pub const fn new(communicator: &'a Communicator) -> Self {
        Self { communicator, input: Vec::new(), output: Vec::new() }
    }

    fn shift(&mut self, bytes: usize, piece: usize) -> Result<(), BoxError> {
        // Ones, not zeros: pages that were never written are all the same page of zeros, and
        // sending that would be too easy.
        grow(&mut self.input, bytes, 1)?;
        grow(&mut self.output, bytes, 1)?;
        self.communicator.shift(&self.input[..bytes], &mut self.output[..bytes], Some(piece))?;
        Ok(())
    }

    /// Every rank gets a share of the bytes from each other rank, and has one of its own.
    fn gather(&mut self, bytes: usize) -> Result<(), BoxError> {
        let ranks = index(self.communicator.world_size());
        let share = bytes.div_ceil((ranks - 1).max(1));
        grow(&mut self.output, share * ranks, 1)?;
        self.communicator.all_gather_in_place(&mut self.output[..share * ranks])?;
        Ok(())
    }
}

impl Exchange for BareExchange<'_> {
    fn exchange(&mut self, bytes: u64, manner: Manner) -> Result<(), BoxError> {
        let bytes = usize::try_from(bytes)?;
        match manner {
            Manner::Pieces(piece) => self.shift(bytes, usize::try_from(piece)?),
            Manner::Everybody => self.gather(bytes),
        }
    }
}

/// The collective as the library names it.
pub const fn library_name(collective: Collective) -> paceline_collectives::Collective {
    match collective {
        Collective::AllReduce => paceline_collectives::Collective::AllReduce,
        Collective::ReduceScatter => paceline_collectives::Collective::ReduceScatter,
        Collective::AllGather => paceline_collectives::Collective::AllGather,
        Collective::Broadcast => paceline_collectives::Collective::Broadcast,
        Collective::Reduce => paceline_collectives::Collective::Reduce,
        Collective::AllToAll => paceline_collectives::Collective::AllToAll,
        Collective::Gather => paceline_collectives::Collective::Gather,
        Collective::Scatter => paceline_collectives::Collective::Scatter,
        Collective::Barrier => paceline_collectives::Collective::Barrier,
    }
}

/// The algorithm that all ranks have agreed on for one operation.
pub fn planned_algorithm<T: TestElement>(
    communicator: &Communicator,
    collective: Collective,
    shape: Shape,
) -> &'static str {
    // A size that does not fit in memory fails when its buffers are made, not here.
    let count = usize::try_from(shape.elements()).unwrap_or(usize::MAX / size_of::<T>());
    communicator.plan::<T>(library_name(collective), count).algorithm.name()
}

/// Why a collective call inside a measurement failed, if that is what an error is about.
pub fn collective_error(error: &BoxError) -> Option<&CollectiveError> {
    match error.downcast_ref() {
        Some(QueueError::Communicator { source, .. } | QueueError::Submit { source, .. }) => {
            Some(source)
        }
        _ => error.downcast_ref(),
    }
}

/// The bytes of `count` elements.
pub fn bytes_of(count: u64, dtype: DType) -> u64 {
    count.saturating_mul(crate::metrics::as_u64(dtype.size()))
}

/// Makes `buffer` at least `length` long without the panic that a plain `resize` ends in.
fn grow<T: Copy>(buffer: &mut Vec<T>, length: usize, value: T) -> Result<(), BufferError> {
    if length > buffer.len() {
        let bytes = length.saturating_mul(size_of::<T>());
        buffer
            .try_reserve_exact(length - buffer.len())
            .map_err(|_| BufferError { bytes: crate::metrics::as_u64(bytes) })?;
        buffer.resize(length, value);
    }
    Ok(())
}

fn index(rank: u32) -> usize {
    usize::try_from(rank).expect("ranks are indices in memory")
}

#[cfg(test)]
mod tests;

//! How ranks tell each other more than bits.

use paceline_devices::Element;

use super::error::QueueError;
use super::request::Announcement;
use crate::communicator::Communicator;
use crate::error::CollectiveError;

/// Bytes of the longest announcement: some hundred thousand tensors.
const ANNOUNCEMENT_BYTES_MAX: u64 = 64 << 20;

/// Why an exchange did not come about.
pub(super) enum Unexchanged {
    /// The communicator failed.
    Failed(CollectiveError),
    /// A rank said something that makes no sense.
    Unusable(QueueError),
}

impl From<CollectiveError> for Unexchanged {
    fn from(error: CollectiveError) -> Self {
        Self::Failed(error)
    }
}

impl From<QueueError> for Unexchanged {
    fn from(error: QueueError) -> Self {
        Self::Unusable(error)
    }
}

/// What every rank announces, in the order of ranks.
pub(super) fn exchange(
    communicator: &Communicator,
    own: &Announcement,
) -> Result<Vec<Announcement>, Unexchanged> {
    let text = serde_json::to_vec(own).map_err(|error| QueueError::Announcement {
        rank: communicator.in_world(communicator.rank()),
        what: error.to_string(),
    })?;
    let lengths = gather(communicator, &[text.len() as u64])?;
    for (rank, length) in (0u32..).zip(&lengths) {
        if *length > ANNOUNCEMENT_BYTES_MAX {
            let what = format!("{length} bytes");
            let rank = communicator.in_world(rank);
            return Err(QueueError::Announcement { rank, what }.into());
        }
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let longest = usize::try_from(longest).expect("it is below the limit");
    let mut padded = text;
    padded.resize(longest, 0);
    let texts = gather(communicator, &padded)?;
    // One that is empty makes no sense either; the parser says so.
    let parse = |(index, length): (usize, &u64)| {
        let start = index * longest;
        let end = start + usize::try_from(*length).expect("it is below the limit");
        serde_json::from_slice(&texts[start..end]).map_err(|error| QueueError::Announcement {
            rank: communicator.in_world(u32::try_from(index).expect("ranks are u32")),
            what: error.to_string(),
        })
    };
    let parsed: Result<Vec<_>, QueueError> = lengths.iter().enumerate().map(parse).collect();
    Ok(parsed?)
}

fn gather<T: Element>(communicator: &Communicator, own: &[T]) -> Result<Vec<T>, CollectiveError> {
    let all = own.repeat(communicator.world_size() as usize);
    let mut all: Vec<T> = all;
    communicator.all_gather(own, &mut all)?;
    Ok(all)
}

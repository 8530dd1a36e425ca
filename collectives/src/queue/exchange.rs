//! How ranks tell each other more than bits.

use paceline_devices::Element;

use super::error::QueueError;
use super::request::Announcement;
use crate::communicator::Communicator;
use crate::error::CollectiveError;

/// Bytes of the longest announcement: some hundred thousand tensors.
const ANNOUNCEMENT_BYTES_MAX: u64 = 64 << 20;

/// What every rank announces, in the order of ranks.
pub(super) fn exchange(
    communicator: &Communicator,
    own: &Announcement,
) -> Result<Vec<Announcement>, QueueError> {
    let text = serde_json::to_vec(own).map_err(|error| QueueError::Announcement {
        rank: communicator.in_world(communicator.rank()),
        what: error.to_string(),
    })?;
    let lengths = gather(communicator, &[text.len() as u64])?;
    for (rank, length) in (0u32..).zip(&lengths) {
        if *length > ANNOUNCEMENT_BYTES_MAX {
            let what = format!("{length} bytes");
            return Err(QueueError::Announcement { rank: communicator.in_world(rank), what });
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
    lengths.iter().enumerate().map(parse).collect()
}

fn gather<T: Element>(communicator: &Communicator, own: &[T]) -> Result<Vec<T>, QueueError> {
    let all = own.repeat(communicator.world_size() as usize);
    let mut all: Vec<T> = all;
    let gathered: Result<(), CollectiveError> = communicator.all_gather(own, &mut all);
    gathered.map_err(|error| QueueError::Communicator(Box::new(error)))?;
    Ok(all)
}

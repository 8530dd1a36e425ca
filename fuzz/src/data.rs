//! Whatever an authenticated but broken peer sends on its data streams, the endpoint neither panics
//! nor holds more than the eager limit nor keeps a slice.

use paceline_transports::{data_frames_to_change, feed_frames};

use crate::Reader;

/// Two streams, so that frames of one land between those of the other.
pub fn run(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (piece, split) = (usize::from(reader.byte()), usize::from(reader.byte()));
    let bytes = reader.rest();
    let (first, second) = bytes.split_at(bytes.len() * split / 256);
    feed_frames(&[first, second], piece);
}

/// Frames of every kind that match what is posted.
pub fn seeds() -> Vec<Vec<u8>> {
    data_frames_to_change().into_iter().map(|frames| [vec![200, 255], frames].concat()).collect()
}

//! Whatever an authenticated but broken peer sends on its data streams, the endpoint neither panics
//! nor holds more than the eager limit nor keeps a slice.

use paceline_transports::{Checksum, data_frames_to_change, feed_frames};

use crate::Reader;

/// Two streams, so that frames of one land between those of the other; with checksums if the first
/// byte is odd.
pub fn run(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let checksum = Checksum::ALL[usize::from(reader.byte() % 2)];
    let (piece, split) = (usize::from(reader.byte()), usize::from(reader.byte()));
    let bytes = reader.rest();
    let (first, second) = bytes.split_at(bytes.len() * split / 256);
    feed_frames(&[first, second], piece, checksum);
}

/// Frames of every kind that match what is posted.
pub fn seeds() -> Vec<Vec<u8>> {
    let with = |(mode, checksum)| {
        let frames = data_frames_to_change(checksum).into_iter();
        frames.map(move |frames| [vec![mode, 200, 255], frames].concat())
    };
    (0..).zip(Checksum::ALL).flat_map(with).collect()
}

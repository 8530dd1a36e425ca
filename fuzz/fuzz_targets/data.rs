//! Whatever an authenticated but broken peer sends on its data streams, the endpoint neither
//! panics nor holds more than the eager limit nor keeps a slice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paceline_transports::feed_frames;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (piece, split, bytes) = input;
    // Two streams, so that frames of one land between those of the other.
    let (first, second) = bytes.split_at(bytes.len() * usize::from(split) / 256);
    feed_frames(&[first, second], usize::from(piece));
});

//! What the launcher and an agent say to each other.
//!
//! The two directions are byte streams (pipes, locally and through ssh). Each starts with a
//! preamble that names the protocol, then come frames: length, type, body; the length is capped
//! and nothing executable is in them. Bodies are JSON except for ranks' output, which is raw.
//!
//! Flow control: an agent sends at most [`WINDOW_BYTES`] of a rank's stream beyond what the
//! launcher has granted back, so a reader that is slow stalls the rank that talks and nothing
//! else, and events never wait behind output for long.
//!
//! End of file in the direction of the agent means: the launcher is gone, end everything.

use std::time::Duration;

pub(crate) mod codec;
pub(crate) mod facts;
#[cfg(feature = "testing")]
pub(crate) mod hostile;
pub(crate) mod link;
pub(crate) mod messages;
pub(crate) mod room;
pub(crate) mod text;
pub(crate) mod tunnel;
pub(crate) mod window;

/// Time between two questions of the launcher to each agent, whether it is there.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of one stream of one rank that may be on their way at a time.
///
/// Eight reads of what a pipe holds: enough to keep a fast writer busy, and 8 ranks cost 8 MiB.
pub(crate) const WINDOW_BYTES: u32 = 512 << 10;

/// Largest piece of output in one frame: what a pipe holds by default.
pub(crate) const OUTPUT_BYTES_MAX: usize = 64 << 10;

//! Frames: 4 bytes length of the body (little endian), 1 byte type, body.

use thiserror::Error;

/// Every direction begins with this; the last byte is the version.
pub(crate) const PREAMBLE: [u8; 16] = *b"paceline-agent\x00\x03";

/// A launch plan may carry a command line and variables up to the kernel's limit of a few MiB.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;

/// What login scripts of a host may print before its agent speaks.
const NOISE_BYTES_MAX: usize = 64 << 10;

/// What stands before a body.
pub(crate) const HEADER_BYTES: usize = 5;

/// One frame, not interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) body: Vec<u8>,
}

/// What makes a byte stream not one of ours.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream does not begin with the preamble.
    #[error("the other side does not speak the agent protocol (it began with {begins:?})")]
    Preamble {
        /// Up to 16 bytes with which it began.
        begins: String,
    },
    /// The preamble names another version.
    #[error(
        "the other side speaks version {theirs} of the agent protocol, this side version {ours}"
    )]
    Version {
        /// Ours.
        ours: u8,
        /// Theirs.
        theirs: u8,
    },
    /// A body would be larger than allowed.
    #[error("a frame of {bytes} bytes is larger than the {max} bytes allowed")]
    TooLarge {
        /// Announced bytes.
        bytes: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// A body does not parse as what its type says.
    #[error("a frame of type {kind} is malformed: {reason}")]
    Malformed {
        /// Type byte.
        kind: u8,
        /// What is wrong with it.
        reason: String,
    },
}

/// Appends a frame to `out`.
///
/// # Errors
/// The body is larger than [`BODY_BYTES_MAX`].
pub(crate) fn encode(kind: u8, body: &[&[u8]], out: &mut Vec<u8>) -> Result<(), FrameError> {
    let bytes = body.iter().map(|part| part.len()).sum();
    let too_large = FrameError::TooLarge { bytes, max: BODY_BYTES_MAX };
    if bytes > BODY_BYTES_MAX {
        return Err(too_large);
    }
    let length = u32::try_from(bytes).map_err(|_| too_large)?;
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind);
    for part in body {
        out.extend_from_slice(part);
    }
    Ok(())
}

/// Takes bytes as they come, gives whole frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
    /// How much of `buffer` has been given out already.
    consumed: usize,
    greeted: bool,
    /// What comes before the preamble is passed over, as far as that may be.
    is_tolerant: bool,
}

impl Decoder {
    /// For a stream that a login shell may have written to before the other side does.
    pub(crate) fn after_login() -> Self {
        Self { is_tolerant: true, ..Self::default() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// What has come, as long as that is not the preamble.
    pub(crate) fn noise(&self) -> &[u8] {
        if self.greeted { &[] } else { &self.buffer }
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// The stream is not ours; it must not be read any further.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.greeted && !self.take_preamble()? {
            return Ok(None);
        }
        let rest = &self.buffer[self.consumed..];
        let Some((&[a, b, c, d, kind], body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if bytes > BODY_BYTES_MAX {
            return Err(FrameError::TooLarge { bytes, max: BODY_BYTES_MAX });
        }
        let Some(body) = body.get(..bytes) else { return Ok(None) };
        let frame = Frame { kind, body: body.to_vec() };
        self.consumed += HEADER_BYTES + bytes;
        Ok(Some(frame))
    }

    fn take_preamble(&mut self) -> Result<bool, FrameError> {
        let version_at = PREAMBLE.len() - 1;
        let present = self.buffer.len().min(PREAMBLE.len());
        let noise = if self.is_tolerant { noise(&self.buffer, &PREAMBLE[..version_at]) } else { 0 };
        let named = (self.buffer.len() - noise).min(version_at);
        if self.buffer[noise..][..named] != PREAMBLE[..named] || noise > NOISE_BYTES_MAX {
            let begins = String::from_utf8_lossy(&self.buffer[..present]).into_owned();
            return Err(FrameError::Preamble { begins });
        }
        let Some(&theirs) = self.buffer.get(noise + version_at) else { return Ok(false) };
        let ours = PREAMBLE[version_at];
        if theirs != ours {
            return Err(FrameError::Version { ours, theirs });
        }
        self.consumed = noise + PREAMBLE.len();
        self.greeted = true;
        Ok(true)
    }
}

/// How many bytes there are before `name`, or before what may become it.
fn noise(bytes: &[u8], name: &[u8]) -> usize {
    let begins_it = |at: &usize| {
        let rest = &bytes[*at..];
        rest.starts_with(name) || name.starts_with(rest)
    };
    (0..bytes.len()).find(begins_it).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = PREAMBLE.to_vec();
        for (kind, body) in frames {
            encode(*kind, &[body], &mut bytes).expect("small");
        }
        bytes
    }

    #[test]
    fn frames_survive_any_split() {
        let bytes = stream(&[(1, b"one"), (2, b""), (3, &[7; 300])]);
        for at in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in [&bytes[..at], &bytes[at..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next().expect("well formed") {
                    frames.push((frame.kind, frame.body.len()));
                }
            }
            assert_eq!(frames, [(1, 3), (2, 0), (3, 300)], "split at {at}");
        }
    }

    #[test]
    fn strangers_versions_and_giants_are_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"Welcome to host1!\n");
        assert!(matches!(decoder.next(), Err(FrameError::Preamble { .. })));

        let mut decoder = Decoder::default();
        let mut other = PREAMBLE;
        other[15] = 9;
        decoder.push(&other);
        assert_eq!(decoder.next(), Err(FrameError::Version { ours: 3, theirs: 9 }));

        let mut decoder = Decoder::default();
        decoder.push(&PREAMBLE);
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert!(matches!(decoder.next(), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn what_a_login_prints_is_passed_over() {
        let said = b"Welcome, paceline-agents!\npaceline-a";
        let bytes = [&said[..], &stream(&[(1, b"one")])].concat();
        for at in 0..bytes.len() {
            let mut decoder = Decoder::after_login();
            decoder.push(&bytes[..at]);
            assert_eq!(decoder.next(), Ok(None), "split at {at}");
            decoder.push(&bytes[at..]);
            let frame = decoder.next().expect("well formed").expect("whole");
            assert_eq!((frame.kind, &frame.body[..]), (1, &b"one"[..]));
        }
        let mut decoder = Decoder::after_login();
        decoder.push(&[b'x'; NOISE_BYTES_MAX + 1]);
        assert!(matches!(decoder.next(), Err(FrameError::Preamble { .. })));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut seed = 1_u32;
        for _ in 0..200 {
            let mut decoder = Decoder::default();
            decoder.push(&PREAMBLE);
            for _ in 0..50 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                decoder.push(&seed.to_be_bytes()[..2]);
                if decoder.next().is_err() {
                    break;
                }
            }
        }
    }
}

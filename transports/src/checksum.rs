use std::fmt;
use std::str::FromStr;

use crc_fast::{CrcAlgorithm, Digest};

/// Whether frames carry checksums, so that bytes which change on the way are noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// They do not: one relies on those of TCP and of the links.
    #[default]
    None,
    /// CRC-32C (Castagnoli), one of each header and one of each payload. Both sides read every byte once
    /// more, at some 50 GB/s where the processor has the instructions for it and the bytes are in a cache.
    Crc32c,
}

impl Checksum {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::None, Self::Crc32c];

    /// The name used on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Crc32c => "crc32c",
        }
    }

    /// The checksum of `bytes` that follow on what has the checksum `before`; that of nothing is 0.
    #[inline]
    pub(crate) fn append(self, before: u32, bytes: &[u8]) -> u32 {
        match self {
            Self::None => 0,
            Self::Crc32c => crc32c(before, bytes),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a CRC-32C has 32 bits, in the crate's u64 too"
)]
fn crc32c(before: u32, bytes: &[u8]) -> u32 {
    // A finished checksum is the state with all bits turned round, and so is that of nothing.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(!before));
    digest.update(bytes);
    digest.finalize() as u32
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|checksum| checksum.name() == name);
        found.ok_or_else(|| "expected none or crc32c".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_castagnoli_polynomial() {
        // RFC 3720, B.4.
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, expected) in [
            (&[0u8; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
            (b"", 0),
        ] {
            assert_eq!(Checksum::Crc32c.append(0, bytes), expected);
            let (one, other) = bytes.split_at(bytes.len() / 3);
            let first = Checksum::Crc32c.append(0, one);
            assert_eq!(Checksum::Crc32c.append(first, other), expected);
            assert_eq!(Checksum::None.append(0, bytes), 0);
        }
    }

    #[test]
    fn names_round_trip() {
        for checksum in Checksum::ALL {
            assert_eq!(checksum.name().parse(), Ok(checksum));
        }
        assert!("crc32".parse::<Checksum>().unwrap_err().contains("crc32c"));
    }
}

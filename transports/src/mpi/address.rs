//! What a rank publishes about its place in the MPI world: `mpi/1 WORLD RANK/SIZE TAG`.

use crate::EstablishError;

const PREFIX: &str = "mpi/1 ";

/// A rank's place, and the tag of what is sent to it in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The number that tells this MPI world from others.
    pub(super) world: u64,
    /// The rank that MPI gave it.
    pub(super) rank: u32,
    /// Processes in its MPI world.
    pub(super) size: u32,
    /// The tag of messages to it.
    pub(super) tag: i32,
}

impl Address {
    pub(super) fn encode(self) -> Vec<u8> {
        let Self { world, rank, size, tag } = self;
        format!("{PREFIX}{world:016x} {rank}/{size} {tag}").into_bytes()
    }

    pub(super) fn decode(peer: u32, bytes: &[u8]) -> Result<Self, EstablishError> {
        let text = String::from_utf8_lossy(bytes);
        parse(&text).ok_or_else(|| EstablishError::Address {
            peer,
            what: format!("{text:?} is no MPI address of version 1"),
        })
    }
}

fn parse(text: &str) -> Option<Address> {
    let mut words = text.strip_prefix(PREFIX)?.split(' ');
    let world = u64::from_str_radix(words.next()?, 16).ok()?;
    let (rank, size) = words.next()?.split_once('/')?;
    let (rank, size) = (rank.parse().ok()?, size.parse().ok()?);
    let tag = words.next()?.parse().ok().filter(|tag| *tag >= 0)?;
    (words.next().is_none() && rank < size).then_some(Address { world, rank, size, tag })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        let address = Address { world: 0x1234_5678_9abc_def0, rank: 2, size: 3, tag: 77 };
        assert_eq!(Address::decode(2, &address.encode()).unwrap(), address);
        for wrong in
            ["", "tcp/1 x", "mpi/1 ff 0/2", "mpi/1 ff 2/2 1", "mpi/1 ff 0/2 -1", "mpi/1 g 0/2 1 1"]
        {
            assert!(Address::decode(0, wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Address::decode(0, &[0xff]).is_err());
    }
}

//! What a rank publishes about its listening socket: `tcp/1 HOST:PORT`.

use std::net::SocketAddr;

use crate::EstablishError;

const PREFIX: &str = "tcp/1 ";

pub(super) fn encode(address: SocketAddr) -> Vec<u8> {
    format!("{PREFIX}{address}").into_bytes()
}

pub(super) fn decode(peer: u32, bytes: &[u8]) -> Result<SocketAddr, EstablishError> {
    let text = String::from_utf8_lossy(bytes);
    text.strip_prefix(PREFIX).and_then(|address| address.parse().ok()).ok_or_else(|| {
        EstablishError::Address { peer, what: format!("{text:?} is no TCP address of version 1") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_round_trip() {
        for text in ["10.0.0.7:41022", "[fd00::7]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode(0, &encode(address)).unwrap(), address);
        }
        assert!(decode(0, b"shm/1 x").is_err());
        assert!(decode(0, &[0xff, 0xfe]).is_err());
    }
}

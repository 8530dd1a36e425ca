//! What a broken rank of one's node says before memory is shared.

/// Reads `bytes` as what comes over the socket, and as the address of a rank.
pub fn run(bytes: &[u8]) {
    paceline_transports::shm::check_arena_handshake(bytes);
}

/// All is well, something is not, and an address.
pub fn seeds() -> Vec<Vec<u8>> {
    let sorry = b"\x05\x02\0\0\0sorry".to_vec();
    vec![vec![0; 5], sorry, vec![0; 10], b"shm/1 name".to_vec()]
}

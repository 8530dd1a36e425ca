//! What a broken rank announces to a queue: something to decide about, or an error.

/// Reads `bytes` as an announcement.
pub fn run(bytes: &[u8]) {
    paceline_collectives::check_announcement(bytes);
}

/// Announcements of all kinds of operations.
pub fn seeds() -> Vec<Vec<u8>> {
    paceline_collectives::announcements_to_change()
}

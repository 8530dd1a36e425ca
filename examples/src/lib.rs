//! Programs that a user starts from.

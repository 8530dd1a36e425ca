//! The `paceline` command: arguments in, text, JSON and an exit code out.

fn main() {}

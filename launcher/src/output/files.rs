//! `--output-filename DIR`: one file per rank and stream.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Stream;

/// The file of a rank's stream: `DIR/rank.07/stderr`, padded so that listings sort.
pub(crate) fn path(directory: &Path, rank: u32, world_size: u32, stream: Stream) -> PathBuf {
    let width = world_size.saturating_sub(1).to_string().len().max(2);
    directory.join(format!("rank.{rank:0width$}")).join(stream.file_name())
}

/// Creates the file of every rank for one stream, emptying those of an earlier run.
///
/// # Errors
/// Names the path that could not be created.
pub(crate) fn create_all(
    directory: &Path,
    world_size: u32,
    stream: Stream,
) -> Result<Vec<(PathBuf, File)>, (PathBuf, io::Error)> {
    (0..world_size)
        .map(|rank| {
            let path = path(directory, rank, world_size, stream);
            let parent = path.parent().unwrap_or(directory);
            fs::create_dir_all(parent).map_err(|error| (parent.to_owned(), error))?;
            match File::create(&path) {
                Ok(file) => Ok((path, file)),
                Err(error) => Err((path, error)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_padded_to_the_widest_rank_and_to_two_digits() {
        let name = |rank, world_size| path(Path::new("d"), rank, world_size, Stream::Stdout);
        assert_eq!(name(0, 1), Path::new("d/rank.00/stdout"));
        assert_eq!(name(11, 12), Path::new("d/rank.11/stdout"));
        assert_eq!(name(7, 101), Path::new("d/rank.007/stdout"));
    }
}

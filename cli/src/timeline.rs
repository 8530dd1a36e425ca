//! The end of a job's timeline.
//!
//! Ranks append to it, one event in a line, and whoever reads it while they run, or when all were
//! killed, has to do without the end of the array, which Perfetto and Chrome do. Who has seen the
//! ranks end can do better: the file becomes plain JSON.

use std::fs::{self, File, OpenOptions};
use std::io::{
    self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _,
};
use std::path::{Path, PathBuf};

use paceline_launcher::Outcome;
use paceline_rendezvous::env::{self, Environment};
use serde::de::IgnoredAny;

use crate::console;

/// The last element of the array: it has no comma behind it.
const LAST: &str = "{\"name\":\"end_of_job\",\"ph\":\"M\",\"pid\":0,\"tid\":0,\"args\":{}}\n]\n";

/// What a file of ours begins with.
const FIRST: &str = "[";

/// A timeline that ranks are to write.
#[derive(Debug)]
pub(crate) struct Timeline {
    path: PathBuf,
}

impl Timeline {
    /// The one that the settings name.
    pub(crate) fn of(settings: &impl Environment) -> Option<Self> {
        let name = env::TIMELINE.text(settings).ok()??;
        Some(Self { path: PathBuf::from(name) })
    }

    /// Ends the array, now that no rank is left. Killed ranks may have left half a line.
    pub(crate) fn close(&self, outcome: &Outcome) {
        let was_killed = outcome.exit_code().code() != 0;
        match close(&self.path, was_killed) {
            // Programs that do not use Paceline's collectives make no timeline.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                console::note(&format!("cannot end the timeline {}: {error}", self.path.display()));
            }
            Ok(()) => {}
        }
    }
}

fn close(path: &Path, was_killed: bool) -> io::Result<()> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    if lines.next().transpose()?.as_deref() != Some(FIRST) {
        // It is an older file that no rank has replaced, and may be of another kind.
        return Ok(());
    }
    drop(lines);
    let end = end_of(path)?;
    if end.as_slice() == LAST.as_bytes() {
        // So is this one, and it is over.
        return Ok(());
    }
    // A disk that is full tears a line, too.
    if was_killed || end.last() != Some(&b'\n') {
        keep_whole_lines(path)?;
    }
    OpenOptions::new().append(true).open(path)?.write_all(LAST.as_bytes())
}

/// The last bytes of a file: as many as its end has if it was closed, or all.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LAST.len() as u64);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end)
}

/// Writes the file anew without the lines that are no events.
fn keep_whole_lines(path: &Path) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".partial");
    let mut kept = BufWriter::new(File::create(&temporary)?);
    writeln!(kept, "{FIRST}")?;
    for line in BufReader::new(File::open(path)?).split(b'\n').skip(1) {
        let line = line?;
        if let Some(event) = line.strip_suffix(b",")
            && serde_json::from_slice::<IgnoredAny>(event).is_ok()
        {
            kept.write_all(&line)?;
            kept.write_all(b"\n")?;
        }
    }
    kept.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(text: &str, was_killed: bool) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("timeline.json");
        fs::write(&path, text).unwrap();
        close(&path, was_killed).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        fs::read_to_string(&path).unwrap()
    }

    #[test]
    fn a_closed_timeline_is_json() {
        let whole = "[\n{\"a\":1},\n{\"b\":2},\n";
        for was_killed in [false, true] {
            let text = closed(whole, was_killed);
            let events: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(events.len(), 3);
            assert_eq!(closed(&text, was_killed), text, "it is closed once");
        }
        let torn = "[\n{\"a\":1},\n{\"b\":{\"c\":3},\n{\"d\":4},\n{\"e\":";
        for was_killed in [false, true] {
            let text = closed(torn, was_killed);
            let events: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert_eq!((events.len(), &events[1]["d"]), (3, &4.into()));
        }
    }

    #[test]
    fn files_of_others_are_left_alone() {
        assert_eq!(closed("{\"a\": 1}\n", true), "{\"a\": 1}\n");
        let directory = tempfile::tempdir().unwrap();
        let missing = close(&directory.path().join("none"), false).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}

//! The end of a job's timeline.
//!
//! Ranks append to it, one event in a line, and whoever reads it while they run, or when all were
//! killed, has to do without the end of the array, which Perfetto and Chrome do. Who has seen the
//! ranks end can do better: the file becomes plain JSON.
//!
//! This happens when signals do not end the launcher any more, so nothing here waits for anybody:
//! what is not a regular file is not even opened. A disk may be full, so nothing here needs room
//! that the file does not have already, but for its last line.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, BufRead, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use paceline_launcher::Outcome;
use paceline_rendezvous::env::{self, Environment, EnvironmentError};
use rustix::fs::{Mode, OFlags, open};
use serde::de::IgnoredAny;

use crate::console;

/// The last element of the array: it has no comma behind it.
const LAST: &[u8] = b"{\"name\":\"end_of_job\",\"ph\":\"M\",\"pid\":0,\"tid\":0,\"args\":{}}\n]\n";

/// What a file of ours begins with.
const FIRST: &[u8] = b"[\n";

/// Bytes of a line that are read at once; an event is shorter by far, unless somebody gave a tensor
/// a name of so many.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A timeline that ranks are to write.
#[derive(Debug)]
pub(crate) struct Timeline {
    path: PathBuf,
}

/// Why there will be no timeline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TimelineError {
    #[error("cannot write the timeline {}: it is {what}", path.display())]
    NoFile { path: PathBuf, what: &'static str },
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

impl TimelineError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoFile { .. } => Some(
                "--timeline (PACELINE_TIMELINE) names a file to be made, or an older timeline to be \
                 replaced"
                    .to_owned(),
            ),
            Self::Environment(error) => error.hint(),
        }
    }
}

impl Timeline {
    /// The one that the settings name.
    ///
    /// # Errors
    /// There is something of that name which is no file.
    pub(crate) fn of(settings: &impl Environment) -> Result<Option<Self>, TimelineError> {
        let Some(name) = env::TIMELINE.text(settings)? else { return Ok(None) };
        let path = PathBuf::from(name);
        // What cannot be looked at, the ranks will say, if they make a timeline at all.
        match fs::metadata(&path).ok().as_ref().and_then(other_kind) {
            Some(what) => Err(TimelineError::NoFile { path, what }),
            None => Ok(Some(Self { path })),
        }
    }

    /// Ends the array, now that no rank is left. Killed ranks may have left half a line.
    pub(crate) fn close(&self, outcome: &Outcome) {
        let was_killed = outcome.exit_code().code() != 0;
        let warning = match close(&self.path, was_killed) {
            // Programs that do not use Paceline's collectives make no timeline.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Ok(Closed::Whole) => return,
            Ok(cut) => cut.to_string(),
            Err(error) => format!("cannot be ended: {error}"),
        };
        console::note(&format!("the timeline {} {warning}", self.path.display()));
    }
}

/// What something is that is no regular file.
fn other_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a named pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        _ => Some("no regular file"),
    }
}

/// How a timeline was ended.
#[derive(Debug)]
enum Closed {
    /// With all that was written.
    Whole,
    /// A rank could not write all of a line, though nothing killed it; perhaps for this reason.
    Torn(Option<io::Error>),
    /// There was no room for the end, for which some events have made some if they could.
    Cut(io::Error),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Torn(None) => f.write_str("lacks events: a rank could not write all of them"),
            Self::Torn(Some(error)) | Self::Cut(error) => write!(f, "ends early: {error}"),
        }
    }
}

fn close(path: &Path, was_killed: bool) -> io::Result<Closed> {
    let Some(file) = open_file(path, OFlags::RDONLY)? else { return Ok(Closed::Whole) };
    let mut first = Vec::new();
    (&file).take(FIRST.len() as u64).read_to_end(&mut first)?;
    if first != FIRST || end_of(&file)? == LAST {
        // It is an older file that no rank has replaced, and may be of another kind; or it is over.
        return Ok(Closed::Whole);
    }
    let Some(file) = open_file(path, OFlags::RDWR)? else { return Ok(Closed::Whole) };
    let length = file.metadata()?.len();
    // A disk that is full tears a line, too.
    let is_torn = end_of(&file)?.last() != Some(&b'\n');
    // The rank that could not go on here has not said why; whoever tries the same is told.
    let cause = if is_torn { file.write_all_at(b"\n", length).err() } else { None };
    let kept = if was_killed || is_torn { keep_whole_lines(&file)? } else { length };
    match file.write_all_at(LAST, kept) {
        Ok(()) if cause.is_some() || is_torn && !was_killed => Ok(Closed::Torn(cause)),
        Ok(()) => Ok(Closed::Whole),
        Err(error) => {
            end_within(&file, kept)?;
            Ok(Closed::Cut(error))
        }
    }
}

/// Opens a file, and nothing else: whoever has put something else in its place meanwhile must not
/// make us wait for another end of it.
fn open_file(path: &Path, flags: OFlags) -> io::Result<Option<File>> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    Ok(file.metadata()?.is_file().then_some(file))
}

/// The last bytes of a file: as many as its end has if it was closed, or all.
fn end_of(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let size = usize::try_from(length).unwrap_or(usize::MAX).min(LAST.len());
    let mut end = vec![0; size];
    file.read_exact_at(&mut end, length - size as u64)?;
    Ok(end)
}

/// Removes the lines that are no events, and returns how long the file is then. What is behind such
/// a line moves to its place, so that no room is needed for a copy.
fn keep_whole_lines(file: &File) -> io::Result<u64> {
    let mut lines = BufReader::new(At { file, offset: FIRST.len() as u64 });
    let (mut read, mut kept) = (FIRST.len() as u64, FIRST.len() as u64);
    let (mut line, mut is_rest) = (Vec::new(), false);
    loop {
        line.clear();
        let count = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if count == 0 {
            break;
        }
        if !is_rest && is_event(&line) {
            if kept < read {
                file.write_all_at(&line, kept)?;
            }
            kept += count as u64;
        }
        read += count as u64;
        is_rest = line.last() != Some(&b'\n');
    }
    file.set_len(kept)?;
    Ok(kept)
}

fn is_event(line: &[u8]) -> bool {
    let event = line.strip_suffix(b",\n").filter(|event| event.starts_with(b"{"));
    event.is_some_and(|event| serde_json::from_slice::<IgnoredAny>(event).is_ok())
}

/// Ends a file of whole lines in the room that it has: the last ones make place.
fn end_within(file: &File, kept: u64) -> io::Result<()> {
    // Some of what did not fit may have been written.
    file.set_len(kept)?;
    let mut at = kept;
    while at > FIRST.len() as u64 && kept - at < LAST.len() as u64 {
        at = start_of_line(file, at)?;
    }
    if kept - at < LAST.len() as u64 {
        // Programs read what has no end, too.
        return Ok(());
    }
    file.write_all_at(LAST, at)?;
    file.set_len(at + LAST.len() as u64)
}

/// Where the line begins that ends at `end`.
fn start_of_line(file: &File, end: u64) -> io::Result<u64> {
    let mut chunk = [0; 4096];
    let mut until = end.saturating_sub(1);
    while until > 0 {
        let size = usize::try_from(until).unwrap_or(usize::MAX).min(chunk.len());
        let start = until - size as u64;
        file.read_exact_at(&mut chunk[..size], start)?;
        if let Some(at) = chunk[..size].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        until = start;
    }
    Ok(0)
}

/// A file from some place on, whoever else reads or writes it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn closed(text: &str, was_killed: bool) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("timeline.json");
        fs::write(&path, text).unwrap();
        let is_torn = !text.ends_with('\n') && text.starts_with("[\n");
        let how = close(&path, was_killed).unwrap();
        assert_eq!(matches!(how, Closed::Torn(None)), is_torn && !was_killed, "{how:?}");
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
    fn a_line_that_is_too_long_is_left_out_whatever_its_end_looks_like() {
        let long = " ".repeat(usize::try_from(LINE_BYTES_MAX).unwrap() * 2);
        let text = format!("[\n{{\"a\":1}},\n{long}{{\"c\":1}},\n{{\"b\":2}},\n{{");
        let events: Vec<serde_json::Value> = serde_json::from_str(&closed(&text, true)).unwrap();
        assert_eq!((events.len(), &events[1]["b"]), (3, &2.into()));
    }

    #[test]
    fn files_of_others_are_left_alone() {
        for text in ["{\"a\": 1}\n", "[]", "[1,\n2]", "[", ""] {
            assert_eq!(closed(text, true), text);
        }
        let directory = tempfile::tempdir().unwrap();
        let missing = close(&directory.path().join("none"), false).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_end_without_room_takes_that_of_the_last_events() {
        let line = |number: u32| format!("{{\"number\":{number}}},\n");
        let text: String = std::iter::once("[\n".to_owned()).chain((0..50).map(line)).collect();
        let mut file = tempfile::tempfile().unwrap();
        for size in [text.len(), 60, FIRST.len()] {
            let whole = text[..size].rfind('\n').unwrap() + 1;
            file.set_len(0).unwrap();
            file.write_all_at(&text.as_bytes()[..whole], 0).unwrap();
            // Half of the end was written before there was no more room.
            file.write_all_at(&LAST[..20], whole as u64).unwrap();
            end_within(&file, whole as u64).unwrap();
            let length = file.metadata().unwrap().len();
            assert!(length <= whole as u64, "{length} is more than {whole}");
            let mut left = String::new();
            io::Seek::rewind(&mut file).unwrap();
            file.read_to_string(&mut left).unwrap();
            if size == text.len() {
                let events: Vec<serde_json::Value> = serde_json::from_str(&left).unwrap();
                assert!((40..50).contains(&(events.len() - 1)), "{left}");
            } else {
                assert_eq!(left, text[..whole], "too short for an end");
            }
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_never_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (pipe, socket) = (directory.path().join("pipe"), directory.path().join("socket"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let device = PathBuf::from("/dev/full");
        for (path, what) in [
            (directory.path(), "a directory"),
            (&pipe, "a named pipe"),
            (&socket, "a socket"),
            (&device, "a device"),
        ] {
            let settings = HashMap::from([("PACELINE_TIMELINE", path)]);
            let error = Timeline::of(&settings).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()) && text.contains(what), "{text}");
            assert!(error.hint().is_some());
            // Somebody may put it there while the ranks run.
            let _ = close(path, true);
        }
        let file = directory.path().join("new.json");
        let settings = HashMap::from([("PACELINE_TIMELINE", &file)]);
        assert!(Timeline::of(&settings).unwrap().is_some());
    }
}

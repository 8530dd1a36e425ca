//! The file: made once for a job, then appended to by all.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::clock::{Clock, Origin};
use super::{Event, NameId, Place, Track, What, format};

/// Tracks of one context begin with a multiple of this.
const TRACKS_PER_CONTEXT: u32 = 10_000;

/// The first event of a file, behind the bracket.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    ph: String,
    pid: u32,
    tid: u32,
    args: Origin,
}

const HEAD: &str = "clock_origin";

/// Longest beginning of a file, up to the end of its head.
const HEAD_BYTES_MAX: u64 = 4096;

/// Makes the file of a job, in place of an older one. Whoever opens the path meanwhile sees one of
/// the two.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if !may_be_replaced(path)? {
        let what = "there is a file of that name that is no timeline";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    let (name, ph) = (HEAD.to_owned(), "M".to_owned());
    let head = Head { name, ph, pid: 0, tid: 0, args: Origin::now() };
    let head = serde_json::to_string(&head).expect("plain data");
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.partial", std::process::id()));
    let made = fs::write(&temporary, format!("[\n{head},\n"));
    made.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // What cannot be made can hardly be removed.
        let _ = fs::remove_file(&temporary);
    })
}

/// Whether nothing but a timeline would be lost.
fn may_be_replaced(path: &Path) -> io::Result<bool> {
    // The other end of a pipe is nothing to wait for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from);
    let mut file = match opened.map(File::from) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut first = [0];
    Ok(file.read(&mut first)? == 0 || first == *b"[")
}

/// Opens the file for appending.
pub(super) fn open(path: &Path) -> io::Result<(File, Origin)> {
    let mut lines = BufReader::new(File::open(path)?.take(HEAD_BYTES_MAX)).lines();
    let (_, head) = (lines.next(), lines.next().transpose()?.unwrap_or_default());
    let head: Head = serde_json::from_str(head.trim_end_matches(','))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no timeline of ours"))?;
    Ok((OpenOptions::new().append(true).open(path)?, head.args))
}

/// Formats events and appends them.
pub(super) struct Writer {
    file: File,
    clock: Clock,
    rank: u32,
    context: u32,
    tracks: HashMap<Track, u32>,
    names: Vec<Arc<str>>,
    /// Tells submissions apart.
    next_id: u64,
    text: String,
}

impl Writer {
    pub(super) fn new(file: File, clock: Clock, place: Place<'_>) -> Self {
        let Place { rank, context, transport } = place;
        let mut text = String::new();
        let host = rustix::system::uname();
        let name = format!(
            "rank {rank} ({}, pid {}, {transport}{})",
            host.nodename().to_string_lossy(),
            std::process::id(),
            if clock.is_shared { "" } else { ", clock of its own" }
        );
        format::metadata(&mut text, "process_name", (rank, 0), &name);
        format::sort_index(&mut text, "process_sort_index", (rank, 0), rank);
        let (tracks, names) = (HashMap::new(), Vec::new());
        Self { file, clock, rank, context, tracks, names, next_id: 0, text }
    }

    /// Appends events, in one write of whole lines.
    pub(super) fn write(
        &mut self,
        events: &[Event],
        new_names: &[Arc<str>],
        dropped: u64,
    ) -> io::Result<()> {
        self.names.extend_from_slice(new_names);
        for event in events {
            let tid = self.tid(event.track);
            if let What::Submission { .. } = event.what {
                self.next_id += 1;
            }
            let names = &self.names;
            let name = |NameId(number): NameId| {
                let known = usize::try_from(number).ok().and_then(|number| names.get(number));
                known.map_or("a submission", |name| name).to_owned()
            };
            // Numbers of contexts of one process must differ.
            let id = u64::from(self.context) << 48 | self.next_id;
            format::event(&mut self.text, event, (self.rank, tid), &self.clock, name, id);
        }
        if dropped > 0 {
            let at = events.last().map_or_else(std::time::Instant::now, |event| event.end);
            let place = (self.rank, self.context * TRACKS_PER_CONTEXT);
            format::dropped(&mut self.text, place, self.clock.ns(at), dropped);
        }
        if self.text.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(self.text.as_bytes());
        self.text.clear();
        written
    }

    /// The number of a track; a new one is introduced.
    fn tid(&mut self, track: Track) -> u32 {
        if let Some(tid) = self.tracks.get(&track) {
            return *tid;
        }
        let count = u32::try_from(self.tracks.len()).unwrap_or(u32::MAX);
        let tid = (self.context * TRACKS_PER_CONTEXT).saturating_add(count).saturating_add(1);
        self.tracks.insert(track, tid);
        let (place, name) = ((self.rank, tid), format::track_name(track, self.context));
        format::metadata(&mut self.text, "thread_name", place, &name);
        let index = self.context * 10 + format::track_order(track);
        format::sort_index(&mut self.text, "thread_sort_index", place, index);
        tid
    }
}

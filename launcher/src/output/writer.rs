//! The thread that writes one of our output streams.
//!
//! Terminals and pipes that we share with others must not be made non-blocking, so writing to them
//! may block for as long as nobody reads. A thread per stream takes that wait: the supervisor stays
//! awake for signals and deaths. What is in flight is bounded by the credits of the protocol.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::RankList;
use rustix::event::{PollFd, PollFlags, poll};

use super::Stream;
use super::fold::Fold;
use super::lines::LineCutter;
use super::mixer::Mixer;
use super::prefix::Prefixes;
use super::screen::Screen;

/// A progress bar whose program is silent for this long is shown as it stands.
const REPAINT_DELAY: Duration = Duration::from_millis(100);

/// Lines of the launcher's own that wait for a reader; ranks are held up instead, the launcher is not.
const SAID_MAX: usize = 1000;

/// Output is gathered up to this many bytes per system call.
const GATHER_BYTES_MAX: usize = 256 << 10;

/// What the thread reports.
#[derive(Debug)]
pub(crate) enum WriterEvent {
    /// So many bytes of the rank have left; it may send as many more.
    Written { rank: u32, stream: Stream, bytes: u32 },
    /// Our own stream cannot be written any more; the thread discards from here on.
    StreamFailed { error: io::Error },
    /// A rank's file cannot be written any more.
    FileFailed { path: PathBuf, error: io::Error },
    /// Everything has been written; the thread ends.
    Finished,
}

/// Where the bytes of a stream go.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Our own descriptor, which may be shared with other processes; `None` for files only.
    pub(crate) shared: Option<OwnedFd>,
    /// One file per rank with its path, or empty.
    pub(crate) files: Vec<(PathBuf, File)>,
    /// What stands before each line.
    pub(crate) prefix: Option<Prefixes>,
    /// The ranks whose output goes to `shared`; `None` for all.
    pub(crate) shown: Option<RankList>,
    /// Whether a line that several ranks print is shown once.
    pub(crate) folds: bool,
}

impl Destination {
    fn shows(&self, rank: u32) -> bool {
        self.shown.as_ref().is_none_or(|shown| shown.contains(rank))
    }
}

#[derive(Debug)]
enum Job {
    Chunk {
        rank: u32,
        bytes: Vec<u8>,
    },
    Ended {
        rank: u32,
    },
    /// A line of the launcher's own.
    Said {
        text: String,
    },
}

/// Handle of the thread. Dropping it lets the thread write what it has and end.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    jobs: mpsc::Sender<Job>,
    /// Lines of the launcher's own that are on their way.
    said: Arc<AtomicUsize>,
}

impl StreamWriter {
    /// Starts the thread for the streams of ranks `0..world_size`.
    ///
    /// # Errors
    /// The operating system allows no further thread.
    pub(crate) fn start(
        stream: Stream,
        world_size: u32,
        mut destination: Destination,
        on_event: impl Fn(WriterEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let cutters = (0..world_size).map(|_| LineCutter::default()).collect();
        let fold = destination.folds.then(|| Fold::new(world_size, |rank| destination.shows(rank)));
        let screen = Screen::new(Mixer::new(destination.prefix.take()), fold);
        let said = Arc::default();
        let worker = Worker {
            said: Arc::clone(&said),
            stream,
            destination,
            on_event: Box::new(on_event),
            cutters,
            screen,
            owed: Vec::new(),
        };
        thread::Builder::new()
            .name(format!("paceline-{}", stream.file_name()))
            .spawn(move || worker.run(&queue))?;
        Ok(Self { jobs, said })
    }

    /// Queues bytes of a rank.
    pub(crate) fn write(&self, rank: u32, bytes: Vec<u8>) {
        // The thread only ends when this handle is dropped.
        let _ = self.jobs.send(Job::Chunk { rank, bytes });
    }

    /// Queues a line of the launcher's own, which stands between those of the ranks. Too many that
    /// nobody reads are none.
    pub(crate) fn say(&self, text: &str) {
        if self.said.fetch_add(1, Ordering::Relaxed) >= SAID_MAX {
            self.said.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let _ = self.jobs.send(Job::Said { text: text.to_owned() });
    }

    /// The rank's stream has ended.
    pub(crate) fn ended(&self, rank: u32) {
        let _ = self.jobs.send(Job::Ended { rank });
    }
}

struct Worker {
    said: Arc<AtomicUsize>,
    stream: Stream,
    destination: Destination,
    on_event: Box<dyn Fn(WriterEvent) + Send>,
    cutters: Vec<LineCutter>,
    screen: Screen,
    /// Acknowledgements to send once what is pending has been written. What waits to be folded counts
    /// as written: it is little.
    owed: Vec<(u32, u32)>,
}

impl Worker {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        loop {
            let job = match self.patience() {
                None => queue.recv().ok(),
                Some(patience) => match queue.recv_timeout(patience) {
                    Err(RecvTimeoutError::Timeout) => {
                        self.pass_time();
                        continue;
                    }
                    other => other.ok(),
                },
            };
            let Some(job) = job else { break };
            self.take(job);
            while self.screen.pending.len() < GATHER_BYTES_MAX {
                let Ok(job) = queue.try_recv() else { break };
                self.take(job);
            }
            self.screen.tick();
            self.flush();
        }
        for rank in 0..self.cutters.len() {
            self.end_rank(rank);
        }
        self.screen.finish();
        self.flush();
        (self.on_event)(WriterEvent::Finished);
    }

    /// How long to wait for more before something must be shown that is held back.
    fn patience(&self) -> Option<Duration> {
        let repaint = self.cutters.iter().any(LineCutter::holds_repaint).then_some(REPAINT_DELAY);
        let fold = self.screen.deadline();
        let fold = fold.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        repaint.into_iter().chain(fold).min()
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Chunk { rank, bytes } => self.take_chunk(rank, &bytes),
            Job::Ended { rank } => {
                if let Ok(index) = usize::try_from(rank) {
                    self.end_rank(index);
                }
            }
            Job::Said { text } => self.say(&text),
        }
    }

    fn take_chunk(&mut self, rank: u32, bytes: &[u8]) {
        let Ok(index) = usize::try_from(rank) else { return };
        if let Some((path, file)) = self.destination.files.get_mut(index)
            && let Err(error) = file.write_all(bytes)
        {
            let path = path.clone();
            (self.on_event)(WriterEvent::FileFailed { path, error });
            self.destination.files.clear();
        }
        let Some(cutter) = self.cutters.get_mut(index) else { return };
        if self.destination.shows(rank) {
            let screen = &mut self.screen;
            cutter.push(bytes, |segment, end| screen.say(rank, segment, end));
        }
        self.owed.push((rank, u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
    }

    /// What cannot be told to anybody ends no job, as long as the ranks have nothing to say.
    fn say(&mut self, text: &str) {
        self.flush();
        let mut line = Vec::new();
        self.screen.own(text, &mut line);
        if let Some(descriptor) = &self.destination.shared {
            let _ = write_all(descriptor, &line);
        }
        self.said.fetch_sub(1, Ordering::Relaxed);
    }

    fn end_rank(&mut self, index: usize) {
        let (Some(cutter), Ok(rank)) = (self.cutters.get_mut(index), u32::try_from(index)) else {
            return;
        };
        let screen = &mut self.screen;
        cutter.finish(|segment, end| screen.say(rank, segment, end));
        screen.ended(rank);
    }

    /// Nothing has come for as long as there was patience.
    fn pass_time(&mut self) {
        for (rank, cutter) in (0..).zip(&mut self.cutters) {
            let screen = &mut self.screen;
            cutter.flush_repaint(|segment, end| screen.say(rank, segment, end));
        }
        self.screen.tick();
        self.flush();
    }

    fn flush(&mut self) {
        if let Some(descriptor) = &self.destination.shared
            && let Err(error) = write_all(descriptor, &self.screen.pending)
        {
            (self.on_event)(WriterEvent::StreamFailed { error });
            self.destination.shared = None;
        }
        self.screen.pending.clear();
        for (rank, bytes) in self.owed.drain(..) {
            (self.on_event)(WriterEvent::Written { rank, stream: self.stream, bytes });
        }
    }
}

/// Writes everything, also to a descriptor that somebody else has made non-blocking.
fn write_all(descriptor: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(descriptor, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::new(descriptor, PollFlags::OUT)], None)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::output::prefix::PrefixTemplate;

    fn start(shown: Option<RankList>) -> (StreamWriter, File, mpsc::Receiver<WriterEvent>) {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        let (events, receiver) = mpsc::channel();
        let prefix = Some(Prefixes::new(PrefixTemplate::default(), Vec::new()));
        let destination =
            Destination { shared: Some(writer), files: Vec::new(), prefix, shown, folds: false };
        let on_event = move |event| events.send(event).expect("the test listens");
        let writer =
            StreamWriter::start(Stream::Stdout, 2, destination, on_event).expect("a thread starts");
        (writer, File::from(reader), receiver)
    }

    #[test]
    fn writes_acknowledges_and_finishes() {
        let (writer, mut reader, events) = start(None);
        writer.write(1, b"hello\nlast".to_vec());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "[1] hello\n[1] last\n");
        let mut written = 0;
        while let Ok(event) = events.recv() {
            match event {
                WriterEvent::Written { rank: 1, bytes, .. } => written += bytes,
                WriterEvent::Finished => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(written, 10);
    }

    #[test]
    fn ranks_that_are_not_shown_get_their_credit_nevertheless() {
        let (writer, mut reader, events) = start("1".parse().ok());
        writer.write(0, b"hidden\n".to_vec());
        writer.write(1, b"shown\n".to_vec());
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "[1] shown\n");
        let written = events.iter().filter(|event| matches!(event, WriterEvent::Written { .. }));
        assert_eq!(written.count(), 2);
    }

    #[test]
    fn what_the_launcher_says_stands_on_lines_of_its_own() {
        let (writer, mut reader, events) = start(None);
        writer.write(1, b"begun\n".to_vec());
        writer.say("all is well");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "[1] begun\npaceline: all is well\n");
        assert!(matches!(events.iter().last(), Some(WriterEvent::Finished)));
    }

    #[test]
    fn what_nobody_reads_does_not_pile_up() {
        let (writer, mut reader, _events) = start(None);
        let line = "x".repeat(1 << 10);
        (0..10 * SAID_MAX).for_each(|_| writer.say(&line));
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("readable");
        // Beside those that wait there are those in the pipe, which has 64 KiB.
        assert!((SAID_MAX..SAID_MAX + 100).contains(&text.lines().count()));
    }

    #[test]
    fn that_nobody_hears_the_launcher_is_no_failure() {
        let (writer, reader, events) = start(None);
        drop(reader);
        writer.say("is anybody there?");
        drop(writer);
        assert!(matches!(events.recv(), Ok(WriterEvent::Finished)));
    }

    #[test]
    fn a_reader_that_left_is_reported_and_nothing_blocks() {
        let (writer, reader, events) = start(None);
        drop(reader);
        for _ in 0..100 {
            writer.write(0, vec![b'\n'; 64 << 10]);
        }
        drop(writer);
        let mut failed = 0;
        while let Ok(event) = events.recv() {
            match event {
                WriterEvent::StreamFailed { error } => {
                    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
                    failed += 1;
                }
                WriterEvent::Finished => break,
                _ => {}
            }
        }
        assert_eq!(failed, 1);
    }
}

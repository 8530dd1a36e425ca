//! Texts that the user names: configuration, hostfile, rank file. Reading one is bounded in size and
//! in time, whatever is at its path.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// Most bytes of a text: a hostfile of ten thousand hosts has less than half of it.
const BYTES_MAX: u64 = 1 << 20;

/// Longest time that a pipe may take to be written: a script that asks a scheduler for hosts takes
/// seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the {kind} {}", path.display())]
pub(crate) struct ReadError {
    /// What it was to be, such as a hostfile.
    kind: &'static str,
    path: PathBuf,
    #[source]
    why: Why,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error(transparent)]
    System(#[from] io::Error),
    #[error("it has more than {} MiB", BYTES_MAX >> 20)]
    TooLarge,
    #[error("its end was not written within {} s", .0.as_secs_f64())]
    Endless(Duration),
    #[error("byte {at} is not UTF-8")]
    NotText { at: usize },
}

impl ReadError {
    pub(crate) fn hint(&self) -> Option<String> {
        let kind = self.kind;
        Some(match &self.why {
            Why::System(error) => match error.kind() {
                ErrorKind::NotFound => "check the path; a relative one starts where paceline is \
                                        started"
                    .to_owned(),
                ErrorKind::PermissionDenied => "let this user read it: chmod u+r".to_owned(),
                ErrorKind::IsADirectory => format!("name the {kind} in that directory"),
                _ => return None,
            },
            Why::TooLarge => format!("see whether it is a {kind} at all"),
            Why::Endless(_) => {
                format!(
                    "see whether what writes to this pipe ends, or name a {kind} that is a file"
                )
            }
            Why::NotText { .. } => "save it as UTF-8".to_owned(),
        })
    }
}

/// The text at `path`, which is to be a `kind`, such as `"hostfile"`.
///
/// # Errors
/// It cannot be read, is larger than a MiB, does not end, or is no text.
pub(crate) fn read(path: &Path, kind: &'static str) -> Result<String, ReadError> {
    read_within(path, PATIENCE).map_err(|why| ReadError { kind, path: path.to_owned(), why })
}

fn read_within(path: &Path, patience: Duration) -> Result<String, Why> {
    // Opening a pipe that nobody writes to, or a terminal, must not wait or take it over.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    loop {
        wait(&file, deadline)?.then_some(()).ok_or(Why::Endless(patience))?;
        let rest = BYTES_MAX + 1 - bytes.len() as u64;
        match (&mut file).take(rest).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > BYTES_MAX => return Err(Why::TooLarge),
            Ok(_) => break,
            // What has been read until then is in `bytes`.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    String::from_utf8(bytes).map_err(|error| Why::NotText { at: error.utf8_error().valid_up_to() })
}

/// Waits for bytes or for the end; whether there are any before the deadline. A pipe that nobody has
/// opened for writing yet has neither.
fn wait(file: &File, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Longer than any machine needs.
    const LONG: Duration = Duration::from_secs(60);

    fn error(path: &Path) -> String {
        crate::console::chain(&read(path, "hostfile").unwrap_err())
    }

    #[test]
    fn a_text_is_read_whole_up_to_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let full = "a\n".repeat(1 << 19);
        fs::write(&path, &full).unwrap();
        assert_eq!(read(&path, "hostfile").unwrap(), full);
        fs::write(&path, full + "b").unwrap();
        let said =
            format!("failed to read the hostfile {}: it has more than 1 MiB", path.display());
        assert_eq!(error(&path), said);
        fs::write(&path, b"a\xff").unwrap();
        assert!(error(&path).ends_with(": byte 1 is not UTF-8"), "{}", error(&path));
    }

    #[test]
    fn what_is_no_file_is_an_error_with_a_remedy() {
        assert!(error(Path::new("/dev/zero")).ends_with(": it has more than 1 MiB"));
        assert_eq!(read(Path::new("/dev/null"), "hostfile").unwrap(), "");
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path(), Path::new("/no/such/file"), Path::new("/dev/zero")] {
            assert!(read(path, "hostfile").unwrap_err().hint().is_some(), "{}", path.display());
        }
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let limit = Duration::from_millis(20);
        assert!(matches!(read_within(&path, limit), Err(Why::Endless(_))));
        // One end is open and silent.
        let held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(matches!(read_within(&path, limit), Err(Why::Endless(_))));
        drop(held);

        let reader = {
            let path = path.clone();
            let named = thread::Builder::new().name("reader".to_owned());
            named.spawn(move || read_within(&path, LONG)).unwrap()
        };
        // Opens once there is a reader.
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"node1:4\n").unwrap();
        thread::sleep(limit);
        writer.write_all(b"node2:4\n").unwrap();
        drop(writer);
        assert_eq!(reader.join().unwrap().unwrap(), "node1:4\nnode2:4\n");
    }

    #[test]
    fn what_a_shell_substitutes_for_a_process_is_a_pipe() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"np = 2\n").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read_within(Path::new(&path), LONG).unwrap(), "np = 2\n");
    }
}

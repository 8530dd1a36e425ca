//! Where the record goes: whole rows of it, or nothing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _, stdout};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use paceline_benches::schema::Report;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use super::session::BenchError;

/// Where the record goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JsonTarget {
    Stdout,
    File(PathBuf),
}

impl JsonTarget {
    /// What `--json` says.
    pub(crate) fn new(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdout } else { Self::File(path.to_owned()) }
    }

    /// Finds out before the work whether the record can be written, and leaves nothing behind.
    pub(super) fn check(&self) -> Result<(), BenchError> {
        self.look().map_err(|source| self.failed(source))
    }

    /// As [`JsonTarget::check`], for records of any kind.
    pub(crate) fn look(&self) -> io::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(path) => Place::of(path).and_then(|place| place.check()),
        }
    }

    /// What is written to, for messages.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Stdout => Path::new("standard output"),
            Self::File(path) => path,
        }
    }

    fn failed(&self, source: io::Error) -> BenchError {
        BenchError::Record { path: self.path().to_owned(), source }
    }

    /// Puts what there is of the record in its file while more of it is measured, so that it is not lost
    /// if this process does not live to write it all. What cannot be written is complained of in the
    /// end.
    pub(super) fn keep(&self, report: &Report) {
        if let Self::File(path) = self
            && let Ok(Place::File { path, .. }) = Place::of(path)
            && let Ok(mut draft) = Draft::create(&path)
            && draft.file.write_all(report.to_json().as_bytes()).is_ok()
        {
            let _ = draft.put_in_place(&path);
        }
    }

    /// Writes the record.
    pub(super) fn write(&self, report: &Report) -> Result<(), BenchError> {
        self.put(&report.to_json()).map_err(|source| self.failed(source))
    }

    /// As [`JsonTarget::write`], for records of any kind.
    pub(crate) fn put(&self, text: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = stdout().lock();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            }
            Self::File(path) => Place::of(path).and_then(|place| place.write(text.as_bytes())),
        }
    }
}

/// How a file of some path is written.
#[derive(Debug)]
enum Place {
    /// A pipe or a device, which must not be replaced by a file.
    Special(PathBuf),
    /// A file, existing or not; no link, so that what is replaced is the file and not the link.
    File { path: PathBuf, exists: bool },
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                Ok(Self::File { path: fs::canonicalize(path)?, exists: true })
            }
            Ok(metadata) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => Ok(Self::Special(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::File { path: path.to_owned(), exists: false })
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self) -> io::Result<()> {
        match self {
            // To open a pipe and leave it again would tell its reader that this was all.
            Self::Special(_) => Ok(()),
            Self::File { path, exists } => match Draft::create(path) {
                Ok(_) => Ok(()),
                Err(_) if *exists => File::options().append(true).open(path).map(drop),
                Err(error) => Err(error),
            },
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Special(path) => File::options().write(true).open(path)?.write_all(bytes),
            Self::File { path, exists } => {
                // Of a file that is mounted by itself, or whose directory belongs to others, only
                // the contents can be replaced.
                let draft = match Draft::create(path) {
                    Err(_) if *exists => return fs::write(path, bytes),
                    created => created?,
                };
                match draft.fill(bytes)?.put_in_place(path) {
                    Err(_) if *exists => fs::write(path, bytes),
                    replaced => replaced,
                }
            }
        }
    }
}

/// What becomes the file: without a name until it is complete, where the file system has such
/// files, so that nothing of it is left however this process ends.
#[derive(Debug)]
struct Draft {
    file: File,
    /// Its name beside the file that is meant, if it has one; removed in the end.
    path: PathBuf,
}

impl Draft {
    fn create(beside: &Path) -> io::Result<Self> {
        let Some(name) = beside.file_name() else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        let path = beside.with_file_name(hidden);
        let directory = match beside.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match open(directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => file.into(),
            Err(_) => File::options().write(true).create_new(true).open(&path)?,
        };
        Ok(Self { file, path })
    }

    /// Writes the contents down to the disk, which may turn out to be full only then.
    fn fill(mut self, bytes: &[u8]) -> io::Result<Self> {
        self.file.write_all(bytes)?;
        self.file.sync_all()?;
        Ok(self)
    }

    fn put_in_place(self, path: &Path) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            let open_file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, open_file, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
        }
        fs::rename(&self.path, path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // There is none if it was put in place, or never had a name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_check_leaves_nothing_and_an_old_file_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let check = || JsonTarget::new(&path).check();
        check().unwrap();
        assert_eq!(names(directory.path()), [""; 0]);
        fs::write(&path, "old").unwrap();
        check().unwrap();
        assert_eq!(names(directory.path()), ["record.json"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::write(&path, "something longer than that").unwrap();
        symlink(&path, &link).unwrap();
        Place::of(&link).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(directory.path()), ["link", "real"]);
    }

    #[test]
    fn a_device_stays_a_device_and_a_full_one_is_an_error() {
        use std::os::unix::fs::FileTypeExt;
        let is_device = |path| fs::metadata(path).unwrap().file_type().is_char_device();
        for path in ["/dev/null", "/dev/full"] {
            JsonTarget::new(Path::new(path)).check().unwrap();
            let written = Place::of(Path::new(path)).unwrap().write(b"record");
            assert_eq!(written.is_ok(), path == "/dev/null", "{written:?}");
            assert!(is_device(path));
        }
    }

    #[test]
    fn directories_and_places_that_do_not_exist_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("no/record.json")] {
            let error = JsonTarget::new(&path).check().unwrap_err();
            assert!(error.to_string().starts_with("failed to write "), "{error}");
        }
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

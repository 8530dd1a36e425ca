//! From what the user typed to what is executed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use crate::protocol::text;
use crate::refusal::Refusal;

/// Where a shell looks when PATH is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What each rank is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A program: a path, or a name that is looked up in PATH.
    ///
    /// A file that ends in `.py` runs under `python3`, unless it is executable and names its
    /// interpreter in a `#!` line (of a virtual environment, for example): then it runs as it is.
    Command(#[serde(with = "text::one")] OsString),
    /// A Python module: `python3 -m MODULE`.
    Module(#[serde(with = "text::one")] OsString),
    /// The program that the agent is, also if its file has been replaced since it was started.
    Itself,
}

/// What the program calls itself.
const OWN_NAME: &str = "paceline";

/// The file of the program that runs, whatever has become of its name.
const OWN_FILE: &str = "/proc/self/exe";

impl Program {
    /// As the user wrote it.
    pub fn display(&self) -> String {
        match self {
            Self::Command(program) => program.display().to_string(),
            Self::Module(module) => format!("-m {}", module.display()),
            Self::Itself => OWN_NAME.to_owned(),
        }
    }
}

/// A program that exists and may be executed here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ResolvedProgram {
    pub(crate) executable: PathBuf,
    /// What the program sees as its own name.
    pub(crate) name: OsString,
    /// Arguments before the user's.
    pub(crate) arguments: Vec<OsString>,
}

/// Finds the program on this host.
///
/// # Errors
/// The program, or python3 where it is needed, is missing, a directory or not executable.
pub(crate) fn resolve(
    program: &Program,
    search_path: Option<&OsStr>,
    working_directory: &Path,
    host: &str,
) -> Result<ResolvedProgram, Refusal> {
    let finder = Finder { search_path, working_directory, host };
    match program {
        Program::Module(module) => finder.python(vec!["-m".into(), module.clone()]),
        Program::Command(name) if is_python_file(name) => finder.python_file(name),
        Program::Command(name) => finder.executable(name),
        Program::Itself => Ok(resolved(OWN_FILE.into(), OsStr::new(OWN_NAME))),
    }
}

/// What another program would be told to run, so that it finds the program as it sees fit: in a
/// container, for example, or with a PATH of its own.
pub(crate) fn words(program: &Program, working_directory: &Path) -> Vec<OsString> {
    let python = OsString::from("python3");
    match program {
        Program::Module(module) => vec![python, "-m".into(), module.clone()],
        Program::Command(name)
            if is_python_file(name) && !runs_by_itself(&working_directory.join(name)) =>
        {
            vec![python, name.clone()]
        }
        Program::Command(name) => vec![name.clone()],
        Program::Itself => {
            vec![std::env::current_exe().map_or_else(|_| OWN_FILE.into(), PathBuf::into_os_string)]
        }
    }
}

fn is_python_file(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "py")
}

struct Finder<'a> {
    search_path: Option<&'a OsStr>,
    working_directory: &'a Path,
    host: &'a str,
}

impl Finder<'_> {
    fn python(&self, arguments: Vec<OsString>) -> Result<ResolvedProgram, Refusal> {
        let python = self.executable(OsStr::new("python3"))?;
        Ok(ResolvedProgram { arguments, ..python })
    }

    fn python_file(&self, name: &OsStr) -> Result<ResolvedProgram, Refusal> {
        // Like python itself, and unlike a shell, a bare `train.py` means the file that lies here.
        let path = self.working_directory.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Err(self.is_directory(name)),
            Ok(_) if runs_by_itself(&path) => Ok(resolved(path, name)),
            Ok(_) => self.python(vec![name.to_owned()]),
            Err(_) if has_slash(name) => Err(self.not_found(name)),
            Err(_) => self.executable(name),
        }
    }

    fn executable(&self, name: &OsStr) -> Result<ResolvedProgram, Refusal> {
        if has_slash(name) {
            let path = self.working_directory.join(name);
            return match fs::metadata(&path) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    Err(self.not_executable(name, &error.to_string()))
                }
                Err(_) => Err(self.not_found(name)),
                Ok(metadata) if metadata.is_dir() => Err(self.is_directory(name)),
                Ok(_) if is_executable(&path) => self.for_this_machine(path, name),
                Ok(_) => Err(self.not_executable(name, "permission denied")),
            };
        }
        let search_path = self.search_path.unwrap_or_else(|| OsStr::new(DEFAULT_PATH));
        let mut denied = None;
        for directory in search_path.as_bytes().split(|&byte| byte == b':') {
            let path = self.working_directory.join(OsStr::from_bytes(directory)).join(name);
            if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                if is_executable(&path) {
                    return self.for_this_machine(path, name);
                }
                denied.get_or_insert(path);
            }
        }
        match denied {
            Some(path) => Err(self.not_executable(path.as_os_str(), "permission denied")),
            None => Err(self.not_found(name)),
        }
    }

    /// Refuses binaries of other machines, which would be given to a shell as scripts.
    fn for_this_machine(&self, path: PathBuf, name: &OsStr) -> Result<ResolvedProgram, Refusal> {
        match (machine(&path), machine(Path::new(OWN_FILE))) {
            (Some(its), Some(ours)) if its != ours => {
                Err(self.not_executable(name, "it is a binary for another machine"))
            }
            _ => Ok(resolved(path, name)),
        }
    }

    fn not_found(&self, program: &OsStr) -> Refusal {
        Refusal::NotFound { program: program.display().to_string(), host: self.host.to_owned() }
    }

    fn is_directory(&self, program: &OsStr) -> Refusal {
        Refusal::IsDirectory { program: program.display().to_string(), host: self.host.to_owned() }
    }

    fn not_executable(&self, program: &OsStr, reason: &str) -> Refusal {
        Refusal::NotExecutable {
            program: program.display().to_string(),
            reason: reason.to_owned(),
            host: self.host.to_owned(),
        }
    }
}

fn resolved(executable: PathBuf, name: &OsStr) -> ResolvedProgram {
    ResolvedProgram { executable, name: name.to_owned(), arguments: Vec::new() }
}

fn has_slash(name: &OsStr) -> bool {
    name.as_bytes().contains(&b'/')
}

fn is_executable(path: &Path) -> bool {
    access(path, Access::EXEC_OK).is_ok()
}

fn runs_by_itself(path: &Path) -> bool {
    is_executable(path) && interpreter(path).is_some()
}

/// Word size, byte order and processor of an ELF binary.
fn machine(path: &Path) -> Option<[u8; 4]> {
    let mut start = [0; 20];
    File::open(path).ok()?.read_exact(&mut start).ok()?;
    start.starts_with(b"\x7fELF").then(|| [start[4], start[5], start[18], start[19]])
}

/// What the `#!` line of a file asks for.
pub(crate) fn interpreter(path: &Path) -> Option<String> {
    let mut start = Vec::new();
    // The kernel reads no more than 256 bytes of that line.
    File::open(path).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Directory(tempfile::TempDir);

    impl Directory {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a temporary directory"))
        }

        fn file(&self, name: &str, mode: u32, text: &str) {
            let path = self.0.path().join(name);
            fs::write(&path, text).expect("writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        }

        fn find(&self, program: &str) -> Result<ResolvedProgram, Refusal> {
            let bin = self.0.path().join("bin");
            resolve(&Program::Command(program.into()), Some(bin.as_os_str()), self.0.path(), "here")
        }
    }

    #[test]
    fn python_files_get_an_interpreter_unless_they_name_one_and_are_executable() {
        let directory = Directory::new();
        fs::create_dir(directory.0.path().join("bin")).expect("created");
        directory.file("bin/python3", 0o755, "#!/bin/sh\n");
        directory.file("plain.py", 0o644, "print()");
        directory.file("marked.py", 0o644, "#!/usr/bin/python3\n");
        directory.file("own.py", 0o755, "#!/usr/bin/python3\n");
        for name in ["plain.py", "./plain.py", "marked.py"] {
            let found = directory.find(name).expect("found");
            assert_eq!(found.executable, directory.0.path().join("bin/python3"));
            assert_eq!(found.arguments, [OsString::from(name)]);
        }
        let own = directory.find("own.py").expect("found");
        assert_eq!(own.executable, directory.0.path().join("own.py"));
        assert!(own.arguments.is_empty());
        assert!(matches!(directory.find("absent.py"), Err(Refusal::NotFound { .. })));
    }

    #[test]
    fn a_module_runs_under_python() {
        let directory = Directory::new();
        fs::create_dir(directory.0.path().join("bin")).expect("created");
        directory.file("bin/python3", 0o755, "");
        let bin = directory.0.path().join("bin");
        let module = Program::Module("pkg.train".into());
        let found =
            resolve(&module, Some(bin.as_os_str()), directory.0.path(), "here").expect("found");
        assert_eq!(found.arguments, ["-m", "pkg.train"]);
    }

    #[test]
    fn what_is_wrapped_is_told_as_it_was_typed() {
        let directory = Directory::new();
        directory.file("plain.py", 0o644, "");
        directory.file("own.py", 0o755, "#!/usr/bin/python3\n");
        for (name, expected) in [
            ("plain.py", &["python3", "plain.py"][..]),
            ("absent.py", &["python3", "absent.py"]),
            ("own.py", &["own.py"]),
            ("train", &["train"]),
        ] {
            let words = words(&Program::Command(name.into()), directory.0.path());
            assert_eq!(words, expected, "{name}");
        }
        let module = words(&Program::Module("pkg".into()), directory.0.path());
        assert_eq!(module, ["python3", "-m", "pkg"]);
    }

    #[test]
    fn what_cannot_run_is_told_apart() {
        let directory = Directory::new();
        fs::create_dir(directory.0.path().join("bin")).expect("created");
        directory.file("bin/denied", 0o644, "");
        directory.file("here", 0o755, "");
        assert!(matches!(directory.find("absent"), Err(Refusal::NotFound { .. })));
        assert!(matches!(directory.find("./absent"), Err(Refusal::NotFound { .. })));
        assert!(matches!(directory.find("here"), Err(Refusal::NotFound { .. })));
        assert!(directory.find("./here").is_ok());
        assert!(matches!(directory.find("./bin"), Err(Refusal::IsDirectory { .. })));
        assert!(matches!(directory.find("denied"), Err(Refusal::NotExecutable { .. })));
        assert!(matches!(directory.find("bin/denied"), Err(Refusal::NotExecutable { .. })));
        let text = directory.find("absent").expect_err("absent").to_string();
        assert_eq!(text, "absent: no such program on here");
    }
}

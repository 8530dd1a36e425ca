//! The run's secret, where ranks can read it and where nothing can be left behind.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, SealFlags, fchmod, fcntl_add_seals, memfd_create};
use rustix::process::getpid;

/// A file in memory that exists as long as the agent.
///
/// Ranks open it through the agent's descriptor table, which only processes of the same user can.
/// Unlike a file on disk it cannot outlive a SIGKILL; unlike an inherited descriptor it survives a
/// wrapper that closes descriptors, and ranks have nothing open that they did not ask for.
#[derive(Debug)]
pub(super) struct SecretFile {
    memory: OwnedFd,
}

impl SecretFile {
    /// Writes the secret file's contents and seals them.
    pub(super) fn create(contents: &[u8]) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("paceline-secret", flags)?;
        fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
        let mut rest = contents;
        while !rest.is_empty() {
            let written = rustix::io::write(&memory, rest)?;
            rest = &rest[written..];
        }
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memory, seals)?;
        Ok(Self { memory })
    }

    pub(super) fn path(&self) -> OsString {
        format!("/proc/{}/fd/{}", getpid().as_raw_pid(), self.memory.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_private_readable_sealed_and_gone_with_its_owner() {
        let file = SecretFile::create(b"secret").expect("memory");
        let path = file.path();
        assert_eq!(fs::read(&path).expect("ours"), b"secret");
        let mode = fs::metadata(&path).expect("ours").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(fs::write(&path, b"other").is_err());
        drop(file);
        assert!(fs::read(&path).map_or(true, |bytes| bytes != b"secret"));
    }
}

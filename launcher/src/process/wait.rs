//! Reaping children, our own and adopted ones.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};
use serde::{Deserialize, Serialize};

use super::signals;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited with this code, 0..=255.
    Code(u8),
    /// A signal with this number killed it.
    Signal(u8),
}

impl Ending {
    /// Whether the process reported success.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }

    pub(crate) fn from_status(status: ExitStatus) -> Option<Self> {
        if let Some(code) = status.code() {
            return u8::try_from(code).ok().map(Self::Code);
        }
        status.signal().and_then(|signal| u8::try_from(signal).ok()).map(Self::Signal)
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => {
                write!(f, "was killed by {}", signals::name(i32::from(signal)))
            }
        }
    }
}

/// What a process used over its life, including the children that it waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceUsage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Largest resident set, in bytes.
    pub resident_bytes_max: u64,
}

/// A child that has ended and has been reaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reaped {
    pub(crate) pid: i32,
    pub(crate) ending: Ending,
    pub(crate) usage: ResourceUsage,
}

/// What one look at the children found.
#[derive(Debug)]
pub(crate) enum Look {
    /// One has ended; there may be more.
    Ended(Reaped),
    /// Children exist and all of them run.
    AllRunning,
    /// There are no children at all, hence (for a subreaper) no descendants either.
    NoChildren,
}

/// Which child to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom {
    Any,
    /// The child with this process id.
    Child(i32),
}

/// Reaps one ended child if there is one; never blocks.
pub(crate) fn reap_one(whom: Whom) -> Look {
    let whom = match whom {
        Whom::Child(pid) if pid > 0 => pid,
        Whom::Any | Whom::Child(_) => -1,
    };
    loop {
        let mut status: libc::c_int = 0;
        // SAFETY: all-zero bytes are a valid `rusage`, which holds only integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live, writable locals of the types that wait4 fills.
        let pid = unsafe { libc::wait4(whom, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if pid == 0 {
            return Look::AllRunning;
        }
        if pid < 0 {
            match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => continue,
                // The only other error without an options mistake is ECHILD.
                _ => return Look::NoChildren,
            }
        }
        // Without WUNTRACED a status is always an ending.
        if let Some(ending) = Ending::from_status(ExitStatus::from_raw(status)) {
            return Look::Ended(Reaped { pid, ending, usage: resource_usage(&usage) });
        }
    }
}

/// How this child has ended, if it has; it stays to be reaped.
pub(crate) fn peek(pid: i32) -> Option<Ending> {
    let pid = Pid::from_raw(pid)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(pid), options).ok()??;
    if let Some(code) = status.exit_status() {
        return u8::try_from(code).ok().map(Ending::Code);
    }
    status.terminating_signal().and_then(|signal| u8::try_from(signal).ok()).map(Ending::Signal)
}

/// Reaps this child if it has ended, whoever it was.
pub(crate) fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // The only failure is that somebody else has reaped it.
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// Whether there are children; for a subreaper the same as: whether there are descendants.
pub(crate) fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

fn resource_usage(usage: &libc::rusage) -> ResourceUsage {
    ResourceUsage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        resident_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

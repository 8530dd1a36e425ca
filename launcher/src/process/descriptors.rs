//! How many descriptors this process may have.
//!
//! The usual limit is 1024, which is all that `select(2)` can name, and the limit up to which a process may
//! raise it for itself is far higher. A launcher has three descriptors per host and two per rank there, an
//! agent four per rank; neither uses `select`. What they start may, and gets the limit that was found.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit with which this process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found(Rlimit);

/// Lets this process have as many descriptors as the system allows.
pub(crate) fn raise_limit() -> Found {
    let found = getrlimit(Resource::Nofile);
    let maximum = found.maximum;
    // Where that is refused, jobs of ordinary size run all the same.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    Found(found)
}

impl Found {
    /// Starts the command with this limit.
    pub(crate) fn give_to(&self, command: &mut Command) {
        let limit = self.0;
        let before_exec = move || setrlimit(Resource::Nofile, limit).map_err(io::Error::from);
        // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure copies two
        // numbers and makes one system call through rustix; it neither allocates nor locks.
        unsafe { command.pre_exec(before_exec) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_gets_the_limit_that_was_found() {
        let raised = raise_limit();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(now.maximum, raised.0.maximum);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -Sn"]);
        Found(Rlimit { current: Some(77), ..now }).give_to(&mut command);
        let output = command.output().expect("there is a shell");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "77\n");
    }
}

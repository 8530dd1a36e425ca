//! The exit codes of `paceline`, in one place.

use std::fmt;
use std::process::ExitCode as ProcessExitCode;

/// What the `paceline` process returns to its caller.
///
/// A worker's own verdict is passed on unchanged; the codes that paceline itself produces are the
/// ones that shells and `timeout(1)` use, so that a script reads them without a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitCode {
    /// 0: every rank exited with 0.
    Success,
    /// The code of the first rank that failed, unchanged (1..=255).
    Worker(u8),
    /// 128 + n: the first rank that failed was killed by signal n.
    WorkerSignal(u8),
    /// 128 + n: paceline itself was asked to stop by signal n, or (n = 13, SIGPIPE) nobody reads
    /// its standard output any more.
    Interrupted(u8),
    /// 1: a check was carried out and failed (`bench --check`, `compare`, `verify`).
    CheckFailed,
    /// 2: the command line makes no sense.
    Usage,
    /// 124: `--timeout` or `--start-timeout` ran out.
    TimedOut,
    /// 125: paceline itself failed, for example an agent was lost.
    LauncherFailed,
    /// 126: the program exists and cannot be executed.
    NotExecutable,
    /// 127: the program, or the interpreter that it names, does not exist.
    NotFound,
}

impl ExitCode {
    /// The number that the operating system sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Worker(code) => code,
            Self::WorkerSignal(signal) | Self::Interrupted(signal) => 128_u8.saturating_add(signal),
            Self::CheckFailed => 1,
            Self::Usage => 2,
            Self::TimedOut => 124,
            Self::LauncherFailed => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}

impl From<ExitCode> for ProcessExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_shell() {
        assert_eq!(ExitCode::Success.code(), 0);
        assert_eq!(ExitCode::Worker(7).code(), 7);
        assert_eq!(ExitCode::WorkerSignal(9).code(), 137);
        assert_eq!(ExitCode::Interrupted(2).code(), 130);
        assert_eq!(ExitCode::TimedOut.code(), 124);
        assert_eq!(ExitCode::NotFound.code(), 127);
    }
}

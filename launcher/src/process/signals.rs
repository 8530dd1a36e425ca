//! Signal numbers and names.

use rustix::process::Signal;

/// Signals that mean something to a person, with their number on this architecture.
const NAMED: [(Signal, &str); 19] = [
    (Signal::HUP, "SIGHUP"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::ILL, "SIGILL"),
    (Signal::TRAP, "SIGTRAP"),
    (Signal::ABORT, "SIGABRT"),
    (Signal::BUS, "SIGBUS"),
    (Signal::FPE, "SIGFPE"),
    (Signal::KILL, "SIGKILL"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::SEGV, "SIGSEGV"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::PIPE, "SIGPIPE"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::TERM, "SIGTERM"),
    (Signal::CONT, "SIGCONT"),
    (Signal::TSTP, "SIGTSTP"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::SYS, "SIGSYS"),
];

/// `SIGKILL` for 9, `signal 35` for a number without a name.
pub(crate) fn name(number: i32) -> String {
    by_number(number).map_or_else(|| format!("signal {number}"), |(_, name)| name.to_owned())
}

/// The signal with this number if it is one that may be passed on to ranks.
pub(crate) fn from_number(number: i32) -> Option<Signal> {
    by_number(number).map(|(signal, _)| signal)
}

fn by_number(number: i32) -> Option<(Signal, &'static str)> {
    NAMED.into_iter().find(|(signal, _)| signal.as_raw() == number)
}

/// Whether this process was started with the signal ignored, as `nohup` does with SIGHUP.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    ignored_mask(&status).is_some_and(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}

fn ignored_mask(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_known_signals_and_numbers_the_rest() {
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(name(11), "SIGSEGV");
        assert_eq!(name(40), "signal 40");
        assert_eq!(from_number(15), Some(Signal::TERM));
        assert_eq!(from_number(0), None);
    }

    #[test]
    fn reads_the_mask_of_ignored_signals() {
        assert_eq!(ignored_mask("SigBlk:\t0\nSigIgn:\t0000000000001001\n"), Some(0x1001));
        assert_eq!(ignored_mask("SigBlk:\t0\n"), None);
    }
}

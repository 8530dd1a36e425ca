//! What is known about the terminals that our output ends up on.

use std::io::{IsTerminal, stderr, stdout};
use std::os::fd::AsFd;

use paceline_benches::bars::BarStyle;
use paceline_rendezvous::env::{self, Environment};
use rustix::termios::tcgetwinsize;

use super::arguments::Arguments;

/// Columns of an output that is no terminal, or does not know its size.
const COLUMNS_DEFAULT: usize = 100;

/// Where standard output and error end up; `Some(columns)` if it is a terminal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminals {
    pub(super) stdout: Option<usize>,
    pub(super) stderr: Option<usize>,
}

impl Terminals {
    /// Our own.
    pub(super) fn own() -> Self {
        Self { stdout: columns(&stdout()), stderr: columns(&stderr()) }
    }

    /// Those of the process that launched us to write through it. What else a launched rank writes
    /// to says nothing: `mpirun` gives it a terminal and passes the output on to a file.
    pub(super) const fn of_launcher(arguments: &Arguments) -> Self {
        Self { stdout: arguments.stdout_columns, stderr: arguments.stderr_columns }
    }

    /// The options that tell another process about them.
    pub(super) fn options(self) -> Vec<String> {
        let option = |name: &str, columns: Option<usize>| {
            columns.map(|columns| format!("--{name}-columns={columns}"))
        };
        option("stdout", self.stdout).into_iter().chain(option("stderr", self.stderr)).collect()
    }
}

/// Columns of what is drawn for an output.
pub(super) fn width(terminal: Option<usize>) -> usize {
    terminal.unwrap_or(COLUMNS_DEFAULT)
}

/// Whether a line may be painted over again.
pub(super) fn can_repaint(environment: &impl Environment) -> bool {
    !matches!(env::TERM.text(environment), Ok(Some(term)) if term == "dumb")
}

/// Blocks where the locale says that readers know them.
pub(super) fn bar_style(environment: &impl Environment) -> BarStyle {
    let locale = [env::LC_ALL, env::LC_CTYPE, env::LANG]
        .iter()
        .find_map(|variable| variable.text(environment).ok().flatten())
        .unwrap_or_default()
        .to_ascii_lowercase();
    if locale.contains("utf-8") || locale.contains("utf8") {
        BarStyle::Unicode
    } else {
        BarStyle::Ascii
    }
}

fn columns(stream: &(impl AsFd + IsTerminal)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let size = tcgetwinsize(stream.as_fd()).map_or(0, |size| usize::from(size.ws_col));
    Some(if size == 0 { COLUMNS_DEFAULT } else { size })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn blocks_need_a_utf8_locale() {
        let style = |name, value| bar_style(&HashMap::from([(name, value)]));
        assert_eq!(style("LANG", "en_GB.UTF-8"), BarStyle::Unicode);
        assert_eq!(style("LC_ALL", "C.utf8"), BarStyle::Unicode);
        assert_eq!(style("LANG", "C"), BarStyle::Ascii);
        assert_eq!(style("HOME", "/root"), BarStyle::Ascii);
        let both = HashMap::from([("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")]);
        assert_eq!(bar_style(&both), BarStyle::Ascii);
    }

    #[test]
    fn dumb_terminals_are_written_to_line_by_line() {
        assert!(!can_repaint(&HashMap::from([("TERM", "dumb")])));
        assert!(can_repaint(&HashMap::from([("TERM", "xterm")])));
    }
}

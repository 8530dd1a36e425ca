//! `paceline agent`: what the launcher starts on each host.

use std::io::{IsTerminal, stdin};

use paceline_launcher::{ExitCode, run_agent};

use crate::console;

/// Runs the agent.
pub(crate) fn agent() -> ExitCode {
    if stdin().is_terminal() {
        console::note("`agent` is started by paceline itself");
        console::note("hint: use `paceline run -np N PROGRAM`");
        return ExitCode::Usage;
    }
    run_agent()
}

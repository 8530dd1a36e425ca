//! What paceline itself says, on standard error.

use std::error::Error;
use std::ffi::OsString;
use std::io::{Write, stderr};

use paceline_rendezvous::env::{self, ProcessEnvironment};

/// Says one line.
pub(crate) fn note(text: &str) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(stderr(), "paceline: {text}");
}

/// Says why something failed, with causes, and what to do about it.
pub(crate) fn failure(error: &dyn Error, hint: Option<String>) {
    note(&chain(error));
    if let Some(hint) = hint {
        note(&format!("hint: {hint}"));
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// Warns of variables that look like ours and mean nothing, in the environment or among `more`.
pub(crate) fn unknown_variables(more: &[(OsString, OsString)]) {
    let inherited = ProcessEnvironment.all();
    let names = inherited.iter().chain(more).map(|(name, _)| name.as_os_str());
    let mut unknown = env::unknown(names);
    unknown.dedup();
    unknown.iter().for_each(|unknown| note(&unknown.to_string()));
}

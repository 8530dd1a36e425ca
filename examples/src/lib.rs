//! What the example programs share: how they end.
//!
//! The programs themselves are in `src/bin`: start with `hello`, go on with `train`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use paceline_collectives::{CollectiveError, SetupError};

/// Turns the outcome of an example into its exit code: 0, or 1 after the error, its causes and
/// what to do about it have been written to standard error.
///
/// The launcher shows the last lines of standard error of the rank that failed first, so that is
/// the place to say what happened.
pub fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    #[expect(clippy::print_stderr, reason = "the end of a program")]
    {
        eprintln!("error: {error:#}");
        if let Some(hint) = hint(&error) {
            eprintln!("hint: {hint}");
        }
    }
    ExitCode::FAILURE
}

/// Errors of the library know what a user can do about them, apart from their message.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let setup = cause.downcast_ref::<SetupError>().and_then(SetupError::hint);
        let collective = cause.downcast_ref::<CollectiveError>().and_then(CollectiveError::hint);
        setup.or(collective)
    })
}

//! Signals to the launcher.

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::RunError;
use crate::process::signals;

/// Signals that end the job.
const ENDING: [Signal; 4] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];

/// Signals that are passed on to the ranks.
const PASSED_ON: [Signal; 5] =
    [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::TSTP, Signal::CONT];

/// Reports every signal of interest from now on.
///
/// SIGHUP stays ignored if it was, as under `nohup`.
pub(crate) fn listen(on_signal: impl Fn(i32) + Send + Clone + 'static) -> Result<(), RunError> {
    let ignored = |wanted: &Signal| *wanted == Signal::HUP && signals::is_ignored(*wanted);
    for wanted in ENDING.into_iter().chain(PASSED_ON).filter(|wanted| !ignored(wanted)) {
        let number = wanted.as_raw();
        let mut stream = signal(SignalKind::from_raw(number))
            .map_err(|source| RunError::System { operation: "listen for signals", source })?;
        let on_signal = on_signal.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                on_signal(number);
            }
        });
    }
    Ok(())
}

/// Whether the signal asks for the end of the job.
pub(crate) fn ends_job(number: i32) -> bool {
    ENDING.iter().any(|signal| signal.as_raw() == number)
}

/// After the ranks were told of ^Z: stops this process as its terminal expects.
pub(super) fn stop_if_asked(number: i32) {
    if number == Signal::TSTP.as_raw() {
        // A process can always stop itself.
        let _ = kill_process(getpid(), Signal::STOP);
    }
}

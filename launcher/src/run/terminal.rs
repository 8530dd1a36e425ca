//! Signals to the launcher, and what it says when nothing else is left to do.

use std::io::{self, Write as _};
use std::thread;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

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
    listen_for(&ENDING, on_signal.clone())?;
    listen_for(&PASSED_ON, on_signal)
}

fn listen_for(
    signals: &[Signal],
    on_signal: impl Fn(i32) + Send + Clone + 'static,
) -> Result<(), RunError> {
    let ignored = |wanted: &Signal| *wanted == Signal::HUP && signals::is_ignored(*wanted);
    for wanted in signals.iter().filter(|wanted| !ignored(wanted)) {
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

/// Says these lines on standard error, and waits until somebody has taken them: but no longer than
/// until a signal says that nobody will. Returns its number.
pub(super) async fn tell(lines: Vec<String>) -> Option<i32> {
    if lines.is_empty() {
        return None;
    }
    let (signals, mut signal) = mpsc::unbounded_channel();
    // Where they cannot be had they end this process, as they should.
    let _ = listen_for(&ENDING, move |number| {
        let _ = signals.send(number);
    });
    let (told, done) = oneshot::channel();
    let write = move || {
        // If standard error is closed there is nobody to tell.
        let lines: String = lines.iter().map(|line| format!("paceline: {line}\n")).collect();
        let _ = io::stderr().write_all(lines.as_bytes());
        let _ = told.send(());
    };
    // A system without another thread is one that tells nothing more.
    thread::Builder::new().name("paceline-report".to_owned()).spawn(write).ok()?;
    tokio::select! {
        _ = done => None,
        number = signal.recv() => number,
    }
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

//! Asking a program something, with a deadline.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::spawn::die_with_parent;

/// Bytes of an answer that are read.
const BYTES_MAX: u64 = 4 << 20;

/// Runs a program that answers on standard output.
///
/// # Errors
/// It cannot be started, takes longer than until `deadline`, or fails; its last line is in the error.
pub(crate) fn answer(command: &mut Command, deadline: Instant) -> io::Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // If this process ends meanwhile, nobody else would end it.
    die_with_parent(command);
    let mut child = command.spawn()?;
    let output = child.stdout.take().map(|output| output.take(BYTES_MAX));
    let (said, answer) = mpsc::channel();
    thread::Builder::new().name("answer".to_owned()).spawn(move || {
        let mut bytes = Vec::new();
        let read = output.map_or(Ok(0), |mut output| output.read_to_end(&mut bytes));
        let _ = said.send(read.map(|_| bytes));
    })?;
    let left = deadline.saturating_duration_since(Instant::now());
    let bytes = answer.recv_timeout(left);
    if bytes.is_err() {
        // One that hangs in a driver dies when that lets it; it is not waited for.
        let _ = child.kill();
        return Err(io::ErrorKind::TimedOut.into());
    }
    let bytes = bytes.unwrap_or(Ok(Vec::new()))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // Its output has ended, so it ends, too.
    let status = child.wait()?;
    if status.success() {
        return Ok(text);
    }
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(io::Error::other(format!("{status}: {}", last.trim())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_program_that_hangs_or_fails_is_an_error() {
        let soon = Instant::now() + Duration::from_millis(50);
        let error = answer(Command::new("sleep").arg("1000"), soon).expect_err("it hangs");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let later = Instant::now() + Duration::from_secs(60);
        let error = answer(Command::new("sh").args(["-c", "echo no driver; exit 9"]), later)
            .expect_err("it fails");
        assert!(error.to_string().contains("no driver"), "{error}");
        assert_eq!(answer(Command::new("echo").arg("-L"), later).expect("it works"), "-L\n");
    }
}

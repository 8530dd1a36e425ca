//! Running the program to its end, with a limit that only a hang reaches.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use paceline_benches::schema::Report;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(180);

/// Options that make a measurement as short as it gets.
pub(crate) const SHORT: [&str; 4] = ["--iterations", "3", "--rounds", "2"];

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program with these arguments, without a terminal.
pub(crate) fn paceline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs `paceline bench ARGUMENTS…`.
pub(crate) fn bench(arguments: &[&str]) -> Finished {
    finish(start(&mut paceline(&[&["bench"], arguments].concat())))
}

/// Runs `paceline bench ARGUMENTS… --json -`, which must succeed, and reads the record.
pub(crate) fn record(arguments: &[&str]) -> Report {
    let finished = bench(&[arguments, &SHORT, &["--json", "-"]].concat());
    assert_eq!(finished.code, Some(0), "{finished:?}");
    Report::from_json(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// Starts a command and collects its output.
pub(crate) fn start(command: &mut Command) -> Running {
    let mut child = command.spawn().expect("the program starts");
    Running {
        stdout: child.stdout.take().map(collect),
        stderr: child.stderr.take().map(collect),
        child,
    }
}

/// Starts a command of which the caller reads standard output.
pub(crate) fn start_unread(command: &mut Command) -> (Running, impl Read + use<>) {
    let mut child = command.spawn().expect("the program starts");
    let stdout = child.stdout.take().expect("it was piped");
    (Running { stdout: None, stderr: child.stderr.take().map(collect), child }, stdout)
}

/// Waits for the end.
pub(crate) fn finish(mut running: Running) -> Finished {
    let give_up = Instant::now() + PATIENCE;
    let status = loop {
        match running.child.try_wait().expect("our child") {
            Some(status) => break status,
            None if Instant::now() > give_up => {
                running.child.kill().expect("our child");
                panic!("it never ended");
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = |stream: Option<JoinHandle<String>>| {
        stream.map(|thread| thread.join().expect("collected")).unwrap_or_default()
    };
    let (stdout, stderr) = (text(running.stdout.take()), text(running.stderr.take()));
    Finished { code: status.code(), stdout, stderr }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    let read = move || {
        let mut bytes = Vec::new();
        // An error ends the stream like an end of file.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    thread::Builder::new().spawn(read).expect("a thread starts")
}

//! What ranks are doing when a time limit has run out: `--stacks-on-timeout`.
//!
//! Each rank is looked at by a thread of its own, so that neither a debugger nor a /proc that hangs
//! keeps the agent from ending the ranks. Nothing is signalled; a debugger stops a rank while it looks.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::{Environment, PATH, ProcessEnvironment};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Reporter;
use crate::process::table::ProcessEntry;
use crate::process::threads;
use crate::protocol::messages::Report;

/// How long debuggers may look at one rank, all of its processes together.
pub(crate) const TOOL_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines of one rank in the report.
const LINES_MAX: usize = 200;

/// Characters of a line.
const LINE_CHARS_MAX: usize = 400;

/// Bytes that are read of what a debugger says.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Looks at a rank, and reports what was seen, also where that is nothing.
pub(super) fn look_at(rank: u32, pid: i32, reporter: Reporter) {
    let look = {
        let reporter = reporter.clone();
        move || reporter.send(&Report::Stacks { rank, lines: lines_of(pid) })
    };
    if let Err(error) = thread::Builder::new().name(format!("stacks-{rank}")).spawn(look) {
        let lines = vec![format!("no thread to look at it: {error}")];
        reporter.send(&Report::Stacks { rank, lines });
    }
}

fn lines_of(pid: i32) -> Vec<String> {
    let until = Instant::now() + TOOL_TIMEOUT;
    let family = threads::family(pid);
    let mut lines: Vec<String> = family.iter().flat_map(threads::describe).collect();
    let tools = Tools::find();
    for process in &family {
        if let Some((name, command)) = tools.command(process) {
            lines.push(format!("{name} on pid {}:", process.pid));
            lines.extend(output_of(command, until).lines().map(|line| format!("  {line}")));
        }
    }
    limited(lines)
}

/// Not more, and not longer, than a person would read.
fn limited(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > LINES_MAX {
        let more = lines.len() - (LINES_MAX - 1);
        lines.truncate(LINES_MAX - 1);
        lines.push(format!("and {more} lines more"));
    }
    for line in &mut lines {
        if let Some((at, _)) = line.char_indices().nth(LINE_CHARS_MAX) {
            line.truncate(at);
            line.push('…');
        }
    }
    lines
}

/// Debuggers of this host.
struct Tools {
    gdb: Option<PathBuf>,
    py_spy: Option<PathBuf>,
}

impl Tools {
    fn find() -> Self {
        let path = ProcessEnvironment.get(PATH.name).unwrap_or_default();
        let find = |name: &str| {
            std::env::split_paths(&path).map(|directory| directory.join(name)).find(|p| p.is_file())
        };
        Self { gdb: find("gdb"), py_spy: find("py-spy") }
    }

    /// How to look at a process: Python programs with Python's own lines, if there is a way.
    fn command(&self, process: &ProcessEntry) -> Option<(&'static str, Command)> {
        let pid = process.pid.to_string();
        match (&self.py_spy, &self.gdb) {
            (Some(py_spy), _) if process.name.starts_with("python") => {
                let mut command = Command::new(py_spy);
                command.args(["dump", "--pid", &pid]);
                Some(("py-spy", command))
            }
            (_, Some(gdb)) => {
                let mut command = Command::new(gdb);
                command.args(["-nx", "-q", "-batch", "-p", &pid]);
                command.args(["-ex", "thread apply all backtrace 40"]);
                // Symbols that it would have to fetch from a network are not worth the wait.
                command.env_remove("DEBUGINFOD_URLS");
                Some(("gdb", command))
            }
            _ => None,
        }
    }
}

/// What a command says until it ends, or the time is up.
fn output_of(mut command: Command, until: Instant) -> String {
    let name = command.get_program().to_os_string();
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", OsStr::display(&name));
    let (reader, writer) = match std::io::pipe() {
        Ok(ends) => ends,
        Err(error) => return failed(&error),
    };
    let errors = match writer.try_clone() {
        Ok(errors) => errors,
        Err(error) => return failed(&error),
    };
    command.stdin(Stdio::null()).stdout(writer).stderr(errors).process_group(0);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failed(&error),
    };
    // Our copies of the pipe's end would keep it open.
    drop(command);
    // The agent reaps whatever ends, so it is addressed by a handle; without one it has ended.
    let handle = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = handle.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let (text, is_late) = read_until(OwnedFd::from(reader), until);
    if let Some(handle) = handle {
        // What it had stopped goes on.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    if is_late { format!("{text}\n(cut off: it took too long)") } else { text }
}

/// All that comes, and whether the time was up before the end.
fn read_until(from: OwnedFd, until: Instant) -> (String, bool) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let mut file = std::fs::File::from(from);
    let is_late = loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { break true };
        match poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => break true,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => break false,
            Ok(_) => {}
        }
        match file.read(&mut buffer) {
            Ok(0) | Err(_) => break false,
            Ok(count) if (bytes.len() as u64) < OUTPUT_BYTES_MAX => {
                bytes.extend_from_slice(&buffer[..count]);
            }
            Ok(_) => {}
        }
    };
    (String::from_utf8_lossy(&bytes).into_owned(), is_late)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_tool_is_heard_to_its_end_or_cut_off() {
        let far = || Instant::now() + Duration::from_secs(600);
        assert_eq!(output_of(shell("echo out; echo err >&2"), far()), "out\nerr\n");
        let late = output_of(shell("echo out; exec sleep 600"), Instant::now());
        assert!(late.ends_with("(cut off: it took too long)"), "{late}");
        let absent = output_of(Command::new("/no/such/tool"), far());
        assert!(absent.starts_with("/no/such/tool: No such file"), "{absent}");
    }

    #[test]
    fn a_rank_gets_so_many_lines_of_so_many_characters() {
        let lines = limited(vec!["ü".repeat(1000); 1000]);
        assert_eq!((lines.len(), lines[0].chars().count()), (LINES_MAX, LINE_CHARS_MAX + 1));
        assert_eq!(lines[LINES_MAX - 1], "and 801 lines more");
        assert_eq!(limited(vec!["a".to_owned()]), ["a"]);
    }
}

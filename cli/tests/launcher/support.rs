//! Starting jobs, waiting for conditions, looking for what was left behind.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use paceline_rendezvous::env::XDG_RUNTIME_DIR;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Longer than any machine needs; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Name of the variable by which a job's processes are found.
const MARK: &str = "MARK_OF_A_PACELINE_TEST";

/// A `paceline run` about to be started.
pub(crate) struct Job {
    command: Command,
    mark: String,
}

impl Job {
    /// `paceline run ARGUMENTS…`; output is collected.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self::of("run", arguments)
    }

    /// The same with another command than `run`.
    pub(crate) fn of(command_name: &str, arguments: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}-{number}", std::process::id());
        let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
        command.arg(command_name).args(arguments).env(MARK, &mark).env_remove("OMP_NUM_THREADS");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, mark }
    }

    /// A job of ranks that each run a shell script.
    pub(crate) fn script(options: &[&str], script: &str) -> Self {
        let mut arguments = options.to_vec();
        arguments.extend(["--", "sh", "-c", script]);
        Self::new(&arguments)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn directory(mut self, path: &Path) -> Self {
        self.command.current_dir(path);
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Runs it under another program, such as `nohup`.
    pub(crate) fn under(self, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).arg(self.command.get_program()).args(self.command.get_args());
        command.env(MARK, &self.mark).env_remove("OMP_NUM_THREADS");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, ..self }
    }

    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.spawn().expect("paceline starts");
        Running {
            stdout: child.stdout.take().map(collect),
            stderr: child.stderr.take().map(collect),
            child,
            mark: self.mark,
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Finished {
        self.start().wait()
    }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    let read = move || {
        let mut bytes = Vec::new();
        // An error ends the stream like an end of file.
        let _ = from.read_to_end(&mut bytes);
        bytes
    };
    thread::Builder::new().spawn(read).expect("a thread starts")
}

/// A job that has been started.
pub(crate) struct Running {
    child: Child,
    mark: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Exit code, or 1000 + n if a signal killed the launcher itself.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn launcher(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.launcher(), signal);
    }

    /// The process id of the agent.
    pub(crate) fn agent(&self) -> i32 {
        let launcher = self.launcher();
        let mut found = None;
        eventually("the agent runs", || {
            found = marked(&self.mark)
                .into_iter()
                .find(|&pid| parent(pid) == Some(launcher) && command_line(pid).contains("agent"));
            found.is_some()
        });
        found.expect("just found")
    }

    /// Processes of the job, the launcher included.
    pub(crate) fn processes(&self) -> Vec<i32> {
        marked(&self.mark)
    }

    pub(crate) fn wait_until_all_gone(&self) {
        let give_up = Instant::now() + PATIENCE;
        // The launcher itself may be a zombie that only `wait` below can bury.
        // One look is not enough: what forks and ends while it is taken is seen neither before nor after.
        while (0..3).any(|_| !self.processes().is_empty()) {
            let left = || self.processes().into_iter().map(describe).collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < give_up, "processes of the job are left:\n{}", left());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the end and checks that nothing is left.
    pub(crate) fn wait(mut self) -> Finished {
        use std::os::unix::process::ExitStatusExt;
        let mut status = None;
        eventually("the launcher ends", || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        });
        let status = status.expect("it ended");
        assert_eq!(self.processes(), Vec::<i32>::new(), "left behind when the launcher had ended");
        let take = |stream: Option<JoinHandle<Vec<u8>>>| {
            stream.map(|thread| thread.join().expect("collected")).unwrap_or_default()
        };
        let code = status.code().unwrap_or_else(|| 1000 + status.signal().unwrap_or(0));
        let stdout = take(self.stdout.take());
        let stderr = String::from_utf8_lossy(&take(self.stderr.take())).into_owned();
        Finished { code, stdout, stderr }
    }
}

/// A failed test must not leave processes to the next one.
impl Drop for Running {
    fn drop(&mut self) {
        for pid in self.processes() {
            kill(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Finished {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("UTF-8")
    }

    /// Lines of standard output in a fixed order: ranks do not write in any.
    pub(crate) fn sorted_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.text().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 1) {
        let _ = kill_process(pid, signal);
    }
}

/// Stops a process while `body` runs, also if somebody else continues it, as sandboxes do that put all
/// their processes to sleep for a while; continues it afterwards if it is still there.
pub(crate) fn while_stopped<R>(pid: i32, body: impl FnOnce() -> R) -> R {
    let pid = Pid::from_raw(pid).expect("a pid is positive");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let is_over = AtomicBool::new(false);
    let stop = || {
        // Once it has ended, nobody else is meant by its handle.
        while !is_over.load(Ordering::Relaxed) && pidfd_send_signal(&process, Signal::STOP).is_ok()
        {
            thread::sleep(Duration::from_millis(10));
        }
    };
    thread::scope(|scope| {
        let stop = thread::Builder::new().name("stop".to_owned()).spawn_scoped(scope, stop);
        let outcome = catch_unwind(AssertUnwindSafe(body));
        is_over.store(true, Ordering::Relaxed);
        stop.expect("a thread starts").join().expect("it does not panic");
        let _ = pidfd_send_signal(&process, Signal::CONT);
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// A terminal: what is shown on it can be read from the first, a program writes to the second.
pub(crate) fn terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
    let ours = ours.expect("a terminal");
    grantpt(&ours).expect("ours");
    unlockpt(&ours).expect("ours");
    let name = ptsname(&ours, Vec::new()).expect("it has a name");
    let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    (ours, theirs.expect("openable"))
}

/// What has been shown on a terminal that no program has open any more, at most as much as it holds.
pub(crate) fn all_of(terminal: OwnedFd) -> String {
    let mut bytes = Vec::new();
    // Its end is an error.
    let _ = fs::File::from(terminal).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for a condition; a test fails if it never comes true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "never happened: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a pipe of the usual size has no room for another page.
pub(crate) fn is_full(reader: &std::io::PipeReader) -> bool {
    const USUAL_BYTES: u64 = 64 << 10;
    const PAGE_BYTES: u64 = 4 << 10;
    rustix::io::ioctl_fionread(reader).expect("a pipe") > USUAL_BYTES - PAGE_BYTES
}

/// Waits until something is as it should be; a test fails with what it is like if it never becomes so.
pub(crate) fn settles(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let give_up = Instant::now() + PATIENCE;
    while let Err(instead) = look() {
        assert!(Instant::now() < give_up, "never happened: {what}: {instead}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// `paceline status ARGUMENTS…` of the jobs that leave their cards below `directory`.
pub(crate) fn status(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paceline"));
    command.arg("status").args(arguments).env(XDG_RUNTIME_DIR.name, directory);
    command.output().expect("paceline starts")
}

/// The same as JSON; null if a job does not answer, such as one that has not begun.
pub(crate) fn json(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = status(directory, &[arguments, &["--json"]].concat());
    if !output.status.success() {
        return serde_json::Value::Null;
    }
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The process id of a rank of the only job below `directory`, once it has joined.
pub(crate) fn pid_of(directory: &Path, rank: u32) -> i32 {
    let mut pid = None;
    eventually("the rank has joined", || {
        let told = json(directory, &[]);
        pid = told[0]["status"]["ranks"][rank as usize]["pid"].as_i64();
        pid.is_some()
    });
    i32::try_from(pid.expect("just found")).expect("a pid is an i32")
}

/// What a process is and does, for the message of a test that fails.
fn describe(pid: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (status, wchan) = (read("status"), read("wchan"));
    let state = status.lines().find(|line| line.starts_with("State")).unwrap_or("gone");
    let parent = parent(pid).unwrap_or(0);
    format!("{pid} (child of {parent}) {} {state}, in {wchan}", command_line(pid))
}

fn all_processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Living processes that were started with this mark.
fn marked(mark: &str) -> Vec<i32> {
    let wanted = format!("{MARK}={mark}");
    let has_mark = |pid: &i32| {
        // A zombie has no environment any more.
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    all_processes().into_iter().filter(has_mark).collect()
}

/// Number of children of a process, zombies included.
pub(crate) fn children(of: i32) -> usize {
    all_processes().into_iter().filter(|&pid| parent(pid) == Some(of)).count()
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

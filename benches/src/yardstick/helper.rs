//! Libraries that live in Python: a process beside each rank, told what to measure.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use super::Yardstick;
use crate::metrics::as_f64;
use crate::run::{Group, RunError, Settings};

/// The program of the helper.
const PROGRAM: &str = include_str!("helper.py");

/// Longest silence of a helper. Importing torch from a cold disk takes half a minute.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long a helper has to end by itself.
const ENDING: Duration = Duration::from_secs(2);

/// Shortest batch, as for ours.
const BATCH_NANOSECONDS: u64 = 10_000;

/// Most operations at a time before the first that counts.
const WARMUP_OPERATIONS_MAX: u64 = 1 << 20;

/// Most batches of a round: each is a number in a line of JSON.
const BATCHES_MAX: u64 = 1 << 16;

/// What goes wrong with a helper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HelperError {
    /// Its Python cannot be run.
    #[error("cannot run {python}")]
    Start {
        /// The program.
        python: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It does not start: the library is missing, most likely.
    #[error("{backend} cannot be used from {python}: {reason}")]
    Unusable {
        /// Which library.
        backend: &'static str,
        /// The program.
        python: String,
        /// What the helper said.
        reason: String,
    },
    /// It refuses what it is told.
    #[error("{0}")]
    Refused(String),
    /// It has ended, or says nothing any more.
    #[error("the helper of {backend} {what}")]
    Lost {
        /// Which library.
        backend: &'static str,
        /// What it does instead.
        what: &'static str,
    },
}

impl HelperError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let install = match self {
            Self::Start { .. } => {
                return Some("give --peer-python the path of a Python that has the library".into());
            }
            Self::Unusable { backend: "gloo", .. } => "pip install torch numpy",
            Self::Unusable { .. } => {
                "pip install torch==2.0.1 'numpy<2' 'setuptools<70' wheel cmake cloudpickle psutil \
                 pyyaml packaging cffi && HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_GLOO=1 \
                 HOROVOD_WITHOUT_MPI=1 HOROVOD_CPU_OPERATIONS=GLOO pip install \
                 --no-build-isolation --no-deps horovod==0.28.1"
            }
            _ => return None,
        };
        Some(format!("install it: {install}; or give --peer-python a Python that has it"))
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// The collective; `None` with `lengths`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collective: Option<&'static str>,
    /// Elements of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Elements of each tensor of a step that submits all and then waits for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lengths: Option<Vec<u64>>,
    /// The element type.
    pub dtype: &'static str,
    /// The operator.
    pub op: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Order<'a> {
    Begin(&'a Request),
    Run { batches: u64, batch: u64 },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    ready: Option<String>,
    version: Option<String>,
    wrong: Option<u64>,
    times_ns: Option<Vec<u64>>,
    error: Option<String>,
}

/// The helper of this rank. It is stopped whenever it has nothing to do, because libraries have
/// threads that look for work all the time.
#[derive(Debug)]
pub struct Helper {
    backend: &'static str,
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
    library: (String, String),
}

impl Helper {
    /// Starts the helper of one rank; all ranks start theirs at once. They meet in `directory`.
    ///
    /// # Errors
    /// [`HelperError`].
    pub fn start(
        backend: &'static str,
        python: &str,
        (rank, world_size): (u32, u32),
        directory: &Path,
    ) -> Result<Self, HelperError> {
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM, backend, &rank.to_string(), &world_size.to_string()]);
        command.arg(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let failed = |source| HelperError::Start { python: python.to_owned(), source };
        let mut child = command.spawn().map_err(failed)?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().expect("it was piped");
        let answers = listen(answers).map_err(failed)?;
        let library = (String::new(), String::new());
        let mut helper = Self { backend, child, orders, answers, library };
        let unusable =
            |reason: String| HelperError::Unusable { backend, python: python.to_owned(), reason };
        match helper.hear() {
            Ok(Answer { ready: Some(name), version, .. }) => {
                helper.library = (name, version.unwrap_or_default());
                helper.signal(Signal::STOP);
                Ok(helper)
            }
            Ok(_) => Err(unusable("it says nothing of itself".to_owned())),
            Err(HelperError::Refused(reason)) => Err(unusable(reason)),
            Err(error) => Err(unusable(error.to_string())),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It has not been waited for, so that the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }

    fn lost(&self, what: &'static str) -> HelperError {
        HelperError::Lost { backend: self.backend, what }
    }

    fn hear(&mut self) -> Result<Answer, HelperError> {
        let line = self.answers.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => self.lost("is silent"),
            RecvTimeoutError::Disconnected => self.lost("has ended"),
        })?;
        let answer: Answer =
            serde_json::from_str(&line).map_err(|_| self.lost("says what nobody understands"))?;
        match answer.error {
            Some(reason) => Err(HelperError::Refused(reason)),
            None => Ok(answer),
        }
    }

    fn ask(&mut self, order: &Order<'_>) -> Result<Answer, HelperError> {
        let mut text = serde_json::to_string(order).expect("it is plain data");
        text.push('\n');
        self.signal(Signal::CONT);
        let sent = self.orders.as_mut().map(|orders| orders.write_all(text.as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.lost("has ended"));
        }
        self.hear()
    }
}

/// Lines of a helper, read by a thread, so that waiting for one has an end.
fn listen(from: ChildStdout) -> std::io::Result<Receiver<String>> {
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("peer-helper".to_owned());
    thread.spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        // The end of its orders is the end of its work.
        self.orders = None;
        let give_up = Instant::now() + ENDING;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= give_up {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One row, measured by the helpers of all ranks.
#[derive(Debug)]
pub struct HelperYardstick<'a> {
    helper: &'a mut Helper,
    request: Request,
    settings: Settings,
    /// Batches of a round, and operations of a batch.
    extent: (u64, u64),
    library: (String, String),
}

impl<'a> HelperYardstick<'a> {
    /// Rounds are as long as `settings` says.
    pub fn new(helper: &'a mut Helper, request: Request, settings: &Settings) -> Self {
        let library = helper.library.clone();
        Self { helper, request, settings: *settings, extent: (0, 0), library }
    }

    /// Runs on all ranks. Returns the slowest rank's time of each batch, in nanoseconds.
    fn run(
        &mut self,
        group: &mut dyn Group,
        batches: u64,
        batch: u64,
    ) -> Result<Vec<u64>, RunError> {
        let answer = self.order(group, &Order::Run { batches, batch })?;
        let own = answer.times_ns.filter(|times| times.len() as u64 == batches);
        let own = own.ok_or_else(|| failed(self.helper.lost("has lost count")))?;
        let all = group
            .gather(&own)
            .map_err(|source| RunError::Group { step: "collect a peer's times", source })?;
        let slowest = |at: usize| all.iter().map(|of_rank| of_rank[at]).max().unwrap_or(0);
        Ok((0..own.len()).map(slowest).collect())
    }

    /// Tells the helpers of all ranks. They are stopped again only when all have answered: until
    /// then one may wait for another.
    fn order(&mut self, group: &mut dyn Group, order: &Order<'_>) -> Result<Answer, RunError> {
        let answer = self.helper.ask(order).map_err(failed)?;
        let together = |source| RunError::Group { step: "wait for a peer", source };
        group.barrier().map_err(together)?;
        self.helper.signal(Signal::STOP);
        Ok(answer)
    }
}

fn failed(error: HelperError) -> RunError {
    RunError::Operation(Box::new(error))
}

impl Yardstick for HelperYardstick<'_> {
    fn library(&self) -> (&str, &str) {
        (&self.library.0, &self.library.1)
    }

    fn begin(&mut self, group: &mut dyn Group) -> Result<u64, RunError> {
        let request = self.request.clone();
        let answer = self.order(group, &Order::Begin(&request))?;
        let together = |source| RunError::Group { step: "agree on a peer's rounds", source };
        let wrong = group.gather(&[answer.wrong.unwrap_or(0)]).map_err(together)?;
        let mut operations = 1;
        let operation_ns = loop {
            let elapsed = self.run(group, 1, operations)?.iter().sum::<u64>();
            let elapsed = group.broadcast(elapsed).map_err(together)?;
            if elapsed >= self.settings.warmup_ns || operations >= WARMUP_OPERATIONS_MAX {
                break (elapsed / operations).max(1);
            }
            operations *= 2;
        };
        let mut batch = BATCH_NANOSECONDS.div_ceil(operation_ns).max(1);
        let batches = match self.settings.iterations {
            Some(iterations) => {
                batch = batch.min(iterations.max(1));
                iterations.div_ceil(batch)
            }
            None => self
                .settings
                .min_time_ns
                .div_ceil(operation_ns.saturating_mul(batch))
                .max(self.settings.batches_min),
        };
        self.extent = (batches.clamp(1, BATCHES_MAX), batch);
        Ok(wrong.iter().map(|of_rank| of_rank[0]).sum())
    }

    fn round(&mut self, group: &mut dyn Group) -> Result<f64, RunError> {
        let (batches, batch) = self.extent;
        let times = self.run(group, batches, batch)?;
        let total: u64 = times.iter().sum();
        Ok(as_f64(total) / as_f64(batches.max(1)) / as_f64(batch.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(order: &Order<'_>) -> serde_json::Value {
        serde_json::to_value(order).unwrap()
    }

    #[test]
    fn orders_are_what_the_helper_understands() {
        let of = Request {
            collective: Some("all_gather"),
            count: Some(7),
            lengths: None,
            dtype: "f32",
            op: "sum",
        };
        let collective = serde_json::json!({
            "begin": { "collective": "all_gather", "count": 7, "dtype": "f32", "op": "sum" }
        });
        assert_eq!(said(&Order::Begin(&of)), collective);
        let step = Request { collective: None, count: None, lengths: Some(vec![1, 20]), ..of };
        let lengths =
            serde_json::json!({ "begin": { "lengths": [1, 20], "dtype": "f32", "op": "sum" } });
        assert_eq!(said(&Order::Begin(&step)), lengths);
        let run = serde_json::json!({ "run": { "batches": 5, "batch": 2 } });
        assert_eq!(said(&Order::Run { batches: 5, batch: 2 }), run);
        assert!(PROGRAM.contains("measure(**command[\"run\"])"), "names are those of arguments");
    }

    #[test]
    fn whoever_lacks_a_library_is_told_how_to_get_it() {
        let unusable = |backend| HelperError::Unusable {
            backend,
            python: "python3".to_owned(),
            reason: String::new(),
        };
        assert!(unusable("gloo").hint().unwrap().contains("pip install torch"));
        assert!(unusable("horovod").hint().unwrap().contains("horovod==0.28.1"));
        assert_eq!(HelperError::Refused(String::new()).hint(), None);
    }
}

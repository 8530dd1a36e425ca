//! `paceline doctor`: whether jobs can run on some hosts, and how well, before one does.
//!
//! An agent on each host looks at it (`examine`); then the agents try to reach each other
//! (`pairs`) by way of `crate::probe`. What was found becomes [`Check`]s by functions that are pure.
//! The hosts are looked at all at once; of the pairs, those at once that have no host in common.

mod clock;
mod diagnosis;
pub(crate) mod examination;
pub(crate) mod examine;
mod judge;
mod pairs;
mod patient;
pub(crate) mod question;
mod reach;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::{RunId, Secret};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

pub use clock::ClockOffset;
pub use diagnosis::{
    Check, Diagnosis, HostDiagnosis, PairDiagnosis, SCHEMA, Status, WayDiagnosis, WayOutcome,
};
pub use examination::{
    Examination, Gid, Interface, Limits, Machine, RdmaDevice, RdmaPort, Space, Timed,
};

pub use crate::machine::gpus::{Gpu, GpuPart, Gpus};

use crate::job::JobSpec;
use crate::plan::{HostFacts, PlanError, machines};
use crate::probe::{Door, Effort, rounds};
use crate::process::build_id;
use crate::protocol::facts::VERSION;
use crate::run::agents::AgentCommand;
use crate::run::{RunError, terminal};
use patient::{Interrupt, Patient};
use question::{Answer, Question};
use reach::{Means, Reached, reach};

/// How long an agent may take to open its doors.
const DOORS_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to find out about one way: longer than all that it waits for itself.
const WAY_TIMEOUT: Duration = Duration::from_secs(40);

/// Why there is no diagnosis.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoctorError {
    /// The hosts make no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Nothing could be begun.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The user has had enough.
    #[error("interrupted")]
    Interrupted {
        /// By this signal.
        signal: i32,
    },
}

impl DoctorError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Plan(error) => error.hint(),
            Self::Run(error) => error.hint(),
            Self::Interrupted { .. } => None,
        }
    }

    /// What the command returns for it.
    pub fn exit_code(&self) -> crate::ExitCode {
        match self {
            Self::Plan(error) => error.exit_code(),
            Self::Run(error) => error.exit_code(),
            Self::Interrupted { signal } => {
                crate::ExitCode::Interrupted(u8::try_from(*signal).unwrap_or(0))
            }
        }
    }
}

/// Looks at the hosts of a job, of which nothing else counts, and at what is between them. Blocks;
/// returns when no agent is left.
///
/// The calling process takes SIGINT, SIGTERM, SIGHUP and SIGQUIT meanwhile.
///
/// # Errors
/// Nothing was found out at all. What is wrong with hosts is in the [`Diagnosis`].
pub fn doctor(job: &JobSpec, agent: &AgentCommand) -> Result<Diagnosis, DoctorError> {
    let facts = HostFacts::of_this_host()?;
    let hosts = machines(job, &facts, &mut Vec::new())?;
    let secret = Secret::random().map_err(RunError::from)?;
    let (interrupted, interrupt) = watch::channel(None);
    let own_path = std::env::current_exe().ok();
    let means = Means {
        ssh: job.ssh.clone(),
        agent: agent.clone(),
        own_path: own_path.as_deref().and_then(Path::to_str).map(str::to_owned),
        own_build: build_id::of_this_process(),
        secret,
        ports: job.port_range,
        interrupt,
    };
    let run_id = RunId::random().map_err(RunError::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|source| RunError::System { operation: "start the doctor", source })?;
    let diagnosis = runtime.block_on(async {
        let signals = interrupted.clone();
        terminal::listen(move |number| {
            if terminal::ends_job(number) {
                signals.send_replace(Some(number));
            }
        })?;
        Ok::<_, RunError>(examine_all(hosts, Arc::new(means), run_id).await)
    });
    // A name that is still looked up must not keep us.
    runtime.shutdown_timeout(Duration::ZERO);
    let signal = *interrupted.borrow();
    match signal {
        Some(signal) => Err(DoctorError::Interrupted { signal }),
        None => Ok(diagnosis?),
    }
}

/// A host that is to be reached by others, and that reaches them.
type Shared = Arc<Mutex<(HostDiagnosis, Option<Patient>, Vec<Door>)>>;

async fn examine_all(
    hosts: Vec<(crate::hosts::HostSlots, bool)>,
    means: Arc<Means>,
    run_id: RunId,
) -> Diagnosis {
    let mut tasks = JoinSet::new();
    for (index, (host, is_local)) in hosts.into_iter().enumerate() {
        let means = Arc::clone(&means);
        tasks.spawn(async move { (index, reach(host, is_local, means).await) });
    }
    let mut reached: Vec<(usize, Reached)> = tasks.join_all().await;
    reached.sort_by_key(|(index, _)| *index);
    let count = u32::try_from(reached.len()).unwrap_or(u32::MAX);
    let (all, present) = open_doors(reached, run_id, count, means.ports).await;
    let pairs = try_pairs(&present, &means.interrupt).await;
    let present_count = present.len();
    drop(present);
    let mut diagnosis = Diagnosis {
        schema: SCHEMA,
        paceline: VERSION,
        hosts: Vec::new(),
        overall: overall(&pairs, all.len(), present_count),
        pairs,
    };
    let mut ending = JoinSet::new();
    for shared in all {
        // All tasks that had one have ended.
        let (host, patient, _) =
            Arc::into_inner(shared).map(Mutex::into_inner).unwrap_or_else(|| {
                unreachable!("nobody else holds a host when its pairs have been tried")
            });
        diagnosis.hosts.push(host);
        if let Some(patient) = patient {
            ending.spawn(patient.end());
        }
    }
    ending.join_all().await;
    diagnosis
}

fn overall(pairs: &[PairDiagnosis], hosts: usize, present: usize) -> Vec<Check> {
    match hosts {
        0 | 1 => vec![Check::ok("network", "one host: nothing to reach")],
        _ if present < 2 => vec![Check::warning(
            "network",
            format!("fewer than two of {hosts} hosts are up: no way between hosts was tried"),
            "do what is said above, and look again",
        )],
        _ => pairs::remote_gpus(pairs).into_iter().collect(),
    }
}

/// Lets the agents that are up listen, where there are several. Returns all hosts, and those that can
/// be tried, each with its number.
async fn open_doors(
    reached: Vec<(usize, Reached)>,
    run_id: RunId,
    count: u32,
    ports: PortRange,
) -> (Vec<Shared>, Vec<(u32, Shared)>) {
    let (mut all, mut present) = (Vec::new(), Vec::new());
    let is_up =
        |reached: &Reached| reached.patient.is_some() && reached.diagnosis.examination.is_some();
    let is_any_pair = reached.iter().filter(|(_, reached)| is_up(reached)).count() > 1;
    for (index, reached) in reached {
        let is_up = is_up(&reached);
        let Reached { mut diagnosis, mut patient } = reached;
        let mut doors = Vec::new();
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        if let (true, true, Some(patient), Some(found)) =
            (is_any_pair, is_up, &mut patient, &diagnosis.examination)
        {
            let addresses = pairs::addresses(found).map(|(address, _)| address).collect();
            let run_id = *run_id.as_bytes();
            let ports = (*ports.ports().start(), *ports.ports().end());
            let question = Question::Doors { run_id, number, count, addresses, ports };
            match patient.ask(question, DOORS_TIMEOUT).await {
                Ok(Answer::Doors(list)) => doors = list,
                Ok(_) => {}
                Err(loss) => diagnosis.checks.push(Check::failed(
                    "listening",
                    loss.describe(),
                    format!("see what became of the agent on {}, and try again", diagnosis.host),
                )),
            }
        }
        let shared = Arc::new(Mutex::new((diagnosis, patient, doors)));
        if is_any_pair && is_up {
            present.push((number, Arc::clone(&shared)));
        }
        all.push(shared);
    }
    (all, present)
}

async fn try_pairs(present: &[(u32, Shared)], interrupt: &Interrupt) -> Vec<PairDiagnosis> {
    let mut found = Vec::new();
    for round in rounds(present.len()) {
        let mut tasks = JoinSet::new();
        for (a, b) in round {
            let (Some(a), Some(b)) = (present.get(a), present.get(b)) else { continue };
            let (a, b) = (a.clone(), b.clone());
            tasks.spawn(async move {
                let there = try_pair(&a.1, &b).await;
                let back = try_pair(&b.1, &a).await;
                [((a.0, b.0), there), ((b.0, a.0), back)]
            });
        }
        found.extend(tasks.join_all().await.into_iter().flatten());
        if interrupt.borrow().is_some() {
            break;
        }
    }
    found.sort_by_key(|(numbers, _)| *numbers);
    found.into_iter().map(|(_, pair)| pair).collect()
}

/// Tries each door of `to`, one after the other.
async fn try_pair(from: &Shared, to: &(u32, Shared)) -> PairDiagnosis {
    let begin = Instant::now();
    let (number, to) = to;
    let (to_name, theirs, doors) = {
        let (diagnosis, _, doors) = &*to.lock().await;
        (diagnosis.host.clone(), diagnosis.examination.clone(), doors.clone())
    };
    let (diagnosis, patient, _) = &mut *from.lock().await;
    let from_name = diagnosis.host.clone();
    let mut pair =
        PairDiagnosis { from: from_name, to: to_name, ways: Vec::new(), checks: Vec::new() };
    let (Some(own), Some(theirs), Some(patient)) = (&diagnosis.examination, theirs, patient) else {
        return pair;
    };
    let mut broken = None;
    for (address, interface) in pairs::addresses(&theirs) {
        let Some(door) = doors.iter().find(|door| door.address == address) else { continue };
        let outcome = match &door.port {
            Ok(port) => {
                let address = SocketAddr::new(address, *port);
                patient
                    .ask(
                        Question::Way { host: *number, address, effort: Effort::FULL },
                        WAY_TIMEOUT,
                    )
                    .await
            }
            Err(reason) => {
                let reason = format!("{} cannot listen there: {reason}", pair.to);
                Ok(Answer::Way(Err(crate::probe::ProbeError::Unreachable { reason })))
            }
        };
        match outcome {
            Ok(Answer::Way(outcome)) => {
                pair.ways.push(pairs::way(own, interface, address, outcome));
            }
            Ok(_) => {}
            Err(loss) => {
                broken = Some(loss.describe());
                break;
            }
        }
    }
    pair.checks = match broken {
        Some(reason) => vec![Check::failed(
            format!("{} to {}", pair.from, pair.to),
            format!("the agent on {} is lost: {reason}", pair.from),
            format!("see whether {} is still reached: ssh {} true", pair.from, pair.from),
        )],
        None => pairs::judge(&pair.from, &pair.to, &pair.ways),
    };
    if let Some(first) = pair.checks.first_mut() {
        *first = first.clone().took(begin.elapsed());
    }
    pair
}

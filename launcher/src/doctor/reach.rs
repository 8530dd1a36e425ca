//! The phases of getting to a host: its name, ssh, the agent. The first that fails ends the list.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_rendezvous::Secret;
use paceline_rendezvous::env::PortRange;
use tokio::sync::oneshot;

use super::clock::{self, ClockOffset, EXCHANGES, Exchange};
use super::diagnosis::{Check, HostDiagnosis, Status};
use super::examination::Examination;
use super::judge;
use super::patient::{Interrupt, Loss, Patient, cause};
use super::question::{Answer, Question, wall_clock};
use crate::hosts::HostSlots;
use crate::process::answer::answer;
use crate::process::wait::Ending;
use crate::run::agents::AgentCommand;
use crate::run::ssh::{self, SSH_FAILED};
use crate::run::{RunError, SshOptions, Unreached};

/// How long names may take to be looked up.
const NAME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long ssh may take to explain itself.
const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the agent may take to be there: ssh itself gives up after 10 s without a connection.
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an agent may take to look at its host, `nvidia-smi` included.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one that is up may take to say what time it is.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What all hosts have in common.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) ssh: SshOptions,
    pub(super) agent: AgentCommand,
    pub(super) own_path: Option<String>,
    pub(super) own_build: Option<String>,
    pub(super) secret: Secret,
    /// The ports that ranks may listen on, hence those to try.
    pub(super) ports: PortRange,
    pub(super) interrupt: Interrupt,
}

/// A host, with its agent if that is up.
pub(super) struct Reached {
    pub(super) diagnosis: HostDiagnosis,
    pub(super) patient: Option<Patient>,
}

/// Gets to a host and looks at it.
pub(super) async fn reach(host: HostSlots, is_local: bool, means: Arc<Means>) -> Reached {
    let mut checks = Vec::new();
    if !is_local {
        let check = name(&host, &means).await;
        let is_found = check.status != Status::Failed;
        checks.push(check);
        if !is_found {
            return unreached(host, is_local, checks, None);
        }
    }
    let begin = Instant::now();
    let command = match is_local {
        true => means.agent.clone(),
        false => means.ssh.command(&host, means.own_path.as_deref(), None),
    };
    let interrupt = means.interrupt.clone();
    let mut patient = match Patient::start(&host.host, &command, is_local, interrupt) {
        Ok(patient) => patient,
        Err(error) => {
            checks.push(not_started(is_local, &error).took(begin.elapsed()));
            return unreached(host, is_local, checks, None);
        }
    };
    if let Err(loss) = patient.comes_up(UP_TIMEOUT).await {
        let words = match loss {
            Loss::Silent(_) => patient.give_up().await,
            _ => Vec::new(),
        };
        checks.extend(not_up(&host.host, is_local, &loss, words, begin.elapsed()));
        return unreached(host, is_local, checks, Some(patient));
    }
    if !is_local {
        checks.push(Check::ok("ssh", "logged in").took(begin.elapsed()));
    }
    examined(host, is_local, checks, patient, &means).await
}

fn unreached(
    host: HostSlots,
    is_this_host: bool,
    checks: Vec<Check>,
    patient: Option<Patient>,
) -> Reached {
    let diagnosis =
        HostDiagnosis { host: host.host, is_this_host, checks, clock: None, examination: None };
    Reached { diagnosis, patient }
}

/// Whether it is known where the host is.
async fn name(host: &HostSlots, means: &Means) -> Check {
    let begin = Instant::now();
    let command = means.ssh.explanation(host);
    let explained = in_thread(move || {
        let mut process = Command::new(&command.program);
        answer(process.args(&command.arguments), Instant::now() + EXPLAIN_TIMEOUT)
    });
    // Where ssh does not explain itself, it says why when it is to connect.
    let explained = match tokio::time::timeout(NAME_TIMEOUT, explained).await {
        Ok(Some(Ok(text))) => explanation(&text),
        _ => Explanation::default(),
    };
    let wanted = explained.host_name.unwrap_or_else(|| host.host.clone());
    let asked = wanted.clone();
    let looked_up = in_thread(move || look_up(&asked));
    let mut interrupt = means.interrupt.clone();
    let found = tokio::select! {
        found = tokio::time::timeout(NAME_TIMEOUT, looked_up) => match found {
            Ok(Some(found)) => found.map_err(|error| error.to_string()),
            Ok(None) => Err("no thread could be started".to_owned()),
            Err(_) => Err(format!("no answer within {} s", NAME_TIMEOUT.as_secs())),
        },
        _ = interrupt.wait_for(Option::is_some) => Err("interrupted".to_owned()),
    };
    judge_name(&host.host, &wanted, found, explained.goes_by_another).took(begin.elapsed())
}

fn judge_name(
    host: &str,
    wanted: &str,
    found: Result<Vec<IpAddr>, String>,
    goes_by_another: bool,
) -> Check {
    match found {
        Ok(addresses) => {
            let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let prefix = if wanted == host { String::new() } else { format!("{wanted}: ") };
            Check::ok("name", format!("{prefix}{}", texts.join(", ")))
        }
        Err(_) if goes_by_another => {
            Check::ok("name", format!("{wanted}: not known here; ssh goes by way of another host"))
        }
        Err(error) => Check::failed("name", error, ssh::name_remedy(host)),
    }
}

/// What ssh would do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Explanation {
    /// The name that it would look up: an alias in its configuration is none.
    host_name: Option<String>,
    /// It is not this host that would look it up.
    goes_by_another: bool,
}

/// Reads what `ssh -G` prints.
fn explanation(text: &str) -> Explanation {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(str::trim).filter(|value| !value.is_empty() && *value != "none")
    };
    Explanation {
        host_name: value("hostname").map(str::to_owned),
        goes_by_another: value("proxyjump").or_else(|| value("proxycommand")).is_some(),
    }
}

fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> =
        (name, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
    addresses.dedup();
    Ok(addresses)
}

/// What a function that blocks returns; `None` if it could not be begun. Whoever does not wait for it
/// leaves it to end with this process.
async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (said, heard) = oneshot::channel();
    let begun = std::thread::Builder::new().name("doctor".to_owned()).spawn(move || {
        let _ = said.send(work());
    });
    begun.ok()?;
    heard.await.ok()
}

fn not_started(is_local: bool, error: &RunError) -> Check {
    let text = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match is_local {
        true => Check::failed("agent", text, "see whether this binary may be executed"),
        false => Check::failed("ssh", text, "install ssh on this host (openssh-client)"),
    }
}

/// Which phase it was that failed.
fn not_up(
    host: &str,
    is_local: bool,
    loss: &Loss,
    words: Vec<String>,
    took: Duration,
) -> Vec<Check> {
    let unreached = match loss {
        Loss::Gone(unreached) => unreached.clone(),
        _ => {
            let ending = Some(Ending::Code(SSH_FAILED));
            Unreached { host: host.to_owned(), ending, words, reason: None }
        }
    };
    let text = match loss {
        Loss::Gone(unreached) => cause(unreached),
        other => match unreached.words.last() {
            Some(said) => format!("{}: {said}", other.describe()),
            None => other.describe(),
        },
    };
    let remedy = ssh::remedy(&unreached)
        .unwrap_or_else(|| format!("try it by hand: ssh {host} paceline --version"));
    let is_ssh = unreached.ending == Some(Ending::Code(SSH_FAILED));
    match (is_local, is_ssh) {
        (true, _) => {
            vec![Check::failed("agent", text, "try it by hand: paceline --version").took(took)]
        }
        (false, true) => vec![Check::failed("ssh", text, remedy).took(took)],
        (false, false) => {
            vec![Check::ok("ssh", "logged in").took(took), Check::failed("agent", text, remedy)]
        }
    }
}

/// Looks at a host of which the agent is up.
async fn examined(
    host: HostSlots,
    is_local: bool,
    mut checks: Vec<Check>,
    mut patient: Patient,
    means: &Means,
) -> Reached {
    let name = host.host.clone();
    let lost = |loss: &Loss| {
        let remedy = format!("install the same paceline on {name} as here, and try again");
        Check::failed("agent", loss.describe(), remedy)
    };
    let begin = Instant::now();
    let found = match look(&mut patient, means).await {
        Ok(found) => found,
        Err(loss) => {
            checks.push(lost(&loss).took(begin.elapsed()));
            return unreached(host, is_local, checks, Some(patient));
        }
    };
    let agent = judge::agent(&name, &found, means.own_build.as_deref()).took(begin.elapsed());
    let is_ours = agent.status != Status::Failed;
    checks.push(agent);
    if !is_ours {
        return unreached(host, is_local, checks, Some(patient));
    }
    checks.extend(judge::host(&found));
    let begin = Instant::now();
    let offset = match is_local {
        true => None,
        false => clock_offset(&mut patient).await,
    };
    checks.extend(offset.map(|offset| judge::clock(&name, offset).took(begin.elapsed())));
    let diagnosis = HostDiagnosis {
        host: host.host,
        is_this_host: is_local,
        checks,
        clock: offset,
        examination: Some(found),
    };
    Reached { diagnosis, patient: Some(patient) }
}

async fn look(patient: &mut Patient, means: &Means) -> Result<Examination, Loss> {
    patient.tell(&means.secret).map_err(|error| Loss::Nothing(error.to_string()))?;
    match patient.ask(Question::Host, LOOK_TIMEOUT).await? {
        Answer::Host(found) => Ok(*found),
        _ => Err(Loss::Nothing("the agent answers another question".to_owned())),
    }
}

/// `None` if the agent is gone meanwhile, which the pairs say.
async fn clock_offset(patient: &mut Patient) -> Option<ClockOffset> {
    let mut exchanges = Vec::with_capacity(EXCHANGES);
    for _ in 0..EXCHANGES {
        let asked = wall_clock();
        let answer = patient.ask(Question::Clock, CLOCK_TIMEOUT).await.ok()?;
        let learned = wall_clock();
        if let Answer::Clock { heard, answered } = answer {
            exchanges.push(Exchange { asked, heard, answered, learned });
        }
    }
    clock::estimate(&exchanges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_says_which_name_it_looks_up() {
        let text = "host gate\nuser me\nhostname 10.0.0.9\nport 22\nproxycommand none\n";
        let expected = Explanation { host_name: Some("10.0.0.9".into()), goes_by_another: false };
        assert_eq!(explanation(text), expected);
        assert!(explanation("hostname n1\nproxyjump gate\n").goes_by_another);
        assert_eq!(explanation(""), Explanation::default());
    }

    #[test]
    fn names_that_nobody_knows_fail_unless_somebody_else_looks_them_up() {
        let unknown = || Err("Name or service not known".to_owned());
        let check = judge_name("nod3", "nod3", unknown(), false);
        assert_eq!(check.status, Status::Failed);
        assert!(check.remedy.is_some_and(|remedy| remedy.contains("spelling of nod3")));
        assert_eq!(judge_name("n", "inner", unknown(), true).status, Status::Ok);
        let address: IpAddr = "10.0.0.9".parse().expect("an address");
        assert_eq!(judge_name("n", "n.x", Ok(vec![address]), false).found, "n.x: 10.0.0.9");
    }

    #[test]
    fn the_phase_that_failed_is_named() {
        let gone = |code, words: &str| {
            let (ending, words) = (Some(Ending::Code(code)), vec![words.to_owned()]);
            Loss::Gone(Unreached { host: "n1".into(), ending, words, reason: None })
        };
        let failing = |loss: &Loss| {
            let checks = not_up("n1", false, loss, Vec::new(), Duration::ZERO);
            let last = checks.last().expect("one at least").clone();
            (last.name, last.found, last.remedy.unwrap_or_default())
        };
        let (name, found, remedy) = failing(&gone(255, "connect to host n1: Connection refused"));
        assert_eq!((name.as_str(), found.contains("refused")), ("ssh", true));
        assert!(remedy.contains("start sshd on n1"), "{remedy}");
        let (name, _, remedy) = failing(&gone(127, "sh: 1: exec: paceline: not found"));
        assert!(name == "agent" && remedy.contains("install paceline on n1"), "{remedy}");
        let (name, found, _) = failing(&Loss::Silent(UP_TIMEOUT));
        assert_eq!((name.as_str(), found.as_str()), ("ssh", "no answer within 30 s"));
    }
}

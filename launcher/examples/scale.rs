//! How long the launcher takes, and how much memory, for a job on many hosts that are all played
//! ([`paceline_launcher::stage`]): `scale success|failure HOSTS RANKS`. `ci/scale` runs it.
//!
//! The launcher is a process of its own, started from here, so that what it needs can be told from what
//! the agents do.

use std::error::Error;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use paceline_launcher::stage::{self, Play};
use paceline_launcher::{HostFacts, HostList, JobEvent, JobSpec, Program, plan};
use paceline_rendezvous::RunId;
use paceline_rendezvous::env::ProcessEnvironment;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["launcher", stage, hosts, ranks] => launch(stage, hosts.parse()?, ranks.parse()?),
        [play, hosts, ranks] => {
            let play = match play {
                "success" => Play::Success,
                "failure" => Play::Failure,
                _ => return Err(format!("{play}: success or failure").into()),
            };
            measure(play, hosts.parse()?, ranks.parse()?)
        }
        _ => Err("usage: scale success|failure HOSTS RANKS".into()),
    }
}

/// Plays the agents for a launcher in a process of its own.
fn measure(play: Play, hosts: u32, ranks: u32) -> Outcome {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let directory = std::env::temp_dir().join(format!("paceline-scale-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let path = directory.join("stage");
    let listener = UnixListener::bind(&path)?;
    let world_size = hosts.checked_mul(ranks).ok_or("too many ranks")?;
    let launcher = Command::new("/proc/self/exe")
        .args(["launcher".as_ref(), path.as_os_str()])
        .args([hosts.to_string(), ranks.to_string()])
        // What the ranks say goes nowhere.
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let players = std::thread::Builder::new()
        .name("players".to_owned())
        .spawn(move || stage::play(listener, hosts, world_size, play))?;
    let output = launcher.wait_with_output()?;
    std::fs::remove_dir_all(&directory)?;
    let said = String::from_utf8(output.stderr)?;
    if !output.status.success() {
        // Players wait for those who have not come; they end with this process.
        return Err(said.into());
    }
    let heard = players.join().map_err(|_| "a player has panicked")??;
    writeln!(
        std::io::stdout(),
        "{} bytes_per_host={} bytes_max={} agents_mb={:.0}",
        said.trim_end(),
        heard.bytes / u64::from(heard.agents.max(1)),
        heard.bytes_max,
        resident_megabytes_max()?,
    )?;
    Ok(())
}

fn launch(stage: &str, hosts: u32, ranks: u32) -> Outcome {
    let mut job = JobSpec::local(
        1.try_into()?,
        Program::Command("train.py".into()),
        vec!["--epochs".into(), "90".into()],
    );
    job.rank_count = None;
    job.hosts = HostList::parse(&format!("node[1-{hosts}]:{ranks}"))?;
    job.start_timeout = Duration::from_secs(600);
    let before = resident_megabytes_max()?;
    let began = Instant::now();
    let plan = plan(&job, RunId::random()?, &HostFacts::of_this_host()?, &ProcessEnvironment)?;
    let planned = began.elapsed();
    let world_size = plan.world_size();
    let (mut started, mut all_started, mut first_exit) = (0, None, None);
    let outcome = stage::run_on_stage(plan, Path::new(stage).to_path_buf(), |event| match event {
        JobEvent::RankStarted { .. } => {
            started += 1;
            if started == world_size {
                all_started = Some(began.elapsed());
            }
        }
        JobEvent::RankExited(_) => {
            first_exit.get_or_insert_with(|| began.elapsed());
        }
        _ => {}
    })?;
    let (ended, cpu) = (began.elapsed(), clock_gettime(ClockId::ProcessCPUTime));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let started = all_started.ok_or("some rank was never started")?;
    let exit = first_exit.ok_or("no rank has exited")?;
    writeln!(
        std::io::stderr(),
        "hosts={hosts} ranks={ranks} code={} planned_ms={:.1} started_ms={:.1} ended_ms={:.1} \
         after_ms={:.1} cpu_ms={:.1} launcher_mb={:.1} before_mb={before:.1}",
        outcome.exit_code().code(),
        milliseconds(planned),
        milliseconds(started),
        milliseconds(ended),
        milliseconds(ended.saturating_sub(exit)),
        (cpu.tv_sec as f64) * 1e3 + (cpu.tv_nsec as f64) / 1e6,
        resident_megabytes_max()?,
    )?;
    Ok(())
}

/// The most memory that this process has had at a time.
fn resident_megabytes_max() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    let kibibytes = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(kibibytes.parse::<f64>()? * 1024.0 / 1e6)
}

//! How a process finds the others: the decision between a launcher's coordinator, an address that
//! the user gave, a directory, and no store at all.
//!
//! | environment | rank 0 | other ranks |
//! |---|---|---|
//! | one process, no `PACELINE_RENDEZVOUS` | needs nobody | |
//! | `PACELINE_AGENT_PID` and `PACELINE_RENDEZVOUS=HOST:PORT` | connects to the launcher | the same |
//! | `PACELINE_RENDEZVOUS=HOST:PORT` | runs the coordinator there | connect to it |
//! | `PACELINE_RENDEZVOUS=file:DIRECTORY` | runs it, leaves its address there | find it there |
//! | all ranks on one node, job known by name | the same in an automatic directory | the same |
//! | anything else | an error that says what to set | the same |

mod coordination;
mod directory;
mod error;
mod plan;

use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use error::BootstrapError;

use crate::control::ControlClient;
use crate::coordinator::{Event, LocalLink, Server, ServerConfig};
use crate::env::{self, Environment, PortRange};
use crate::heartbeat::Heart;
use crate::hello::Identity;
use crate::rank_info::{RankInfo, Warning};
use crate::run::{RunId, Secret};
use crate::store::{InProcessStore, Store};
use directory::JobDirectory;
use plan::Plan;

/// What a caller of [`bootstrap`] decides.
#[derive(Clone, Debug)]
pub struct BootstrapOptions {
    /// The address on which rank 0 listens if it must run the coordinator and nothing else says
    /// where; needed only with `file:` and several nodes. On one node the default is 127.0.0.1.
    pub bind: Option<IpAddr>,
    /// Ports for that.
    pub port_range: PortRange,
    /// Longest time until all ranks have met; `None` takes PACELINE_START_TIMEOUT.
    pub start_timeout: Option<Duration>,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        Self { bind: None, port_range: PortRange::ANY, start_timeout: None }
    }
}

/// PACELINE_START_TIMEOUT where it is unset.
pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(30);

/// PACELINE_STALL_REPORT where it is unset.
pub const DEFAULT_STALL_REPORT: Duration = Duration::from_secs(10);

/// What PACELINE_STALL_REPORT says: how long ranks wait in an operation before that is worth a word;
/// `None` for never.
///
/// # Errors
/// [`BootstrapError::Environment`] names the variable whose value makes no sense.
pub fn stall_report(
    environment: &(impl Environment + ?Sized),
) -> Result<Option<Duration>, BootstrapError> {
    let time = env::STALL_REPORT.seconds_or_zero(environment)?.unwrap_or(DEFAULT_STALL_REPORT);
    Ok(Some(time).filter(|time| !time.is_zero()))
}

/// A process that has found its job.
pub struct Rendezvous {
    /// Its place.
    pub rank_info: RankInfo,
    /// The run, the same on all ranks.
    pub run_id: RunId,
    /// The secret that all ranks share.
    pub secret: Secret,
    /// The store that all ranks share.
    pub store: Arc<dyn Store>,
    /// The control connection; `None` in a job of one process without launcher.
    pub control: Option<Arc<ControlClient>>,
    /// In its place, where all ranks are threads of this process.
    local: Option<LocalLink>,
    /// Oddities of the environment, for the user.
    pub warnings: Vec<Warning>,
    /// Says that this process runs, where there is a control connection.
    heart: Option<Heart>,
    /// What this process must keep for the others; on rank 0 only.
    hosting: Option<Hosting>,
}

/// The coordinator in this process, and the directory where the others find it. Dropped in this
/// order: who still waits must not find the address of a server that is gone.
#[derive(Debug)]
struct Hosting {
    #[expect(dead_code, reason = "kept for its Drop, which removes the card")]
    directory: Option<Arc<JobDirectory>>,
    server: Server,
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rendezvous")
            .field("rank_info", &self.rank_info)
            .field("run_id", &self.run_id)
            .field("hosting", &self.hosting)
            .finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// A rank whose job lives in this process and shares `store`; nothing is connected.
    pub fn in_process(
        rank_info: RankInfo,
        run_id: RunId,
        secret: Secret,
        store: Arc<dyn Store>,
    ) -> Self {
        Self {
            rank_info,
            run_id,
            secret,
            store,
            control: None,
            local: None,
            warnings: Vec::new(),
            heart: None,
            hosting: None,
        }
    }

    /// A rank that has joined a coordinator: its control connection is its store. From now on it
    /// sends heartbeats.
    ///
    /// # Errors
    /// [`BootstrapError::Heartbeat`].
    pub fn connected(
        rank_info: RankInfo,
        run_id: RunId,
        secret: Secret,
        control: ControlClient,
    ) -> Result<Self, BootstrapError> {
        let control = Arc::new(control);
        let heart = Heart::start(Arc::clone(&control))
            .map_err(|source| BootstrapError::Heartbeat { source })?;
        Ok(Self {
            rank_info: RankInfo { run_id: Some(run_id), ..rank_info },
            run_id,
            secret,
            store: Arc::clone(&control) as Arc<dyn Store>,
            control: Some(control),
            local: None,
            warnings: Vec::new(),
            heart: Some(heart),
            hosting: None,
        })
    }

    /// Leaves the job in good order. Rank 0, if it runs the coordinator, waits for the others.
    ///
    /// # Errors
    /// When the others have not left at `deadline` or the coordinator cannot be reached. The
    /// process has left all the same.
    pub fn finish(mut self, deadline: Instant) -> Result<(), BootstrapError> {
        self.heart = None;
        if let Some(control) = &self.control {
            control.goodbye(deadline)?;
        }
        if let Some(local) = &self.local {
            local.goodbye();
        }
        match &self.hosting {
            Some(hosting) if !hosting.server.wait_all_gone(deadline) => {
                Err(BootstrapError::OthersRemain)
            }
            _ => Ok(()),
        }
    }

    /// Whether this process runs the coordinator.
    pub const fn is_hosting(&self) -> bool {
        self.hosting.is_some()
    }
}

/// Finds the job that the environment describes.
///
/// # Errors
/// [`BootstrapError`], with a hint that says what to set.
pub fn bootstrap(
    environment: &(impl Environment + ?Sized),
    options: &BootstrapOptions,
) -> Result<Rendezvous, BootstrapError> {
    let (rank_info, warnings) = RankInfo::from_environment(environment)?;
    let start_timeout = match options.start_timeout {
        Some(timeout) => timeout,
        None => env::START_TIMEOUT.seconds(environment)?.unwrap_or(DEFAULT_START_TIMEOUT),
    };
    let (deadline, stall_report) = (Instant::now() + start_timeout, stall_report(environment)?);
    let joining = Joining { rank_info, warnings, start_timeout, stall_report, deadline, options };
    match plan::plan(environment, &joining.rank_info)? {
        Plan::Alone => joining.alone(),
        Plan::Launcher { address, secret_file } => {
            let secret = Secret::from_file(&secret_file)?;
            let run_id = joining.run_id(&secret, "");
            let control = joining.connect_to(resolve(&address)?, run_id, &secret)?;
            joining.joined(run_id, secret, control, None)
        }
        Plan::Address { address, secret_file, job } => {
            let secret = Secret::from_file(&secret_file)?;
            let run_id = joining.run_id(&secret, &job);
            joining.meet_at(&address, run_id, secret)
        }
        Plan::Directory { path } => joining.meet_in(&path),
    }
}

/// A process on its way into a job.
struct Joining<'a> {
    rank_info: RankInfo,
    warnings: Vec<Warning>,
    start_timeout: Duration,
    stall_report: Option<Duration>,
    deadline: Instant,
    options: &'a BootstrapOptions,
}

impl Joining<'_> {
    fn run_id(&self, secret: &Secret, label: &str) -> RunId {
        self.rank_info.run_id.unwrap_or_else(|| RunId::derived(secret, label))
    }

    fn identity(&self, run_id: RunId) -> Identity {
        Identity { run_id, epoch: self.rank_info.epoch, rank: self.rank_info.rank, features: 0 }
    }

    fn server_config(&self, run_id: RunId, secret: &Secret) -> ServerConfig {
        let mut config = ServerConfig::new(run_id, secret.clone(), self.rank_info.world_size);
        config.coordinator.epoch = self.rank_info.epoch;
        config.coordinator.join_timeout = Some(self.start_timeout);
        config.coordinator.stall_report = self.stall_report;
        config
    }

    fn alone(self) -> Result<Rendezvous, BootstrapError> {
        let run_id = match self.rank_info.run_id {
            Some(run_id) => run_id,
            None => RunId::random()?,
        };
        Ok(Rendezvous {
            rank_info: self.rank_info,
            run_id,
            secret: Secret::random()?,
            store: Arc::new(InProcessStore::new()),
            control: None,
            local: None,
            warnings: self.warnings,
            heart: None,
            hosting: None,
        })
    }

    /// Rank 0 runs the coordinator at an address that everybody was told.
    fn meet_at(
        self,
        address: &str,
        run_id: RunId,
        secret: Secret,
    ) -> Result<Rendezvous, BootstrapError> {
        let mut hosting = None;
        if self.rank_info.rank == 0 {
            let bind = resolve(address)?;
            let config = self.server_config(run_id, &secret);
            let server = Server::start(bind, config, |event| speak(&event))?;
            hosting = Some(Hosting { directory: None, server });
        }
        let control = self.connect_to(resolve(address)?, run_id, &secret)?.hosted_by(0);
        self.joined(run_id, secret, control, hosting)
    }

    fn connect_to(
        &self,
        address: SocketAddr,
        run_id: RunId,
        secret: &Secret,
    ) -> Result<ControlClient, BootstrapError> {
        Ok(ControlClient::connect(address, self.identity(run_id), secret, self.deadline)?)
    }

    /// Rank 0 runs the coordinator and leaves its address in a directory.
    fn meet_in(self, path: &Path) -> Result<Rendezvous, BootstrapError> {
        if self.rank_info.rank != 0 {
            let (card, control) =
                directory::join(path, self.deadline, |run_id| self.identity(run_id))?;
            let (run_id, secret) = (card.run_id, card.secret);
            return self.joined(run_id, secret, control.hosted_by(0), None);
        }
        if !directory::wait_until_vacant(path, self.deadline)? {
            return Err(BootstrapError::RankZeroTwice { directory: path.to_owned() });
        }
        let secret = Secret::random()?;
        let run_id = match self.rank_info.run_id {
            Some(run_id) => run_id,
            None => RunId::random()?,
        };
        let bind = match self.options.bind {
            Some(bind) => bind,
            None if self.rank_info.is_on_one_node() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            None => return Err(BootstrapError::NoBindAddress),
        };
        let listener = self.options.port_range.listen(bind).map_err(|source| {
            BootstrapError::Listen { address: bind, ports: self.options.port_range, source }
        })?;
        let directory = Arc::new(JobDirectory::open(path)?);
        let mut clean = directory.clean_when_all_joined();
        let on_event = move |event| {
            speak(&event);
            clean(event);
        };
        let config = self.server_config(run_id, &secret);
        let server = Server::start_on(listener, config, on_event)?;
        let address = server.local_addr();
        directory.publish(address, run_id, &secret)?;
        let hosting = Hosting { directory: Some(directory), server };
        let control = self.connect_to(address, run_id, &secret)?.hosted_by(0);
        self.joined(run_id, secret, control, Some(hosting))
    }

    fn joined(
        self,
        run_id: RunId,
        secret: Secret,
        control: ControlClient,
        hosting: Option<Hosting>,
    ) -> Result<Rendezvous, BootstrapError> {
        let rendezvous = Rendezvous::connected(self.rank_info, run_id, secret, control)?;
        Ok(Rendezvous { warnings: self.warnings, hosting, ..rendezvous })
    }
}

/// What a rank that runs the coordinator has to say in place of a launcher.
fn speak(event: &Event) {
    if let Event::Stalled { report } = event {
        // If standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "paceline: {report}");
    }
}

/// The first address of `HOST:PORT`.
fn resolve(address: &str) -> Result<SocketAddr, BootstrapError> {
    let failed = |source| BootstrapError::Resolve { host: address.to_owned(), source };
    address
        .to_socket_addrs()
        .map_err(failed)?
        .next()
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}

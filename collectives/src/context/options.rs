//! How contexts are made, as said by the program or by its environment.

use std::path::PathBuf;
use std::time::Duration;

use paceline_rendezvous::env::{self, Environment, PortRange};
use paceline_rendezvous::interface::InterfaceChoice;
use paceline_rendezvous::{BootstrapError, RankInfo};
use paceline_transports::{Checksum, TransportKind};

use crate::error::SetupError;
use crate::plan::{Algorithm, SOCKETS_TRIED, Tuning};
use crate::tune::Tune;

/// Most sockets to a peer.
const SOCKETS_MAX: u16 = 16;

/// Most sockets that a rank opens to find out whether more of them are faster.
const SOCKETS_TO_TRY_MAX: u16 = 256;

/// Which transport to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// Shared memory if all ranks are on one node, else TCP.
    #[default]
    Auto,
    /// This one, or an error.
    Only(TransportKind),
}

/// How to make a context. Everything here must be equal on all ranks, except the interface.
#[derive(Clone, Debug)]
pub struct ContextOptions {
    /// Which transport carries the data.
    pub transport: TransportChoice,
    /// Which of this host's addresses to listen on.
    pub interface: InterfaceChoice,
    /// Which ports to listen on.
    pub port_range: PortRange,
    /// TCP sockets to each peer, 1 to 16. `None` is one; where the speed of the links is measured, as
    /// many of up to four as make them faster.
    pub sockets: Option<u16>,
    /// The algorithm for the collectives that know it; `None` chooses by size.
    pub algorithm: Option<Algorithm>,
    /// Whether the speed of the links is measured at the start, for the plan.
    pub tune: Tune,
    /// A file with the numbers that plans depend on. Rank 0 reads it; where there is none, the ranks
    /// measure and rank 0 writes one. All ranks need one or none, but not under the same name.
    pub plan: Option<PathBuf>,
    /// Whether results must not even depend on the plan: not on algorithm, transport or nodes, only on
    /// rank, world size and length. Reductions then keep to the order of one level.
    pub any_plan: bool,
    /// Whether frames carry checksums, so that bytes which change on the way end the connection, by an
    /// error that says so, rather than end up in a result. Node-local collectives move no frames: what
    /// the ranks of a node share is memory, which is the hardware's to check. Default none; the rates
    /// with and without are in `benches/RESULTS.md`.
    pub checksum: Checksum,
    /// Longest time that an operation may take, default 60 s.
    pub timeout: Duration,
    /// Longest time until all ranks have met, default 30 s.
    pub start_timeout: Duration,
    /// A file for the [timeline](crate#timeline) of the job; `None` records nothing. It replaces an
    /// older one.
    pub timeline: Option<PathBuf>,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self {
            transport: TransportChoice::Auto,
            interface: InterfaceChoice::Auto,
            port_range: PortRange::ANY,
            sockets: None,
            algorithm: None,
            tune: Tune::Auto,
            plan: None,
            any_plan: false,
            checksum: Checksum::None,
            timeout: Duration::from_secs(60),
            start_timeout: Duration::from_secs(30),
            timeline: None,
        }
    }
}

impl ContextOptions {
    /// Whether the ranks measure the speed of their links.
    pub(super) fn measures(&self, info: &RankInfo) -> bool {
        match self.tune {
            Tune::Auto => !info.is_on_one_node(),
            Tune::On => true,
            Tune::Off => false,
        }
    }

    /// The options that the `PACELINE_*` variables describe.
    ///
    /// # Errors
    /// [`SetupError`] names the variable whose value makes no sense.
    pub fn from_environment(environment: &(impl Environment + ?Sized)) -> Result<Self, SetupError> {
        let bootstrap_error = |error| SetupError::Bootstrap(BootstrapError::from(error));
        let text = |variable: &env::Variable| variable.text(environment).map_err(bootstrap_error);
        let mut options = Self::default();
        if let Some(name) = text(&env::TRANSPORT)? {
            options.transport = name
                .parse()
                .map_err(|error| invalid(&env::TRANSPORT, &name, &error as &SetupError))?;
        }
        if let Some(name) = text(&env::INTERFACE)? {
            options.interface =
                name.parse().map_err(|error| invalid(&env::INTERFACE, &name, &error))?;
        }
        if let Some(range) = text(&env::PORT_RANGE)? {
            options.port_range =
                range.parse().map_err(|error| invalid(&env::PORT_RANGE, &range, &error))?;
        }
        if let Some(count) = text(&env::SOCKETS)?.filter(|count| count != "auto") {
            let sockets = count.parse().ok().filter(|count| (1..=SOCKETS_MAX).contains(count));
            let Some(sockets) = sockets else {
                return Err(invalid(&env::SOCKETS, &count, &"expected auto or a number, 1 to 16"));
            };
            options.sockets = Some(sockets);
        }
        if let Some(name) = text(&env::ALGORITHM)?.filter(|name| name != "auto") {
            let algorithm =
                name.parse().map_err(|error| invalid(&env::ALGORITHM, &name, &error))?;
            options.algorithm = Some(algorithm);
        }
        if let Some(name) = text(&env::TUNE)? {
            options.tune =
                name.parse().map_err(|error: String| invalid(&env::TUNE, &name, &error))?;
        }
        options.plan = text(&env::PLAN)?.map(PathBuf::from);
        if let Some(name) = text(&env::DETERMINISTIC)? {
            options.any_plan = match name.as_str() {
                "plan" => false,
                "any-plan" => true,
                _ => return Err(invalid(&env::DETERMINISTIC, &name, &"expected plan or any-plan")),
            };
        }
        if let Some(name) = text(&env::CHECKSUM)? {
            options.checksum =
                name.parse().map_err(|error: String| invalid(&env::CHECKSUM, &name, &error))?;
        }
        let seconds =
            |variable: &env::Variable| variable.seconds(environment).map_err(bootstrap_error);
        options.timeout = seconds(&env::TIMEOUT)?.unwrap_or(options.timeout);
        options.start_timeout = seconds(&env::START_TIMEOUT)?.unwrap_or(options.start_timeout);
        options.timeline = text(&env::TIMELINE)?.map(PathBuf::from);
        Ok(options)
    }
}

/// How many sockets join two ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sockets {
    /// How many are opened.
    pub(crate) opened: u16,
    /// Whether the ranks find out how many of them are of use.
    pub(crate) are_choice: bool,
}

impl Sockets {
    pub(crate) fn new(options: &ContextOptions, info: &RankInfo) -> Self {
        let are_choice = options.sockets.is_none();
        let peers = u16::try_from(info.world_size.saturating_sub(1)).unwrap_or(u16::MAX).max(1);
        let opened = match options.sockets {
            Some(count) => count,
            None if options.measures(info) || options.plan.is_some() => {
                (SOCKETS_TO_TRY_MAX / peers).clamp(1, SOCKETS_TRIED)
            }
            None => 1,
        };
        Self { opened, are_choice }
    }

    pub(super) fn used(self, tuning: &Tuning) -> usize {
        let opened = usize::from(self.opened);
        if self.are_choice { tuning.sockets.min(opened) } else { opened }
    }
}

fn invalid(variable: &env::Variable, value: &str, error: &dyn std::fmt::Display) -> SetupError {
    let (value, why) = (value.to_owned(), error.to_string());
    SetupError::Setting { variable: variable.name, value, why }
}

impl std::str::FromStr for TransportChoice {
    type Err = SetupError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "tcp" => Ok(Self::Only(TransportKind::Tcp)),
            "shm" => Ok(Self::Only(TransportKind::Shm)),
            #[cfg(feature = "mpi")]
            "mpi" => Ok(Self::Only(TransportKind::Mpi)),
            #[cfg(not(feature = "mpi"))]
            "mpi" => Err(SetupError::Option(crate::connect::WITHOUT_MPI.to_owned())),
            _ => Err(SetupError::Option(format!(
                "unknown transport {name:?}; expected auto, tcp, shm or mpi"
            ))),
        }
    }
}

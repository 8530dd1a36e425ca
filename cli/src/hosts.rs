//! Where ranks run, as options, variables and files say it.

use std::num::NonZeroU32;
use std::path::PathBuf;

use paceline_launcher::{
    HostError, HostFileError, HostList, InterfaceRules, JobSpec, MapBy, RankFileError,
    SelectionError, SshOptions, parse_hostfile, parse_rank_file, select,
};
use paceline_rendezvous::env::{self, Environment, EnvironmentError, PortRange, Variable};

use crate::files::{self, ReadError};
use crate::options::Layers;

/// The settings that are read here, in the order of the help.
pub(crate) const SETTINGS: &[Variable] =
    &[env::HOSTS, env::HOSTFILE, env::NNODES, env::NPROC_PER_NODE, env::MAP_BY, env::RANK_FILE];

/// How other hosts are reached.
pub(crate) const SSH_SETTINGS: &[Variable] = &[
    env::SSH_PORT,
    env::SSH_IDENTITY_FILE,
    env::SSH_OPTIONS,
    env::REMOTE_PROGRAM,
    env::COPY_BINARY,
];

/// Where the ranks of a job run, and how one gets there.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    list: HostList,
    count: Option<NonZeroU32>,
    ranks_each: Option<NonZeroU32>,
    map_by: MapBy,
    ssh: SshOptions,
    interface: InterfaceRules,
    port_range: PortRange,
}

/// What is wrong with the hosts of a setting.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostSettingError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    HostFile(#[from] HostFileError),
    #[error(transparent)]
    RankFile(#[from] RankFileError),
    #[error(transparent)]
    Selection(#[from] SelectionError),
    #[error("--map-by {order} says nothing beside a rank file, which places every rank")]
    TwoOrders { order: String },
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

impl HostSettingError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Host(error) => error.hint(),
            Self::HostFile(error) => error.hint(),
            Self::RankFile(error) => error.hint(),
            Self::Selection(error) => error.hint(),
            Self::Environment(error) => error.hint(),
            Self::TwoOrders { .. } => Some("leave one of the two out".to_owned()),
            Self::Read(error) => error.hint(),
        }
    }
}

impl Hosts {
    /// What the settings say. Reads the files that they name.
    pub(crate) fn of(layers: &Layers) -> Result<Self, HostSettingError> {
        Ok(Self {
            list: list(layers)?,
            count: env::NNODES.parse(layers)?,
            ranks_each: env::NPROC_PER_NODE.parse(layers)?,
            map_by: map_by(layers)?,
            ssh: ssh_options(layers)?,
            interface: interface(layers)?,
            port_range: env::PORT_RANGE.parse(layers)?.unwrap_or_default(),
        })
    }

    /// Whether any setting says where ranks run, or how many of them.
    pub(crate) fn are_given(layers: &Layers) -> bool {
        let is_given =
            |variable: &Variable| layers.get(variable.name).is_some_and(|value| !value.is_empty());
        // The order alone starts nothing.
        SETTINGS.iter().filter(|variable| **variable != env::MAP_BY).any(is_given)
    }

    /// The job, on these hosts.
    pub(crate) fn place(self, job: JobSpec) -> JobSpec {
        JobSpec {
            hosts: self.list,
            host_count: self.count,
            ranks_per_host: self.ranks_each,
            map_by: self.map_by,
            ssh: self.ssh,
            interface: self.interface,
            port_range: self.port_range,
            ..job
        }
    }
}

/// The hosts of a list, of a file, or those of the file that the list chooses.
fn list(layers: &Layers) -> Result<HostList, HostSettingError> {
    let wanted = env::HOSTS.text(layers)?.map(|hosts| HostList::parse(&hosts)).transpose()?;
    let Some(path) = path(layers, env::HOSTFILE) else { return Ok(wanted.unwrap_or_default()) };
    let listed = parse_hostfile(&files::read(&path, "hostfile")?, &path)?;
    Ok(match wanted {
        Some(wanted) => {
            HostList { hosts: select(&listed, &wanted.hosts)?, notices: wanted.notices }
        }
        None => listed.into(),
    })
}

fn map_by(layers: &Layers) -> Result<MapBy, HostSettingError> {
    let order = env::MAP_BY.text(layers)?;
    if let Some(path) = path(layers, env::RANK_FILE) {
        return match order {
            Some(order) => Err(HostSettingError::TwoOrders { order }),
            None => {
                let text = files::read(&path, "rank file")?;
                Ok(MapBy::RankFile(parse_rank_file(&text, &path)?))
            }
        };
    }
    match order.as_deref() {
        None | Some("slot") => Ok(MapBy::Slot),
        Some("node") => Ok(MapBy::Node),
        Some(other) => Err(env::MAP_BY.invalid(other).into()),
    }
}

fn ssh_options(layers: &Layers) -> Result<SshOptions, EnvironmentError> {
    let options = env::SSH_OPTIONS.text(layers)?.unwrap_or_default();
    let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
    if let Some(option) = options.iter().find(|option| !option.contains('=')) {
        return Err(env::SSH_OPTIONS.invalid(option));
    }
    Ok(SshOptions {
        port: env::SSH_PORT.parse(layers)?,
        identity_file: path(layers, env::SSH_IDENTITY_FILE),
        options,
        remote_program: env::REMOTE_PROGRAM.text(layers)?,
        copy_binary: env::COPY_BINARY.is_on(layers)?,
    })
}

/// Over which network ranks on several hosts talk to each other.
pub(crate) fn interface(layers: &impl Environment) -> Result<InterfaceRules, EnvironmentError> {
    match env::INTERFACE.text(layers)? {
        Some(text) => text.parse().map_err(|_| env::INTERFACE.invalid(text)),
        None => Ok(InterfaceRules::default()),
    }
}

fn path(layers: &Layers, variable: Variable) -> Option<PathBuf> {
    layers.get(variable.name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

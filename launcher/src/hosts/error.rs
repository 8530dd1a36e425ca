//! What can be wrong with a host.

use std::fmt;

use thiserror::Error;

use super::HOSTS_MAX;
use super::devices::DeviceError;
use super::range::RangeError;

/// An entry of a list that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{entry:?}: {problem}")]
pub struct HostError {
    /// The entry as it was given.
    pub entry: String,
    /// What is wrong with it.
    pub problem: HostProblem,
}

/// What is wrong with a host, wherever it stands.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostProblem {
    /// Nothing where a name should be.
    #[error("no host is named")]
    Nameless,
    /// The number after the colon.
    #[error("{slots:?} is not a number of slots")]
    Slots {
        /// What was given.
        slots: String,
    },
    /// A bracket without its partner, or something behind it that is no `:SLOTS`.
    #[error("the bracket around an IPv6 address is not closed, or not followed by `:`")]
    Bracket,
    /// Colons, and yet no address.
    #[error("{address:?} is no IPv6 address")]
    Address {
        /// What was given.
        address: String,
    },
    /// A letter that no name of a host has.
    #[error("{character:?} cannot stand in the name of a host, in {name:?}")]
    Character {
        /// The name.
        name: String,
        /// The first such letter.
        character: char,
    },
    /// A name that programs would take for an option.
    #[error("the name {name:?} starts with a hyphen")]
    Hyphen {
        /// The name.
        name: String,
    },
    /// A name that no resolver takes.
    #[error("the name of the host has {length} letters, more than a name can have")]
    Long {
        /// Its length.
        length: usize,
    },
    /// The part before the `@`.
    #[error("{user:?} is not the name of a user")]
    User {
        /// What was given.
        user: String,
    },
    /// Open MPI's `+n0`, `+e:2`.
    #[error("{name:?} counts hosts of an allocation; name the host itself")]
    Relative {
        /// What was given.
        name: String,
    },
    /// The range in the name.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The devices.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    /// `HOST:2@0+1+2`.
    #[error("{slots} slots, but {devices} devices: each device is a slot")]
    DeviceCount {
        /// Slots that were given.
        slots: u32,
        /// Devices that were listed.
        devices: usize,
    },
    /// A range where one host was wanted.
    #[error("one host is wanted here, not {count}")]
    Several {
        /// Hosts that it stands for.
        count: usize,
    },
    /// More hosts than any job has.
    #[error("with it there are more than {HOSTS_MAX} hosts")]
    TooMany,
    /// The same host twice, and the two do not go together.
    #[error("{0}, entry {place} of the list", place = .0.first_place)]
    Conflict(HostConflict),
}

/// A host that is named twice in ways that do not go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConflict {
    /// How it was named first.
    pub first: String,
    /// Where that was: the number of the entry or line, from 1.
    pub first_place: usize,
    /// How it was named again.
    pub second: String,
    /// What is wrong about that.
    pub kind: ConflictKind,
}

/// Why two entries for one host do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// Two users.
    User,
    /// A device in both, or devices in only one of them.
    Devices,
}

/// Ends where the caller says what kind of place it is.
impl fmt::Display for HostConflict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ConflictKind::User => "has another user than",
            ConflictKind::Devices => "does not add up with the devices of",
        };
        write!(formatter, "{} {what} {}", self.second, self.first)
    }
}

impl HostError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        self.problem.hint()
    }
}

impl HostProblem {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Nameless
            | Self::Slots { .. }
            | Self::Character { .. }
            | Self::Hyphen { .. }
            | Self::User { .. } => {
                "a host is written HOST:SLOTS, user@HOST:SLOTS, [IPv6]:SLOTS or HOST:@DEVICE+DEVICE"
            }
            Self::Bracket | Self::Address { .. } => {
                "an IPv6 address with slots is written [ADDRESS]:SLOTS"
            }
            Self::Relative { .. } => {
                "relative hosts such as +n0 need a resource manager that numbers them"
            }
            Self::Range(_) => "a range is written node[01-16]:SLOTS or node[1,3,5-7]:SLOTS",
            Self::Devices(_) | Self::DeviceCount { .. } => {
                "leave the number of slots out before a list of devices, as in HOST:@0+2+3"
            }
            Self::Conflict(HostConflict { kind: ConflictKind::User, .. }) => {
                "name the host once, or both times with the same user"
            }
            Self::Conflict(HostConflict { kind: ConflictKind::Devices, .. }) => {
                "name the host once, with all its devices"
            }
            Self::Long { .. } | Self::Several { .. } | Self::TooMany => return None,
        };
        Some(hint.to_owned())
    }
}

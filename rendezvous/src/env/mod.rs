//! Every environment variable that Paceline reads or sets, as one documented table.
//!
//! Nothing else in the workspace may call `std::env::var`: a variable that is not declared in
//! [`ALL`] does not exist, so the table is the documentation. Look-ups go through [`Environment`]
//! so that tests, and the launcher when it explains what a rank would see, can use a map.

mod option;
mod port_range;
mod rank_list;
mod table;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use option::{CommandOption, Form, Reader, nearest};
pub use port_range::{ParsePortRangeError, PortRange};
pub use rank_list::{ParseRankListError, RankList};
pub use table::*;

/// What the value of a variable is about, which decides whether a launcher passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Says which rank or which job a process is. A launcher removes inherited values.
    Identity,
    /// A choice of the user. Inherited by the processes that a launcher starts.
    Setting,
}

/// Who gave a variable its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours.
    Paceline,
    /// Set by `horovodrun`, read by Horovod programs.
    Horovod,
    /// Set by `torchrun`, read by PyTorch programs.
    Torch,
    /// Read by JAX programs.
    Jax,
    /// Read by TensorFlow programs.
    TensorFlow,
    /// Set by Open MPI's `mpirun`.
    OpenMpi,
    /// Set by PMI launchers: Hydra, Intel MPI, MPICH, MVAPICH.
    Pmi,
    /// Set by Slurm.
    Slurm,
    /// A convention of the operating system.
    System,
}

/// One environment variable: its name, meaning, form and default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The name as it appears in the environment.
    pub name: &'static str,
    /// Who defined it.
    pub owner: Owner,
    /// Whether a launcher removes or passes on an inherited value.
    pub scope: Scope,
    /// The form of a valid value, as the end of the sentence "expected …".
    pub expected: &'static str,
    /// The value that counts when the variable is unset; `None` where there is none.
    pub default: Option<&'static str>,
    /// The option and the configuration key that stand for it, where there are such.
    pub option: Option<CommandOption>,
    /// Horovod's variable that counts where this one is unset.
    pub horovod: Option<&'static str>,
    /// What it means; text of one or more lines.
    pub doc: &'static str,
}

impl Variable {
    /// The value as text; `None` when the variable is unset or empty.
    ///
    /// # Errors
    /// [`EnvironmentError::NotUnicode`].
    pub fn text(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<String>, EnvironmentError> {
        Ok(self.source(environment)?.map(|(_, text)| text))
    }

    /// The value and the name of the variable that it comes from: this one's or Horovod's.
    fn source(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<(&'static str, String)>, EnvironmentError> {
        let set = |name: &'static str| {
            environment.get(name).filter(|value| !value.is_empty()).map(|value| (name, value))
        };
        let Some((variable, value)) = set(self.name).or_else(|| set(self.horovod?)) else {
            return Ok(None);
        };
        match value.into_string() {
            Ok(text) => Ok(Some((variable, text))),
            Err(_) => Err(EnvironmentError::NotUnicode { variable }),
        }
    }

    fn parse_with<T>(
        &self,
        environment: &(impl Environment + ?Sized),
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, EnvironmentError> {
        let Some((variable, value)) = self.source(environment)? else { return Ok(None) };
        match parse(value.trim()) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(EnvironmentError::Invalid { variable, value, expected: self.expected }),
        }
    }

    /// The parsed value; `None` when the variable is unset or empty. Surrounding white space is
    /// ignored.
    ///
    /// # Errors
    /// [`EnvironmentError::NotUnicode`] and [`EnvironmentError::Invalid`].
    pub fn parse<T: FromStr>(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<T>, EnvironmentError> {
        self.parse_with(environment, |text| text.parse().ok())
    }

    /// The value as a positive number of seconds, with decimals if need be.
    ///
    /// # Errors
    /// As [`Variable::parse`]; zero, negative and non-finite numbers are invalid.
    pub fn seconds(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<Duration>, EnvironmentError> {
        self.parse_with(environment, |text| option::seconds(text).filter(|time| !time.is_zero()))
    }

    /// The value as a number of seconds that may be zero.
    ///
    /// # Errors
    /// As [`Variable::parse`]; negative and non-finite numbers are invalid.
    pub fn seconds_or_zero(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<Duration>, EnvironmentError> {
        self.parse_with(environment, option::seconds)
    }

    /// The value as a number of milliseconds that may be zero.
    ///
    /// # Errors
    /// As [`Variable::parse`]; negative and non-finite numbers are invalid.
    pub fn milliseconds(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<Duration>, EnvironmentError> {
        self.parse_with(environment, option::milliseconds)
    }

    /// The value as a number of bytes, such as `65536`, `64K` or `16 MiB`.
    ///
    /// # Errors
    /// As [`Variable::parse`].
    pub fn bytes(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<Option<u64>, EnvironmentError> {
        self.parse_with(environment, option::bytes)
    }

    /// Whether something is on; it is off where nothing is said.
    ///
    /// # Errors
    /// As [`Variable::parse`].
    pub fn is_on(
        &self,
        environment: &(impl Environment + ?Sized),
    ) -> Result<bool, EnvironmentError> {
        Ok(self.parse_with(environment, option::switch)?.unwrap_or(false))
    }

    /// What it means, on one line.
    pub fn summary(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The error for a `value` that cannot be understood.
    pub fn invalid(&self, value: impl Into<String>) -> EnvironmentError {
        EnvironmentError::Invalid {
            variable: self.name,
            value: value.into(),
            expected: self.expected,
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// The declared variable called `name`.
pub fn find(name: &str) -> Option<&'static Variable> {
    ALL.iter().find(|variable| variable.name == name)
}

/// A variable that looks like ours and is none of [`ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    /// Its name.
    pub name: String,
    /// What was probably meant.
    pub nearest: Option<&'static str>,
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} means nothing to paceline", self.name)?;
        match self.nearest {
            Some(nearest) => write!(formatter, "; did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

/// Those of `names` that start as ours do and are not ours: probably misspelled.
pub fn unknown<'a>(names: impl IntoIterator<Item = &'a OsStr>) -> Vec<UnknownVariable> {
    const PREFIX: &str = "PACELINE_";
    let unknown = |name: &'a OsStr| {
        let name = name.to_str()?;
        let rest = name.strip_prefix(PREFIX)?;
        if find(name).is_some() {
            return None;
        }
        let ours = ALL.iter().filter_map(|known| known.name.strip_prefix(PREFIX));
        let near_name = |rest| {
            let near = nearest(rest, ours)?;
            ALL.iter().find(|known| known.name.strip_prefix(PREFIX) == Some(near))
        };
        // Who knows the option has not misspelled anything.
        let option = rest.to_ascii_lowercase().replace('_', "-");
        let meant = ALL.iter().find(|known| known.option.is_some_and(|own| own.is_called(&option)));
        let nearest = meant.or_else(|| near_name(rest)).map(|known| known.name);
        Some(UnknownVariable { name: name.to_owned(), nearest })
    };
    let mut found: Vec<_> = names.into_iter().filter_map(unknown).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Whether an inherited variable says which rank or job the *parent* was.
///
/// A launcher must not pass such a variable on: a child that finds its parent's rank in the
/// environment would join the wrong job.
pub fn identifies_rank(name: &OsStr) -> bool {
    /// Families of which no member describes anything but the parent's own place in a job.
    const PREFIXES: &[&str] = &[
        "PMIX_",
        "PMI_",
        "OMPI_COMM_WORLD_",
        "OMPI_MCA_ess_",
        "OMPI_MCA_orte_ess_",
        "MV2_COMM_WORLD_",
        "TORCHELASTIC_",
    ];
    let Some(name) = name.to_str() else { return false };
    // PMIX_MCA_* are settings of the user for PMIx itself, not an identity.
    (PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("PMIX_MCA_"))
        || find(name).is_some_and(|variable| variable.scope == Scope::Identity)
}

/// A source of environment variables.
pub trait Environment {
    /// The value of the variable called `name`, if it is set.
    fn get(&self, name: &str) -> Option<OsString>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl ProcessEnvironment {
    /// All variables of this process, for a launcher that passes them on.
    pub fn all(self) -> Vec<(OsString, OsString)> {
        std::env::vars_os().collect()
    }
}

impl Environment for ProcessEnvironment {
    #[expect(clippy::disallowed_methods, reason = "the one place that may read the environment")]
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }
}

impl<K, V> Environment for HashMap<K, V>
where
    K: std::borrow::Borrow<str> + Eq + std::hash::Hash,
    V: AsRef<OsStr>,
{
    fn get(&self, name: &str) -> Option<OsString> {
        Self::get(self, name).map(|value| value.as_ref().to_owned())
    }
}

impl<K, V> Environment for BTreeMap<K, V>
where
    K: std::borrow::Borrow<str> + Ord,
    V: AsRef<OsStr>,
{
    fn get(&self, name: &str) -> Option<OsString> {
        Self::get(self, name).map(|value| value.as_ref().to_owned())
    }
}

/// Why the environment does not say what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// The value is not text.
    #[error("{variable} is not valid UTF-8")]
    NotUnicode {
        /// The variable.
        variable: &'static str,
    },
    /// The value has the wrong form.
    #[error("{variable}={value:?} is invalid: expected {expected}")]
    Invalid {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What would have been valid.
        expected: &'static str,
    },
    /// One of two variables that only make sense together is missing.
    #[error("{present} is set but {missing} is not")]
    HalfPair {
        /// The variable that is set.
        present: &'static str,
        /// The variable that is not.
        missing: &'static str,
    },
    /// An index is not below its count.
    #[error("{index_variable}={index} is not below {count_variable}={count}")]
    OutOfRange {
        /// The variable with the index.
        index_variable: &'static str,
        /// The index.
        index: u32,
        /// The variable with the count.
        count_variable: &'static str,
        /// The count.
        count: u32,
    },
    /// More ranks are claimed for one node than there are in the job.
    #[error("{local_variable}={local_size} exceeds {world_variable}={world_size}")]
    LocalExceedsWorld {
        /// The variable with the ranks of this node.
        local_variable: &'static str,
        /// The ranks of this node.
        local_size: u32,
        /// The variable with the ranks of the job.
        world_variable: &'static str,
        /// The ranks of the job.
        world_size: u32,
    },
}

impl EnvironmentError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::HalfPair { present, missing } => Some(format!(
                "set both {present} and {missing}, or unset both; a launcher sets them together"
            )),
            Self::NotUnicode { variable } | Self::Invalid { variable, .. } => {
                let is_it =
                    |known: &&Variable| known.name == *variable || known.horovod == Some(*variable);
                Some(format!("{variable}: {}", ALL.iter().find(is_it)?.summary()))
            }
            Self::OutOfRange { .. } | Self::LocalExceedsWorld { .. } => Some(
                "the variables come from different launchers or were set by hand; unset the wrong \
                 ones"
                    .to_owned(),
            ),
        }
    }
}

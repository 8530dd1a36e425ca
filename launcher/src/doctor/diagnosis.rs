//! What `paceline doctor` finds: plain data, which is also its JSON.

use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::clock::ClockOffset;
use super::examination::Examination;
use crate::probe::{ProbeError, Way};

/// The name of the form of a record; a change that readers must know of changes its number.
pub const SCHEMA: &str = "paceline.doctor/1";

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Jobs run; some will be slower, or fail later.
    Warning,
    /// Jobs do not run.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What: a word or two.
    pub name: String,
    /// What it came to.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it, where it is not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// How long it took to find out, in microseconds; `None` where an earlier line has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        let (name, found) = (name.into(), found.into());
        Self { name, status: Status::Ok, found, remedy: None, took_us: None }
    }

    /// Worth a word.
    pub fn warning(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { status: Status::Warning, remedy, ..Self::ok(name, found) }
    }

    /// No job runs like that.
    pub fn failed(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: Status::Failed, ..Self::warning(name, found, remedy) }
    }

    pub(super) fn took(self, time: Duration) -> Self {
        self.took_us(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn took_us(self, microseconds: u64) -> Self {
        Self { took_us: Some(microseconds), ..self }
    }
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of paceline.
    pub paceline: &'static str,
    /// In the order in which they were named.
    pub hosts: Vec<HostDiagnosis>,
    /// Each direction of each pair of hosts that was tried.
    pub pairs: Vec<PairDiagnosis>,
    /// What follows from all of it.
    pub overall: Vec<Check>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostDiagnosis {
    /// As it was named.
    pub host: String,
    /// Whether it is the one that asks.
    pub is_this_host: bool,
    /// In order; a phase that failed is the last one.
    pub checks: Vec<Check>,
    /// By how much its clock differs from that of the host that asks.
    pub clock: Option<ClockOffset>,
    /// All that its agent has found.
    pub examination: Option<Examination>,
}

/// The way from one host to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairDiagnosis {
    /// Who has tried.
    pub from: String,
    /// Whom to reach.
    pub to: String,
    /// Each address of that host that may lead there.
    pub ways: Vec<WayDiagnosis>,
    /// What is to be said of them.
    pub checks: Vec<Check>,
}

/// The way to one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WayDiagnosis {
    /// The address.
    pub address: IpAddr,
    /// The interface that it belongs to, over there.
    pub interface: String,
    /// The interface from which the connection went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_interface: Option<String>,
    /// Largest packet that both interfaces allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_mtu: Option<u32>,
    /// What the way is like, or why there is none.
    #[serde(flatten)]
    pub outcome: WayOutcome,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOutcome {
    /// It leads there.
    Way(Way),
    /// It does not.
    Error(ProbeError),
}

impl Diagnosis {
    /// Every check, in the order in which it is shown.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        let hosts = self.hosts.iter().flat_map(|host| &host.checks);
        let pairs = self.pairs.iter().flat_map(|pair| &pair.checks);
        hosts.chain(pairs).chain(&self.overall)
    }

    /// How many checks came to this.
    pub fn count(&self, status: Status) -> usize {
        self.checks().filter(|check| check.status == status).count()
    }
}

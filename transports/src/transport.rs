use std::fmt;
use std::time::Instant;

use paceline_rendezvous::{RunId, Secret};
use serde::{Deserialize, Serialize};

use crate::{Checksum, Endpoint, EstablishError};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TransportKind {
    /// TCP sockets.
    Tcp,
    /// Shared memory on one node.
    Shm,
    /// MPI's messages, in a world that its launcher started; with the feature `mpi`.
    Mpi,
    /// The deterministic simulator, for tests.
    Sim,
}

impl TransportKind {
    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Mpi => "mpi",
            Self::Sim => "sim",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a transport can do, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Largest message, in bytes.
    pub message_bytes_max: usize,
    /// Sends that each communicator may have posted to one endpoint at a time.
    pub send_depth_max: usize,
    /// Receives that each communicator may have posted to one endpoint at a time.
    pub recv_depth_max: usize,
    /// Whether an endpoint has a descriptor to sleep on.
    pub wakeup: bool,
}

/// The ranks that a transport shall connect, and how they prove who they are.
#[derive(Debug)]
pub struct Group<'a> {
    /// This process.
    pub rank: u32,
    /// The job.
    pub run_id: RunId,
    /// The incarnation of the group; hellos of another epoch are refused.
    pub epoch: u32,
    /// Whether frames carry checksums: the same on all ranks.
    pub checksum: Checksum,
    /// Proves membership.
    pub secret: &'a Secret,
    /// What each rank's [`Transport::address`] returned, by rank; its length is the world size. A rank
    /// without one is not connected: another transport sees to that.
    pub addresses: &'a [Vec<u8>],
}

/// How long to wait for the other ranks.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// When to give up.
    pub deadline: Instant,
    /// Asked from time to time by a rank that waits for others to connect: whether waiting is in
    /// vain, because one of them has failed and will not come. May take some milliseconds.
    pub in_vain: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// Until `deadline`, whatever happens to others.
    pub const fn until(deadline: Instant) -> Self {
        Self { deadline, in_vain: &|| false }
    }
}

impl fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// A way to connect ranks. One value per process and group: made, asked for its address, and
/// consumed by [`Transport::connect`].
pub trait Transport: Send + fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> TransportKind;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Where peers find this process: at most 256 bytes, published through the store.
    fn address(&self) -> Vec<u8>;

    /// Connects to every other rank of the group and returns the endpoints by rank; the own entry
    /// is `None`. Blocks until all stand or `patience` is at its end.
    ///
    /// A rank that fails hangs up on whom it has connected to, so that they do not wait for it.
    ///
    /// # Errors
    /// [`EstablishError`] names the peer and the step that failed.
    fn connect(
        self: Box<Self>,
        group: &Group<'_>,
        patience: &Patience<'_>,
    ) -> Result<Vec<Option<Box<dyn Endpoint>>>, EstablishError>;
}

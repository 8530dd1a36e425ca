//! A process that has found the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::LocalLink;
use paceline_rendezvous::{
    Abort, ActivitySource, BootstrapError, BootstrapOptions, ControlError, InProcessStore,
    OperationCounter, OperationReport, ProcessEnvironment, RankInfo, Rendezvous, RunId, Secret,
    bootstrap,
};

use crate::error::SetupError;

/// A process that has found the others of its job, in one of the job's epochs, and through which
/// contexts are made.
///
/// An epoch ends when a rank is lost, or when an operation of all ranks fails: nobody knows then what
/// is under way, so connections and memory of the epoch are not used again. If all ranks are still
/// there they can go on in the [next](Job::next_epoch).
#[derive(Debug)]
pub struct Job {
    /// In which epoch it is, among others.
    rank_info: RankInfo,
    membership: Arc<Membership>,
    contexts: AtomicU32,
}

/// What the epochs of a job share. Dropping it is leaving.
#[derive(Debug)]
struct Membership {
    /// Present until it is dropped.
    rendezvous: Option<Rendezvous>,
    /// The epoch that this process has come to.
    epoch: AtomicU32,
}

impl Job {
    /// Joins the job that the environment describes; without any variables, a job of one.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] says what is missing or wrong.
    pub fn from_environment() -> Result<Arc<Self>, SetupError> {
        let rendezvous = bootstrap(&ProcessEnvironment, &BootstrapOptions::default())?;
        Ok(Self::from_rendezvous(rendezvous))
    }

    /// Wraps what a bootstrap found.
    pub fn from_rendezvous(rendezvous: Rendezvous) -> Arc<Self> {
        let rank_info = rendezvous.rank_info.clone();
        let epoch = AtomicU32::new(rank_info.epoch);
        let membership = Arc::new(Membership { rendezvous: Some(rendezvous), epoch });
        Arc::new(Self { rank_info, membership, contexts: AtomicU32::new(0) })
    }

    /// Jobs of `world_size` ranks that all live in this process, one per thread: for tests.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] if the system has no random numbers.
    pub fn in_process(world_size: u32) -> Result<Vec<Arc<Self>>, SetupError> {
        let one_node: Vec<u32> = (0..world_size).map(|_| 0).collect();
        Self::in_process_on(&one_node)
    }

    /// The same, as if rank r were on node `node_of[r]`: ranks of different nodes share no memory.
    ///
    /// # Errors
    /// As for [`in_process`](Self::in_process).
    pub fn in_process_on(node_of: &[u32]) -> Result<Vec<Arc<Self>>, SetupError> {
        let secret = Secret::random().map_err(BootstrapError::from)?;
        let run_id = RunId::random().map_err(BootstrapError::from)?;
        let store = Arc::new(InProcessStore::new());
        let count = |count: usize| u32::try_from(count).expect("ranks are counted in u32");
        let nodes = node_of.iter().max().map_or(0, |last| last + 1);
        let job = |(rank, link): (usize, LocalLink)| {
            let on_same = |others: &[u32]| others.iter().filter(|it| **it == node_of[rank]).count();
            let rank_info = RankInfo {
                rank: count(rank),
                world_size: count(node_of.len()),
                local_rank: count(on_same(&node_of[..rank])),
                local_size: count(on_same(node_of)),
                node_rank: node_of[rank],
                node_count: nodes,
                run_id: Some(run_id),
                ..RankInfo::alone()
            };
            let (secret, store) = (secret.clone(), store.clone());
            let rendezvous = Rendezvous::in_process(rank_info, run_id, secret, store);
            Self::from_rendezvous(rendezvous.with_local(link))
        };
        let links = LocalLink::all(count(node_of.len()));
        Ok((0..node_of.len()).zip(links).map(job).collect())
    }

    /// Where this process stands in the job, and the number of the epoch.
    pub fn rank_info(&self) -> &RankInfo {
        &self.rank_info
    }

    /// What this process was told about its place and its peers when it joined, and how.
    pub fn rendezvous(&self) -> &Rendezvous {
        self.membership.rendezvous.as_ref().expect("present until the job is dropped")
    }

    /// Gives up this epoch and goes on in the next one, where contexts can be made as at the start. All
    /// ranks must call it, whatever each of them saw fail; it returns when all have, on all ranks or on
    /// none, and waits for at most `timeout`.
    ///
    /// What belongs to this epoch takes no more operations, and ranks that still wait there for one that
    /// has given it up are told so. Connections of this epoch are refused in the next. Drop its
    /// contexts, for they hold memory and connections.
    ///
    /// # Errors
    /// [`SetupError::NextEpoch`] names the ranks that did not come, on all that did: a rank that was
    /// lost or has left, for which there is no next epoch, or one that was late, which may be tried
    /// again. [`SetupError::Control`] if the coordinator is lost.
    pub fn next_epoch(&self, timeout: Duration) -> Result<Arc<Self>, SetupError> {
        let epoch = self.rendezvous().next_epoch(self.rank_info.epoch, timeout);
        let epoch = epoch.map_err(|error| match error {
            ControlError::NoEpoch { abort } => SetupError::NextEpoch { abort },
            error => SetupError::Control(error),
        })?;
        self.membership.epoch.store(epoch, Ordering::Relaxed);
        Ok(Arc::new(Self {
            rank_info: RankInfo { epoch, ..self.rank_info.clone() },
            membership: Arc::clone(&self.membership),
            contexts: AtomicU32::new(0),
        }))
    }

    /// Leaves the job now, as dropping it does, but with a deadline of the caller's and an error if
    /// it cannot be done in good order. While contexts of the job, or other epochs of it, are alive it only
    /// lets go of this handle.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] if the others have not left at `deadline` (on a rank that hosts the
    /// coordinator) or the coordinator cannot be reached. The process has left all the same.
    pub fn finish(self: Arc<Self>, deadline: Instant) -> Result<(), SetupError> {
        let membership = Arc::try_unwrap(self).ok().map(|job| job.membership);
        let last = membership.and_then(|membership| Arc::try_unwrap(membership).ok());
        match last.and_then(|mut membership| membership.rendezvous.take()) {
            Some(rendezvous) => Ok(rendezvous.finish(deadline)?),
            None => Ok(()),
        }
    }

    /// The number of the next context, the same on all ranks.
    pub(crate) fn next_context(&self) -> u32 {
        self.contexts.fetch_add(1, Ordering::Relaxed)
    }

    /// The epoch that the process has come to, if it is another one: then this one is over.
    #[inline]
    pub(crate) fn later_epoch(&self) -> Option<u32> {
        // Who shall hear of the end has been told in other ways; this is for those who go on.
        let epoch = self.membership.epoch.load(Ordering::Relaxed);
        (epoch != self.rank_info.epoch).then_some(epoch)
    }

    /// Whether there is somebody to tell of failures, and to hear of them from.
    pub(crate) fn is_coordinated(&self) -> bool {
        self.rendezvous().is_coordinated()
    }

    pub(crate) fn report(&self, report: &OperationReport) {
        self.rendezvous().report(self.rank_info.epoch, report);
    }

    /// Lets the coordinator know what a context does, where there are others.
    pub(crate) fn watch(&self, source: &Arc<dyn ActivitySource>) {
        if let Some(control) = &self.rendezvous().control {
            control.watch(source);
        }
    }

    /// Counts the operations of a communicator for the others to know, where there are others.
    pub(crate) fn track(&self, context: u32, communicator: u32) -> Option<OperationCounter> {
        self.rendezvous().track(self.rank_info.epoch, context, communicator)
    }

    /// Why operations of a communicator must end, if they must.
    pub(crate) fn poll_abort(&self, context: u32, communicator: u32) -> Option<Abort> {
        self.rendezvous().poll_abort_of(self.rank_info.epoch, context, communicator)
    }
}

impl Drop for Membership {
    /// Says goodbye, so that the end of this process is not taken for its death; a rank that hosts
    /// the coordinator also waits for the others. A panicking thread says nothing: that *is* a death.
    fn drop(&mut self) {
        if let Some(rendezvous) = self.rendezvous.take()
            && !std::thread::panicking()
        {
            // There is nobody left to tell of a failure, and the coordinator notices by itself.
            let _ = rendezvous.finish(Instant::now() + GOODBYE_TIMEOUT);
        }
    }
}

/// How long a rank that leaves waits for the coordinator, or for the other ranks if it hosts it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);

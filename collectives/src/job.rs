//! A process that has found the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use paceline_rendezvous::{
    Abort, ActivitySource, BootstrapError, BootstrapOptions, InProcessStore, OperationCounter,
    OperationReport, ProcessEnvironment, RankInfo, Rendezvous, RunId, Secret, bootstrap,
};

use crate::error::SetupError;

/// A process that has found the others of its job, and through which contexts are made.
#[derive(Debug)]
pub struct Job {
    /// Present until it is dropped.
    rendezvous: Option<Rendezvous>,
    contexts: AtomicU32,
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
        Arc::new(Self { rendezvous: Some(rendezvous), contexts: AtomicU32::new(0) })
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
        let job = |rank: usize| {
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
            Self::from_rendezvous(Rendezvous::in_process(rank_info, run_id, secret, store))
        };
        Ok((0..node_of.len()).map(job).collect())
    }

    /// Where this process stands in the job.
    pub fn rank_info(&self) -> &RankInfo {
        &self.rendezvous().rank_info
    }

    /// What this process was told about its place and its peers, and how.
    pub fn rendezvous(&self) -> &Rendezvous {
        self.rendezvous.as_ref().expect("present until the job is dropped")
    }

    /// Leaves the job now, as dropping it does, but with a deadline of the caller's and an error if
    /// it cannot be done in good order. While contexts of the job are alive it only lets go of this
    /// handle.
    ///
    /// # Errors
    /// [`SetupError::Bootstrap`] if the others have not left at `deadline` (on a rank that hosts the
    /// coordinator) or the coordinator cannot be reached. The process has left all the same.
    pub fn finish(self: Arc<Self>, deadline: Instant) -> Result<(), SetupError> {
        let rendezvous = Arc::try_unwrap(self).ok().and_then(|mut job| job.rendezvous.take());
        match rendezvous {
            Some(rendezvous) => Ok(rendezvous.finish(deadline)?),
            None => Ok(()),
        }
    }

    /// The number of the next context, the same on all ranks.
    pub(crate) fn next_context(&self) -> u32 {
        self.contexts.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn report(&self, report: &OperationReport) {
        if let Some(control) = &self.rendezvous().control {
            // If the coordinator is gone, the next look for an abort says so.
            let _ = control.report(report);
        }
    }

    /// Lets the coordinator know what a context does, where there are others.
    pub(crate) fn watch(&self, source: &Arc<dyn ActivitySource>) {
        if let Some(control) = &self.rendezvous().control {
            control.watch(source);
        }
    }

    /// Counts the operations of a communicator for the others to know, where there are others.
    pub(crate) fn track(&self, context: u32, communicator: u32) -> Option<OperationCounter> {
        Some(self.rendezvous().control.as_ref()?.track(context, communicator))
    }

    /// Why operations of a communicator must end, if they must.
    pub(crate) fn poll_abort(&self, context: u32, communicator: u32) -> Option<Abort> {
        self.rendezvous().control.as_ref()?.poll_abort_of(context, communicator)
    }
}

impl Drop for Job {
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

//! The other library that is measured between the rounds of ours.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use paceline_benches::metrics::Shape;
use paceline_benches::run::Measurement;
use paceline_benches::schema::PeerResult;
use paceline_benches::verify::{Pattern, TestElement};
use paceline_benches::yardstick::{Beside, Helper, HelperError, HelperYardstick, Request};
use paceline_collectives::Job;

use super::arguments::PeerName;
use super::lanes::Lane;
use super::plan::Plan;
use super::session::BenchError;

/// What one row measures.
#[derive(Clone, Debug)]
pub(super) enum Measured {
    /// A collective.
    Shape(Shape),
    /// The gradients of a model, by number of elements.
    Lengths(Vec<u64>),
}

/// The library, ready to be measured.
#[derive(Debug)]
pub(super) enum Peer {
    None,
    #[cfg(feature = "mpi")]
    Mpi(&'static paceline_transports::mpi::World),
    /// In a process beside this one; the directory where all of them have met.
    Helper(Box<Helper>, #[expect(dead_code, reason = "kept for its Drop")] Option<Meeting>),
}

/// A directory that is removed in the end.
#[derive(Debug)]
pub(super) struct Meeting(PathBuf);

impl Drop for Meeting {
    fn drop(&mut self) {
        // It is in the directory for temporary files: nobody is helped by an error.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn failed(peer: PeerName, source: impl Into<BoxError>, hint: Option<String>) -> BenchError {
    BenchError::Peer { peer: peer.name(), source: source.into(), hint }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Starts what the plan names. All ranks do so together.
pub(super) fn open(plan: &Plan, job: &Job, deadline: Instant) -> Result<Peer, BenchError> {
    match &plan.peer {
        None => Ok(Peer::None),
        Some((PeerName::Mpi, _)) => mpi(job, deadline),
        Some((name @ PeerName::Gloo, python)) => helper(*name, "gloo", python, job, deadline),
        Some((name @ PeerName::Horovod, python)) => helper(*name, "horovod", python, job, deadline),
    }
}

#[cfg(feature = "mpi")]
fn mpi(job: &Job, deadline: Instant) -> Result<Peer, BenchError> {
    use paceline_rendezvous::rank_info::Dialect;
    use paceline_transports::mpi::World;

    let info = job.rank_info();
    let hint = || Some("start it with mpirun, or with -np N and no launcher around it".to_owned());
    if ![Dialect::OpenMpi, Dialect::Pmi, Dialect::Slurm].contains(&info.dialect) {
        return Err(failed(PeerName::Mpi, "no launcher of MPI has started these ranks", hint()));
    }
    let world = World::join(deadline).map_err(|reason| failed(PeerName::Mpi, reason, hint()))?;
    if (world.rank(), world.size()) != (info.rank, info.world_size) {
        let what = format!("rank {} is rank {} in the MPI world", info.rank, world.rank());
        return Err(failed(PeerName::Mpi, what, hint()));
    }
    Ok(Peer::Mpi(world))
}

#[cfg(not(feature = "mpi"))]
fn mpi(_job: &Job, _deadline: Instant) -> Result<Peer, BenchError> {
    Err(failed(PeerName::Mpi, "this program was built without --features mpi", None))
}

fn helper(
    name: PeerName,
    backend: &'static str,
    python: &str,
    job: &Job,
    deadline: Instant,
) -> Result<Peer, BenchError> {
    let info = job.rank_info();
    if !info.is_on_one_node() {
        return Err(failed(name, "its ranks must be on one node", None));
    }
    let store = &job.rendezvous().store;
    let key = format!("bench/{}/peer", info.epoch);
    let (directory, meeting) = if info.rank == 0 {
        let path = std::env::temp_dir().join(format!("paceline-peer-{}", job.rendezvous().run_id));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| failed(name, error, None))?;
        store.set(&key, path.to_string_lossy().as_bytes()).map_err(BenchError::Publish)?;
        (path.clone(), Some(Meeting(path)))
    } else {
        let path = store.get(&key, deadline);
        let path = path.map_err(|source| BenchError::Absent { peer: 0, source })?;
        (Path::new(&String::from_utf8_lossy(&path).into_owned()).to_owned(), None)
    };
    let helper = Helper::start(backend, python, (info.rank, info.world_size), &directory);
    let helper = helper.map_err(|error: HelperError| {
        let hint = error.hint();
        failed(name, error, hint)
    })?;
    Ok(Peer::Helper(Box::new(helper), meeting))
}

impl Peer {
    /// The library's part in one row.
    pub(super) fn beside<'s, T: TestElement>(
        &'s mut self,
        plan: &Plan,
        #[cfg_attr(not(feature = "mpi"), expect(unused_variables, reason = "for MPI"))]
        (lane, pattern): (&'s Lane, &'s Pattern<T>),
        measured: &Measured,
    ) -> Result<Option<Beside<'s>>, BenchError> {
        match self {
            Self::None => Ok(None),
            #[cfg(feature = "mpi")]
            Self::Mpi(world) => of_mpi(world, plan, lane, pattern, measured).map(Some),
            Self::Helper(helper, _) => {
                let (dtype, op) = (plan.dtype.name(), plan.op.name());
                // Where nothing is reduced the operator is not looked at.
                let op = if plan.collective.reduces() { op } else { "sum" };
                let request = match measured {
                    Measured::Shape(shape) => Request {
                        collective: Some(plan.collective.name()),
                        count: Some(shape.count),
                        lengths: None,
                        dtype,
                        op,
                    },
                    Measured::Lengths(lengths) => Request {
                        collective: None,
                        count: None,
                        lengths: Some(lengths.clone()),
                        dtype,
                        op,
                    },
                };
                Ok(Some(Beside::new(HelperYardstick::new(helper, request, &plan.settings))))
            }
        }
    }
}

#[cfg(feature = "mpi")]
fn of_mpi<'s, T: TestElement>(
    world: &'static paceline_transports::mpi::World,
    plan: &Plan,
    lane: &'s Lane,
    pattern: &'s Pattern<T>,
    measured: &Measured,
) -> Result<Beside<'s>, BenchError> {
    use paceline_benches::ranks::CollectiveWorkload;
    use paceline_benches::run::RunError;
    use paceline_benches::yardstick::{MpiLibrary, WorkloadYardstick};

    let Measured::Shape(shape) = measured else {
        return Err(failed(PeerName::Mpi, "MPI fuses no gradients", None));
    };
    let (collective, op, apart) = (plan.collective, plan.op, plan.out_of_place);
    let library = MpiLibrary::new(world, collective, plan.dtype, op, *shape, apart);
    let library = library.map_err(|error| failed(PeerName::Mpi, error, None))?;
    let workload =
        CollectiveWorkload::new(&lane.communicator, collective, op, pattern, *shape, apart)
            .map_err(RunError::Operation)?
            .with_library(library);
    let version = MpiLibrary::version();
    Ok(Beside::new(WorkloadYardstick::new(Box::new(workload), version, &plan.settings)))
}

/// How ours compares with what was measured beside it.
pub(super) fn compared(
    beside: Option<Beside<'_>>,
    ours: &Measurement,
    plan: &Plan,
) -> Result<Option<PeerResult>, BenchError> {
    let peer = plan.peer.as_ref().map_or("", |(name, _)| name.name());
    let result = beside.map(|beside| beside.result(ours)).transpose();
    result.map_err(|error| BenchError::Peer { peer, source: error.into(), hint: None })
}

//! The measurement as one rank sees it: transports one after the other, sizes one by one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use paceline_benches::floor::{Floor, FloorSearch, exchange_bytes};
use paceline_benches::metrics::Collective;
use paceline_benches::ranks::{BareExchange, CommunicatorGroup, collective_error, library_name};
use paceline_benches::record::{Case, result_of};
use paceline_benches::run::{Check, Group, Measurement, RunError, SystemClock, measure};
use paceline_benches::schema::{BenchResult, Report, SCHEMA};
use paceline_benches::units::format_bytes;
use paceline_benches::verify::{Pattern, PatternError, TestElement};
use paceline_benches::yardstick::Beside;
use paceline_collectives::queue::QueueError;
use paceline_collectives::{CollectiveError, Job, SetupError, bf16, f16};
use paceline_devices::{Bool, DType, ReduceOp};
use paceline_launcher::ExitCode;
use paceline_rendezvous::StoreError;

use super::facts;
use super::lanes::{Lane, open_lanes};
use super::memory;
use super::peer::{self, Peer};
use super::plan::Plan;
use super::printer::Printer;
use super::report;
use super::rows::{Row, repeated, rows};
use crate::console;

/// Why the benchmark ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("failed to tell the other ranks about this one")]
    Publish(#[source] StoreError),
    #[error("no word from rank {peer}")]
    Absent {
        peer: u32,
        #[source]
        source: StoreError,
    },
    #[error("rank {peer} published facts that cannot be understood")]
    Card {
        peer: u32,
        #[source]
        source: serde_json::Error,
    },
    #[error("no transport can be used")]
    NoTransport,
    #[error("{row} does not fit into memory: {lack}")]
    Memory { row: String, lack: String },
    #[error("cannot measure {peer} beside ours")]
    Peer {
        peer: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        hint: Option<String>,
    },
    #[error("failed to write {}", path.display())]
    Record {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl BenchError {
    /// The collective call that failed, if that is what happened.
    pub(super) fn collective(&self) -> Option<&CollectiveError> {
        match self {
            Self::Run(RunError::Operation(error) | RunError::Group { source: error, .. }) => {
                collective_error(error)
            }
            Self::Setup(SetupError::Agreement(error)) => Some(error.as_ref()),
            _ => None,
        }
    }

    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Setup(error) => error.hint(),
            Self::Run(_) => self.collective()?.hint(),
            Self::Queue(error) => error.hint(),
            Self::Peer { hint, .. } => hint.clone(),
            Self::Absent { source, .. } if source.is_timeout() => {
                Some("see whether all ranks started; --start-timeout gives them longer".to_owned())
            }
            Self::Memory { .. } => {
                Some("measure smaller sizes (--sizes), or with fewer ranks on a node".to_owned())
            }
            Self::Pattern(PatternError::TooManyRanks { .. }) => {
                Some("measure with --check off, or another type".to_owned())
            }
            _ => None,
        }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        let timed_out = match self {
            Self::Run(_) => self.collective().is_some_and(CollectiveError::is_timeout),
            Self::Setup(SetupError::Absent { .. }) => true,
            Self::Setup(SetupError::Store(error))
            | Self::Publish(error)
            | Self::Absent { source: error, .. } => match error {
                // Another rank's time ran out, and the job ended before this one's did.
                StoreError::Aborted { abort, .. } => abort.timed_out,
                error => error.is_timeout(),
            },
            _ => false,
        };
        if timed_out { ExitCode::TimedOut } else { ExitCode::LauncherFailed }
    }
}

/// Measures everything and returns the record, the same on all ranks; with an error, what there is of
/// it if that is anything.
pub(super) fn run(
    plan: &Plan,
    job: &Arc<Job>,
    printer: &mut Printer,
) -> (Option<Report>, Result<(), BenchError>) {
    let mut record = None;
    let outcome = measure_all(plan, job, printer, &mut record);
    if let (Some(report), Err(error)) = (&mut record, &outcome) {
        report.failure = Some(console::chain(error));
    }
    (record.filter(|report| outcome.is_ok() || !report.results.is_empty()), outcome)
}

fn measure_all(
    plan: &Plan,
    job: &Arc<Job>,
    printer: &mut Printer,
    record: &mut Option<Report>,
) -> Result<(), BenchError> {
    let deadline = Instant::now() + plan.context.start_timeout;
    let (machines, ranks) = facts::exchange(job, &plan.environment, deadline)?;
    let (lanes, skipped) = open_lanes(plan, job)?;
    let report = record.insert(Report {
        schema: SCHEMA.to_owned(),
        peer: None,
        machines,
        ranks,
        config: plan.config(job.rank_info().world_size),
        skipped,
        results: Vec::new(),
        failure: None,
    });
    printer.lines(&report::head(plan, report));
    let repeated = repeated(plan, report.config.world_size);
    report::merged(&repeated, plan).iter().for_each(|line| printer.lines(line));
    if lanes.is_empty() {
        return Err(BenchError::NoTransport);
    }
    let peer = peer::open(plan, job, deadline)?;
    let mut session = Session { plan, job, printer, peer, report };
    for lane in &lanes {
        if !session.lane_of_dtype(lane)? {
            break;
        }
    }
    Ok(())
}

struct Session<'a> {
    plan: &'a Plan,
    job: &'a Job,
    printer: &'a mut Printer,
    peer: Peer,
    report: &'a mut Report,
}

impl Session<'_> {
    /// Measures one transport. Returns whether to go on with the next.
    fn lane_of_dtype(&mut self, lane: &Lane) -> Result<bool, BenchError> {
        match self.plan.dtype {
            DType::F64 => self.lane::<f64>(lane),
            DType::F32 => self.lane::<f32>(lane),
            DType::F16 => self.lane::<f16>(lane),
            DType::Bf16 => self.lane::<bf16>(lane),
            DType::I64 => self.lane::<i64>(lane),
            DType::I32 => self.lane::<i32>(lane),
            DType::I16 => self.lane::<i16>(lane),
            DType::I8 => self.lane::<i8>(lane),
            DType::U64 => self.lane::<u64>(lane),
            DType::U32 => self.lane::<u32>(lane),
            DType::U16 => self.lane::<u16>(lane),
            DType::U8 => self.lane::<u8>(lane),
            DType::Bool => self.lane::<Bool>(lane),
            other => unreachable!("{other} has no test data"),
        }
    }

    fn lane<T: TestElement>(&mut self, lane: &Lane) -> Result<bool, BenchError> {
        let plan = self.plan;
        let world_size = lane.context.world_size();
        let reduces = plan.collective.reduces() && plan.settings.check != Check::Off;
        let op = if reduces { plan.op } else { ReduceOp::Max };
        let pattern = Pattern::<T>::new(op, world_size)?;
        let rows = rows(plan, lane, &pattern)?;
        memory::check(plan, self.job, lane, &rows)?;
        if plan.explain {
            let name = library_name(plan.collective);
            self.printer.lines(&report::explanation(lane, plan.collective, name));
        }
        let previews: Vec<BenchResult> = rows.iter().map(|row| preview(&row.case)).collect();
        let mut table = report::LaneTable::new(&previews);
        let mut floors = Floors { lane, last: None };
        let first = self.report.results.len();
        for mut row in rows {
            // Rank 0 may have lost its reader; then all ranks stop together.
            let mut group = CommunicatorGroup::new(&lane.communicator);
            let go_on = group
                .broadcast(u64::from(self.is_wanted()))
                .map_err(|source| RunError::Group { step: "agree to go on", source })?;
            if go_on == 0 {
                return Ok(false);
            }
            self.printer.progress(&format!("{}: measuring the floor", report::label(&row.case)));
            let mut floor = floors.begin(&mut group, &row.case)?;
            let mut other = std::mem::replace(&mut self.peer, Peer::None);
            let mut beside = other.beside(plan, (lane, &pattern), &row.measured)?;
            let measurement = self.measure(&mut group, &mut row, &mut floor, beside.as_mut())?;
            let mut result = result_of(&row.case, &measurement, floor.end(&mut floors).as_ref());
            result.peer = peer::compared(beside, &measurement, plan)?;
            self.peer = other;
            let line = table.row(&result);
            self.report.results.push(result);
            self.keep();
            self.printer.lines(&line);
        }
        let results = &self.report.results[first..];
        self.printer.lines(&report::foot(plan, results, self.printer.width()));
        Ok(true)
    }

    /// Leaves the rows so far in the record's file: whoever stops this process may not let it say why.
    fn keep(&mut self) {
        if let (Some(target), 0) = (&self.plan.json, self.job.rank_info().rank) {
            self.report.failure = Some("it was stopped before its end".to_owned());
            target.keep(self.report);
            self.report.failure = None;
        }
    }

    /// Whether somebody waits for more results.
    fn is_wanted(&self) -> bool {
        !self.printer.is_closed() || self.plan.json.is_some()
    }

    fn measure(
        &mut self,
        group: &mut CommunicatorGroup<'_>,
        row: &mut Row<'_>,
        floor: &mut RowFloor<'_>,
        mut beside: Option<&mut Beside<'_>>,
    ) -> Result<Measurement, BenchError> {
        let settings = &self.plan.settings;
        let label = report::label(&row.case);
        let mut before_round = |round: u32, group: &mut dyn Group| {
            let rounds = settings.rounds;
            self.printer.progress(&format!("{label}: round {} of {rounds}", round + 1));
            floor.round(group)?;
            beside.as_mut().map_or(Ok(()), |beside| beside.round(group))
        };
        let workload = row.workload.as_mut();
        Ok(measure(group, workload, &SystemClock, settings, &mut before_round)?)
    }
}

/// The floors of a lane: neighbouring rows may need the same bytes, and then the best ways to
/// exchange them are known.
struct Floors<'a> {
    lane: &'a Lane,
    last: Option<FloorSearch>,
}

impl<'a> Floors<'a> {
    fn begin(
        &mut self,
        group: &mut CommunicatorGroup<'_>,
        case: &Case,
    ) -> Result<RowFloor<'a>, BenchError> {
        let bytes = exchange_bytes(case.collective, case.bytes, case.world_size);
        let mut exchange = BareExchange::new(&self.lane.communicator);
        let search = match self.last.take() {
            Some(last) if last.bytes() == bytes => Some(last.anew()),
            _ => FloorSearch::begin(group, &mut exchange, &SystemClock, bytes)?,
        };
        Ok(RowFloor { search, exchange })
    }
}

/// The floor of a row, measured between its rounds.
struct RowFloor<'a> {
    search: Option<FloorSearch>,
    exchange: BareExchange<'a>,
}

impl RowFloor<'_> {
    fn round(&mut self, group: &mut dyn Group) -> Result<(), RunError> {
        match &mut self.search {
            Some(search) => search.round(group, &mut self.exchange, &SystemClock),
            None => Ok(()),
        }
    }

    fn end(self, floors: &mut Floors<'_>) -> Option<Floor> {
        let floor = self.search.as_ref().and_then(FloorSearch::floor);
        floors.last = self.search;
        floor
    }
}

/// A result without times, from which the table learns how wide names are.
fn preview(case: &Case) -> BenchResult {
    let nothing = Measurement {
        iterations: 0,
        batch: 1,
        rounds: Vec::new(),
        ranks: Vec::new(),
        cpu_ns: 0,
        wrong: None,
    };
    result_of(case, &nothing, None)
}

/// Names a row while it is measured.
pub(super) fn row_name(case: &Case) -> String {
    match (&case.model, case.collective) {
        (Some(model), _) => model.clone(),
        (None, Collective::Barrier) => case.collective.name().to_owned(),
        (None, collective) => format!("{collective} of {}", format_bytes(case.bytes)),
    }
}

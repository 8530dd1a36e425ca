//! From options to what is to be measured, with everything checked that one process can check.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::time::Duration;

use paceline_benches::metrics::Collective;
use paceline_benches::models::{HOROVOD_FUSION_BYTES, Model, UnknownModelError};
use paceline_benches::run::{BATCHES_MIN, Check, Settings, WARMUP_NANOSECONDS};
use paceline_benches::schema::Config;
use paceline_benches::sizes::{
    DEFAULT_FACTOR, DEFAULT_SIZES, ParseSizesError, Progression, parse_sizes, sweep,
};
use paceline_collectives::plan::Algorithm;
use paceline_collectives::queue::QueueOptions;
use paceline_collectives::{ContextOptions, SetupError, TransportChoice};
use paceline_devices::{DType, ReduceOp};
use paceline_rendezvous::EnvironmentError;
use paceline_rendezvous::env::{self, Environment as _, Variable};

use super::arguments::{Arguments, PeerName, TransportSelection};
use super::record::JsonTarget;
use crate::config::ConfigError;
use crate::hosts::HostSettingError;
use crate::options::{Layers, SettingError};
use crate::timeline::{Timeline, TimelineError};

/// Shortest round where the user names none.
const MIN_TIME_DEFAULT: Duration = Duration::from_millis(100);

/// A pass over a model takes so long that two of them make a round.
const MODEL_BATCHES_MIN: u64 = 2;

/// What is wrong with the command line beyond its grammar.
#[derive(Debug, thiserror::Error)]
pub(super) enum UsageError {
    #[error("{op} is not defined for {dtype}")]
    NoSuchReduction { op: ReduceOp, dtype: DType },
    #[error("{algorithm} is no algorithm for {collective}")]
    WrongAlgorithm { algorithm: Algorithm, collective: Collective },
    #[error("--{option} measures all_reduce, not {collective}")]
    OnlyAllReduce { option: &'static str, collective: Collective },
    #[error(transparent)]
    Model(#[from] UnknownModelError),
    #[error(transparent)]
    Sizes(#[from] ParseSizesError),
    #[error("PACELINE_TRANSPORT: {message}")]
    Transport { message: String },
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("{plan} is for one transport, and several are to be measured, one after the other")]
    SharedPlan { plan: String },
    #[error("{said} changes nothing here")]
    Idle { said: String, hint: &'static str },
    #[error(transparent)]
    Host(#[from] HostSettingError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Timeline(#[from] TimelineError),
    #[error("MPI fuses no gradients: --peer mpi measures no models")]
    PeerModel,
    #[cfg(feature = "mpi")]
    #[error(transparent)]
    Peer(#[from] paceline_benches::yardstick::MpiError),
    #[error("-np {asked}, but the launcher started {started} ranks")]
    WorldSize { asked: u32, started: u32 },
}

impl UsageError {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchReduction { dtype, .. } => {
                let defined: Vec<&str> =
                    ReduceOp::defined_for(*dtype).map(ReduceOp::name).collect();
                Some(format!("{dtype} has {}", defined.join(", ")))
            }
            Self::WrongAlgorithm { collective, .. } => {
                let name = paceline_benches::ranks::library_name(*collective);
                let known: Vec<&str> = Algorithm::ALL
                    .into_iter()
                    .filter(|algorithm| algorithm.supports(name))
                    .map(Algorithm::name)
                    .collect();
                Some(format!("{collective} knows auto, {}", known.join(", ")))
            }
            Self::OnlyAllReduce { option, .. } => {
                Some(format!("name no collective, or all_reduce, with --{option}"))
            }
            Self::Sizes(error) => error.hint(),
            Self::Environment(error) => error.hint(),
            Self::Setting(error) => error.hint(),
            Self::Setup(error) => error.hint(),
            Self::SharedPlan { .. } => Some("name the transport with --transport NAME".to_owned()),
            Self::Idle { hint, .. } => Some((*hint).to_owned()),
            Self::Config(error) => error.hint(),
            Self::Timeline(error) => error.hint(),
            Self::Host(error) => error.hint(),
            Self::WorldSize { .. } => Some("leave out -np under another launcher".to_owned()),
            Self::PeerModel => Some("--peer horovod and --peer gloo do".to_owned()),
            #[cfg(feature = "mpi")]
            Self::Peer(_) => None,
            Self::Model(_) | Self::Transport { .. } => None,
        }
    }
}

/// What is measured on each transport.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// One collective at each of these sizes in bytes.
    Sizes(Vec<u64>),
    /// The gradients of a model, alone and fused into buckets of so many bytes.
    Model(Box<Model>, u64),
}

/// Everything that a rank needs to know to take part.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) collective: Collective,
    pub(super) subject: Subject,
    pub(super) transports: TransportSelection,
    pub(super) dtype: DType,
    pub(super) op: ReduceOp,
    pub(super) out_of_place: bool,
    /// The options of queues, if operations are submitted to one.
    pub(super) queue: Option<QueueOptions>,
    pub(super) settings: Settings,
    pub(super) context: ContextOptions,
    pub(super) environment: Layers,
    /// Ranks to start where no launcher has started any.
    pub(super) ranks: Option<NonZeroU32>,
    pub(super) json: Option<JsonTarget>,
    /// What the ranks record, for whoever starts them to end.
    pub(super) timeline: Option<Timeline>,
    /// Another library to measure between the rounds, and its Python.
    pub(super) peer: Option<(PeerName, String)>,
    pub(super) histogram: bool,
    pub(super) explain: bool,
}

impl Plan {
    pub(super) fn new(arguments: &Arguments) -> Result<Self, UsageError> {
        let environment = layers(arguments)?;
        let context = ContextOptions::from_environment(&environment).map_err(|error| {
            environment.spelled(error).map_or_else(UsageError::from, Into::into)
        })?;
        let (collective, op, dtype) = (arguments.collective, arguments.op, arguments.dtype);
        if collective.reduces() && !op.supports(dtype) {
            return Err(UsageError::NoSuchReduction { op, dtype });
        }
        let name = paceline_benches::ranks::library_name(collective);
        if let Some(algorithm) = context.algorithm
            && !algorithm.supports(name)
        {
            return Err(UsageError::WrongAlgorithm { algorithm, collective });
        }
        if let Some(peer) = arguments.peer {
            check_peer(peer, arguments)?;
        }
        check_queue_settings(arguments, &environment)?;
        let (transports, ranks) =
            (transports(arguments, &environment)?, env::NP.parse(&environment)?);
        // One rank has nobody to reach by any.
        let several = transports == TransportSelection::All && ranks != Some(NonZeroU32::MIN);
        if several && context.plan.is_some() {
            return Err(UsageError::SharedPlan { plan: environment.spelling(env::PLAN) });
        }
        Ok(Self {
            collective,
            subject: subject(arguments, &environment)?,
            transports,
            dtype,
            op,
            queue: queue(arguments, &environment)?,
            out_of_place: arguments.out_of_place || !collective.works_in_place(),
            settings: settings(arguments),
            context,
            ranks,
            timeline: Timeline::of(&environment)?,
            environment,
            json: arguments.json.as_deref().map(JsonTarget::new),
            peer: arguments.peer.map(|name| (name, arguments.peer_python.clone())),
            histogram: arguments.histogram,
            explain: arguments.explain,
        })
    }

    /// How the record describes what was asked for.
    pub(super) fn config(&self, world_size: u32) -> Config {
        let settings = &self.settings;
        Config {
            world_size,
            rounds: settings.rounds,
            out_of_place: self.out_of_place,
            check: settings.check.name().to_owned(),
            warmup: settings.warmup,
            iterations: settings.iterations,
            min_time_s: Duration::from_nanos(settings.min_time_ns).as_secs_f64(),
        }
    }
}

/// Whether a peer can be measured at all.
fn check_peer(peer: PeerName, arguments: &Arguments) -> Result<(), UsageError> {
    if peer != PeerName::Mpi {
        return Ok(());
    }
    // A build without MPI says how to get one.
    "mpi".parse::<TransportChoice>()?;
    if arguments.model.is_some() {
        return Err(UsageError::PeerModel);
    }
    #[cfg(feature = "mpi")]
    paceline_benches::yardstick::MpiLibrary::supports(
        arguments.collective,
        arguments.dtype,
        arguments.op,
    )?;
    Ok(())
}

/// Whether what is said about fusion and queues has a meaning here: numbers would be taken for those
/// of a setting that they do not depend on. Horovod's variables may be there for others.
fn check_queue_settings(arguments: &Arguments, environment: &Layers) -> Result<(), UsageError> {
    const HINT: &str =
        "--model NAME fuses gradients, --async submits to the queue; without either it has no use";
    const QUEUE_HINT: &str = "--async submits to the queue; without it there is none";
    let is_said = |variable: Variable| {
        let said = environment.get(variable.name);
        said.is_some_and(|said| !said.is_empty()).then(|| environment.spelling(variable))
    };
    if arguments.queued {
        return Ok(());
    }
    let option = arguments.fusion_threshold.map(|_| "--fusion-threshold".to_owned());
    let fusion = option.or_else(|| is_said(env::FUSION_THRESHOLD));
    if let Some(said) = fusion.filter(|_| arguments.model.is_none()) {
        return Err(UsageError::Idle { said, hint: HINT });
    }
    match [env::CYCLE_TIME, env::CACHE_CAPACITY].into_iter().find_map(is_said) {
        Some(said) => Err(UsageError::Idle { said, hint: QUEUE_HINT }),
        None => Ok(()),
    }
}

/// Options as variables, so that the library reads both the same way.
fn layers(arguments: &Arguments) -> Result<Layers, ConfigError> {
    let algorithm = arguments
        .algorithm
        .map(|choice| choice.0.map_or_else(|| "auto".into(), |algorithm| algorithm.name().into()));
    let transport = arguments
        .transport
        // Which transports are tried is ours to say; `all` would mean nothing to the library.
        .map(|_| "auto".into());
    let own = [(env::ALGORITHM, algorithm), (env::TRANSPORT, transport)];
    let given = |(variable, value): (Variable, Option<OsString>)| {
        value.map(|value| (OsString::from(variable.name), value))
    };
    arguments.settings.layers(own.into_iter().filter_map(given).collect())
}

fn transports(
    arguments: &Arguments,
    environment: &Layers,
) -> Result<TransportSelection, UsageError> {
    match arguments.transport {
        Some(selection) => Ok(selection),
        None => match env::TRANSPORT.text(environment)? {
            Some(name) => name.parse().map_err(|message| UsageError::Transport { message }),
            None => Ok(TransportSelection::All),
        },
    }
}

fn subject(arguments: &Arguments, environment: &Layers) -> Result<Subject, UsageError> {
    let collective = arguments.collective;
    if let Some(name) = &arguments.model {
        if collective != Collective::AllReduce {
            return Err(UsageError::OnlyAllReduce { option: "model", collective });
        }
        let threshold = match arguments.fusion_threshold {
            Some(bytes) => bytes,
            None => env::FUSION_THRESHOLD.bytes(environment)?.unwrap_or(HOROVOD_FUSION_BYTES),
        };
        return Ok(Subject::Model(Box::new(Model::named(name)?), threshold));
    }
    if collective == Collective::Barrier {
        return Ok(Subject::Sizes(vec![0]));
    }
    let sizes = match (&arguments.sizes, arguments.first, arguments.last, arguments.factor) {
        (Some(list), ..) => list.0.clone(),
        (None, None, None, None) => parse_sizes(DEFAULT_SIZES)?,
        (None, first, last, factor) => {
            let (first, last) = (first.unwrap_or(4), last.unwrap_or(64 << 20));
            let factor = factor.unwrap_or(DEFAULT_FACTOR);
            sweep(
                first,
                last,
                Progression::Factor(factor),
                &format!("-b {first} -e {last} -f {factor}"),
            )?
        }
    };
    Ok(Subject::Sizes(sizes))
}

fn queue(arguments: &Arguments, environment: &Layers) -> Result<Option<QueueOptions>, UsageError> {
    let collective = arguments.collective;
    if !arguments.queued {
        return Ok(None);
    }
    if collective != Collective::AllReduce {
        return Err(UsageError::OnlyAllReduce { option: "async", collective });
    }
    let mut options = QueueOptions::from_environment(environment)
        .map_err(|error| environment.spelled(error).map_or_else(UsageError::from, Into::into))?;
    if let Some(bytes) = arguments.fusion_threshold {
        options.fusion_threshold = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    Ok(Some(options))
}

fn settings(arguments: &Arguments) -> Settings {
    let min_time = arguments.min_time.unwrap_or(MIN_TIME_DEFAULT);
    Settings {
        rounds: arguments.rounds.get(),
        warmup: arguments.warmup,
        warmup_ns: WARMUP_NANOSECONDS,
        iterations: arguments.iterations.map(std::num::NonZeroU64::get),
        batches_min: if arguments.model.is_some() { MODEL_BATCHES_MIN } else { BATCHES_MIN },
        min_time_ns: u64::try_from(min_time.as_nanos()).unwrap_or(u64::MAX),
        check: match Check::from(arguments.check) {
            // Trains of checked operations would be another loop than the peer's.
            Check::Every if arguments.peer.is_some() => Check::First,
            check => check,
        },
    }
}

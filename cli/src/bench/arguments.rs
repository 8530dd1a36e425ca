//! The options of `paceline bench`.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use paceline_benches::metrics::Collective;
use paceline_benches::run::Check;
use paceline_benches::sizes::{ParseSizesError, parse_size, parse_sizes};
use paceline_collectives::plan::Algorithm;
use paceline_collectives::{SetupError, TransportChoice, TransportKind};
use paceline_devices::{DType, ReduceOp};
use paceline_rendezvous::env::{self, Form, Variable};

use crate::options::{Selection, Settings};

/// Options of `paceline bench`.
#[derive(Debug, Args)]
#[command(
    override_usage = "paceline bench [COLLECTIVE] [-np N] [OPTIONS]
       paceline run -np N paceline bench [COLLECTIVE] [OPTIONS]",
    after_help = EXAMPLES
)]
pub(crate) struct Arguments {
    /// all_reduce, reduce_scatter, all_gather, broadcast, reduce, all_to_all, gather, scatter or
    /// barrier
    #[arg(value_name = "COLLECTIVE", default_value = "all_reduce", hide_default_value = true)]
    pub(super) collective: Collective,

    /// Transport: tcp, shm, mpi, auto, or all (tcp and shm, one after the other) [default: all]
    #[arg(long, value_name = "NAME")]
    pub(super) transport: Option<TransportSelection>,

    /// Sizes in bytes, K, M or G: a list of sizes and of ranges such as 4..64M or 1K..1M*2
    /// [default: 4..64M]
    #[arg(short = 's', long, value_name = "LIST", conflicts_with_all = ["first", "last", "factor"])]
    pub(super) sizes: Option<SizeList>,

    /// Smallest size of a range, as in nccl-tests
    #[arg(short = 'b', long = "minbytes", id = "first", value_name = "SIZE", value_parser = parse_size)]
    pub(super) first: Option<u64>,

    /// Largest size of a range, as in nccl-tests
    #[arg(short = 'e', long = "maxbytes", id = "last", value_name = "SIZE", value_parser = parse_size)]
    pub(super) last: Option<u64>,

    /// Factor from one size of a range to the next, as in nccl-tests
    #[arg(short = 'f', long = "stepfactor", id = "factor", value_name = "FACTOR")]
    pub(super) factor: Option<u64>,

    /// Element type: f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8 or bool
    #[arg(short = 'd', long, value_name = "TYPE", default_value = "f32")]
    pub(super) dtype: DType,

    /// Reduction: sum, avg, min, max, prod, band, bor, bxor, land, lor or lxor
    #[arg(short = 'o', long, value_name = "OP", default_value = "sum")]
    pub(super) op: ReduceOp,

    /// Algorithm; the library chooses by size where it cannot be used [default: auto]
    #[arg(long, value_name = "NAME")]
    pub(super) algorithm: Option<AlgorithmChoice>,

    /// Separate buffers for input and output
    #[arg(long)]
    pub(super) out_of_place: bool,

    /// All-reduce the gradients of one backward pass of a model: resnet50, vgg16, inception_v3,
    /// bert_large or gpt2
    #[arg(long, value_name = "NAME", conflicts_with_all = ["sizes", "first", "last", "factor", "out_of_place"])]
    pub(super) model: Option<String>,

    /// Submit all-reduces to the queue and wait for them: sizes only so, models also so
    #[arg(long = "async", id = "async", conflicts_with = "out_of_place")]
    pub(super) queued: bool,

    /// Largest bucket into which gradients are fused, or which the queue carries out at once
    /// [default: 128M, 16M in the queue]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) fusion_threshold: Option<u64>,

    /// Rounds of each measurement
    #[arg(long, value_name = "N", default_value = "5", value_parser = at_least_one::<NonZeroU32>, allow_negative_numbers = true)]
    pub(super) rounds: NonZeroU32,

    /// Operations of a round [default: as many as --min-time allows]
    #[arg(long, value_name = "N", value_parser = at_least_one::<NonZeroU64>, allow_negative_numbers = true)]
    pub(super) iterations: Option<NonZeroU64>,

    /// Shortest time of a round [default: 0.1]
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds, conflicts_with = "iterations", allow_negative_numbers = true)]
    pub(super) min_time: Option<Duration>,

    /// Operations before the first that counts; more until 20 ms have passed
    #[arg(long, value_name = "N", default_value = "1")]
    pub(super) warmup: u64,

    /// Which results are compared with the exact answer
    #[arg(long, value_name = "WHICH", default_value = "every")]
    pub(super) check: CheckChoice,

    /// Write the record to a file, each row as soon as it is measured; - is standard output, where all
    /// of it goes in the end and nothing else
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Measure another library between the rounds and compare: mpi, gloo or horovod. Results are
    /// then checked once, before the rounds, as if by --check first
    #[arg(long, value_name = "NAME")]
    pub(super) peer: Option<PeerName>,

    /// The Python in which gloo (torch) or horovod is installed
    #[arg(long, value_name = "PROGRAM", default_value = "python3", requires = "peer")]
    pub(super) peer_python: String,

    /// Draw the distribution of times
    #[arg(long)]
    pub(super) histogram: bool,

    /// Say which algorithm is used from which size on
    #[arg(long)]
    pub(super) explain: bool,

    #[command(flatten)]
    pub(super) settings: Settings<BenchSettings>,

    /// Columns of the terminal that the launching process writes standard output to
    #[arg(long, hide = true)]
    pub(super) stdout_columns: Option<usize>,

    /// The same for standard error
    #[arg(long, hide = true)]
    pub(super) stderr_columns: Option<usize>,
}

/// The settings of `paceline bench` that mean the same for `paceline run`.
#[derive(Debug)]
pub(crate) struct BenchSettings;

impl Selection for BenchSettings {
    const GROUPS: &'static [(&'static str, &'static [Variable])] = &[(
        "Ranks",
        &[
            env::NP,
            env::HOSTS,
            env::HOSTFILE,
            env::NNODES,
            env::NPROC_PER_NODE,
            env::MAP_BY,
            env::RANK_FILE,
            env::SSH_PORT,
            env::SSH_IDENTITY_FILE,
            env::SSH_OPTIONS,
            env::REMOTE_PROGRAM,
            env::COPY_BINARY,
            env::START_TIMEOUT,
            env::TIMEOUT,
            env::INTERFACE,
            env::PORT_RANGE,
            env::SOCKETS,
            env::TUNE,
            env::PLAN,
            env::DETERMINISTIC,
            env::CHECKSUM,
            env::TIMELINE,
            env::METRICS_PORT,
            env::CONFIG,
        ],
    )];
}

fn at_least_one<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a whole number, at least 1".to_owned())
}

/// A number of seconds, more than 0.
fn positive_seconds(text: &str) -> Result<Duration, String> {
    if Form::PositiveSeconds.accepts(text)
        && let Some(time) =
            text.parse().ok().and_then(|time| Duration::try_from_secs_f64(time).ok())
    {
        return Ok(time);
    }
    Err("expected a positive number of seconds".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  paceline bench all_reduce -np 4
  paceline bench all_reduce -np 4 --model resnet50
  paceline bench all_gather -np 2 --transport tcp --sizes 1K..16M*2 --dtype bf16 --histogram
  paceline bench -np 2 --json result.json
  paceline bench all_gather -np 4 --transport shm --peer mpi

Columns: times of one operation on the slowest rank; algbw = size / mean; busbw as nccl-tests
defines it; floor: the share that the best bare exchange of the same bytes over the same transport
would have taken; CPU: seconds per GiB of size and rank; wrong: elements that differ from the exact
answer. Exit code 1 if there are any.";

/// What `--peer` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PeerName {
    /// MPI's collectives, under mpirun
    Mpi,
    /// Gloo, as torch.distributed has it
    Gloo,
    /// Horovod over Gloo
    Horovod,
}

impl PeerName {
    /// Its spelling.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mpi => "mpi",
            Self::Gloo => "gloo",
            Self::Horovod => "horovod",
        }
    }
}

/// What `--transport` selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransportSelection {
    /// Each that can be used.
    All,
    /// What the library would choose, or one in particular.
    One(TransportChoice),
}

impl TransportSelection {
    /// The transports to try, in the order of the report. On several nodes those of one node are used
    /// beside that between nodes, as the library would choose.
    pub(super) fn choices(self, on_one_node: bool) -> Vec<TransportChoice> {
        let tcp = TransportChoice::Only(TransportKind::Tcp);
        match self {
            Self::All if on_one_node => vec![tcp, TransportChoice::Only(TransportKind::Shm)],
            Self::All => vec![tcp, TransportChoice::Auto],
            Self::One(choice) => vec![choice],
        }
    }
}

impl FromStr for TransportSelection {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "all" {
            return Ok(Self::All);
        }
        name.parse()
            .map(Self::One)
            // A transport that this build lacks says so itself.
            .map_err(|error: SetupError| match name {
                "mpi" => error.to_string(),
                _ => format!("unknown transport {name:?}; expected all, auto, tcp, shm or mpi"),
            })
    }
}

/// What `--algorithm` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AlgorithmChoice(pub(super) Option<Algorithm>);

impl FromStr for AlgorithmChoice {
    type Err = paceline_collectives::plan::ParseAlgorithmError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self(None)),
            name => name.parse().map(|algorithm| Self(Some(algorithm))),
        }
    }
}

/// A whole `--sizes` argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SizeList(pub(super) Vec<u64>);

impl FromStr for SizeList {
    type Err = ParseSizesError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        parse_sizes(list).map(Self)
    }
}

/// [`Check`] on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CheckChoice {
    /// All of them; neither filling nor checking is timed
    Every,
    /// That of the first operation
    First,
    /// None
    Off,
}

impl From<CheckChoice> for Check {
    fn from(choice: CheckChoice) -> Self {
        match choice {
            CheckChoice::Every => Self::Every,
            CheckChoice::First => Self::First,
            CheckChoice::Off => Self::Off,
        }
    }
}

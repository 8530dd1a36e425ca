//! The table of variables.

use super::{CommandOption, Form, Owner, Reader, Scope, Variable};

/// What the options of the table have in common unless they say something else.
const PLAIN: CommandOption = CommandOption {
    name: "",
    short: None,
    aliases: &[],
    value_name: "TEXT",
    form: Form::Text,
    reader: Reader::Launcher,
};

/// Declares the variables as constants and collects them in `ALL`, so that neither can be
/// forgotten and the doc comment is the documentation that `paceline` prints.
macro_rules! variables {
    ($($(#[doc = $doc:literal])+ $constant:ident = $name:literal $owner:ident $scope:ident
        ($expected:literal $(, default $default:literal)?)
        $(option { $($option:tt)* })? $(horovod $horovod:literal)?;)*) => {
        $($(#[doc = $doc])+
        pub const $constant: Variable = Variable {
            name: $name,
            owner: Owner::$owner,
            scope: Scope::$scope,
            expected: $expected,
            default: variables!(@optional $($default)?),
            option: variables!(@option $($($option)*)?),
            horovod: variables!(@optional $($horovod)?),
            doc: concat!($($doc, "\n"),+),
        };)*

        /// Every variable that Paceline reads or sets.
        pub const ALL: &[Variable] = &[$($constant),*];
    };
    (@optional) => { None };
    (@optional $value:literal) => { Some($value) };
    (@option) => { None };
    (@option $($field:tt)+) => { Some(CommandOption { $($field)+, ..PLAIN }) };
}

variables! {
    /// Index of this process among all processes of the job.
    RANK = "PACELINE_RANK" Paceline Identity ("a whole number below PACELINE_WORLD_SIZE");
    /// Number of processes of the job.
    WORLD_SIZE = "PACELINE_WORLD_SIZE" Paceline Identity ("a whole number, at least 1");
    /// Index of this process among those of the job on the same node.
    LOCAL_RANK = "PACELINE_LOCAL_RANK" Paceline Identity
        ("a whole number below PACELINE_LOCAL_SIZE");
    /// Number of processes of the job on this node.
    LOCAL_SIZE = "PACELINE_LOCAL_SIZE" Paceline Identity ("a whole number, at least 1");
    /// Index of this node among the nodes of the job.
    NODE_RANK = "PACELINE_NODE_RANK" Paceline Identity
        ("a whole number below PACELINE_NODE_COUNT");
    /// Number of nodes of the job.
    NODE_COUNT = "PACELINE_NODE_COUNT" Paceline Identity ("a whole number, at least 1");
    /// Number of this run, equal on all ranks; part of every handshake. Without it the ranks
    /// derive one from the secret.
    RUN_ID = "PACELINE_RUN_ID" Paceline Identity ("32 hexadecimal digits");
    /// Number of the present membership of the job; grows by one whenever ranks are replaced.
    EPOCH = "PACELINE_EPOCH" Paceline Identity ("a whole number", default "0");
    /// The device of this rank: none, a local GPU by its UUID, or a lease of a remote one, with
    /// the share of it that the rank may use.
    DEVICE = "PACELINE_DEVICE" Paceline Identity
        ("none, local:UUID@FRACTION or remote:LEASE@FRACTION", default "none");
    /// Where the ranks meet: the address of the coordinator (rank 0 listens there when no
    /// launcher of ours does), or a directory that all ranks see and in which rank 0 leaves its
    /// address.
    RENDEZVOUS = "PACELINE_RENDEZVOUS" Paceline Identity
        ("HOST:PORT, [IPV6]:PORT or file:DIRECTORY");
    /// File of mode 0600 with the secret of the run: 64 hexadecimal digits.
    SECRET_FILE = "PACELINE_SECRET_FILE" Paceline Identity ("the path of a file");
    /// Process id of the agent that started this rank. Where it is set, the coordinator belongs
    /// to the launcher and rank 0 does not start one.
    AGENT_PID = "PACELINE_AGENT_PID" Paceline Identity ("a process id");
    /// Longest time that one operation may take.
    TIMEOUT = "PACELINE_TIMEOUT" Paceline Setting ("a positive number of seconds", default "60")
        option {
            name: "op-timeout",
            aliases: &["gloo-timeout-seconds"],
            value_name: "SECONDS",
            form: Form::PositiveSeconds,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_GLOO_TIMEOUT_SECONDS";
    /// Longest time from the start of a process until all ranks have met.
    START_TIMEOUT = "PACELINE_START_TIMEOUT" Paceline Setting
        ("a positive number of seconds", default "30")
        option {
            name: "start-timeout",
            value_name: "SECONDS",
            form: Form::PositiveSeconds,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_START_TIMEOUT";
    /// Warn, once per operation, when ranks have waited for so long in one; 0 turns it off. The
    /// operation goes on.
    STALL_REPORT = "PACELINE_STALL_REPORT" Paceline Setting
        ("a number of seconds, 0 or more", default "10")
        option {
            name: "stall-report",
            aliases: &["stall-check-warning-time-seconds"],
            value_name: "SECONDS",
            form: Form::Seconds,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_STALL_CHECK_TIME_SECONDS";
    /// The transport between ranks.
    TRANSPORT = "PACELINE_TRANSPORT" Paceline Setting
        ("auto or the name of a transport", default "auto")
        option { name: "transport", value_name: "NAME", reader: Reader::Ranks };
    /// The algorithm of the collectives; without it the library chooses by size and world.
    ALGORITHM = "PACELINE_ALGORITHM" Paceline Setting
        ("auto or the name of an algorithm", default "auto")
        option { name: "algorithm", value_name: "NAME", reader: Reader::Ranks };
    /// TCP sockets to each peer. With auto one, and where the links are measured as many of up to four as
    /// make them faster.
    SOCKETS = "PACELINE_SOCKETS" Paceline Setting ("auto or a number, 1 to 16", default "auto")
        option {
            name: "sockets",
            value_name: "COUNT",
            form: Form::AutoOr(1, 16),
            reader: Reader::Ranks
        };
    /// Whether the ranks measure the speed of their links at the start, and plan for it: auto does where
    /// they are on several nodes.
    TUNE = "PACELINE_TUNE" Paceline Setting ("auto, on or off", default "auto")
        option {
            name: "tune",
            value_name: "WHEN",
            form: Form::OneOf(&["auto", "on", "off"]),
            reader: Reader::Ranks
        };
    /// File with the numbers that the choice of algorithms depends on. Without it the ranks measure,
    /// and rank 0 writes it for the next time.
    PLAN = "PACELINE_PLAN" Paceline Setting ("the path of a file")
        option { name: "plan", value_name: "FILE", reader: Reader::Ranks };
    /// What the bits of a result may depend on: the plan, or with any-plan neither algorithm nor
    /// transport nor nodes.
    DETERMINISTIC = "PACELINE_DETERMINISTIC" Paceline Setting
        ("plan or any-plan", default "plan")
        option {
            name: "deterministic",
            value_name: "HOW",
            form: Form::OneOf(&["plan", "any-plan"]),
            reader: Reader::Ranks
        };
    /// Checksum of each frame that ranks send each other, to notice bytes that change on the way; it costs
    /// time. Collectives in memory that the ranks of a node share send none.
    CHECKSUM = "PACELINE_CHECKSUM" Paceline Setting ("none or crc32c", default "none")
        option {
            name: "checksum",
            value_name: "NAME",
            form: Form::OneOf(&["none", "crc32c"]),
            reader: Reader::Ranks
        };
    /// The network interface to use, by name or as an address range that contains its address. Jobs on
    /// several hosts take several, of which a host uses the first that it has, and HOST=NAME for one host;
    /// without it they try all networks that their hosts have in common.
    INTERFACE = "PACELINE_INTERFACE" Paceline Setting
        ("the name of an interface, ADDRESS/PREFIX, or several of them between commas")
        option {
            name: "interface",
            aliases: &["network-interface", "network-interfaces"],
            value_name: "[HOST=]NAME|CIDR,...",
            reader: Reader::Ranks
        }
        horovod "HOROVOD_GLOO_IFACE";
    /// The TCP ports that a rank may listen on; 0 lets the kernel choose.
    PORT_RANGE = "PACELINE_PORT_RANGE" Paceline Setting
        ("a port or a range such as 40000-40100", default "0")
        option {
            name: "port-range",
            value_name: "FIRST-LAST",
            form: Form::Ports,
            reader: Reader::Ranks
        };
    /// File for a timeline of the job: what happens when, on all ranks. Perfetto and Chrome show it.
    TIMELINE = "PACELINE_TIMELINE" Paceline Setting ("the path of a file")
        option {
            name: "timeline",
            aliases: &["timeline-filename"],
            value_name: "FILE",
            reader: Reader::Ranks
        }
        horovod "HOROVOD_TIMELINE";
    /// Bytes up to which tensors are collected into one operation; 0 turns fusion off.
    FUSION_THRESHOLD = "PACELINE_FUSION_THRESHOLD" Paceline Setting
        ("a number of bytes, or one with K, M or G behind it")
        option {
            name: "fusion-threshold",
            value_name: "SIZE",
            form: Form::Bytes,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_FUSION_THRESHOLD";
    /// Time from one round of a queue to the next in which a rank collects submissions.
    CYCLE_TIME = "PACELINE_CYCLE_TIME" Paceline Setting
        ("a number of milliseconds, 0 or more", default "0")
        option {
            name: "cycle-time",
            aliases: &["cycle-time-ms"],
            value_name: "MILLISECONDS",
            form: Form::Milliseconds,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_CYCLE_TIME";
    /// Tensors that the response cache of a queue has room for.
    CACHE_CAPACITY = "PACELINE_CACHE_CAPACITY" Paceline Setting
        ("a whole number", default "1024")
        option {
            name: "cache-capacity",
            value_name: "COUNT",
            form: Form::Whole,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_CACHE_CAPACITY";
    /// How long a tensor waits in a queue for ranks that have not submitted it when that is first
    /// reported, and between reports; 0 turns it off.
    STALL_CHECK_TIME = "PACELINE_STALL_CHECK_TIME" Paceline Setting
        ("a number of seconds, 0 or more", default "10")
        option {
            name: "stall-check-time",
            value_name: "SECONDS",
            form: Form::Seconds,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_STALL_CHECK_TIME_SECONDS";
    /// How long a tensor may wait in a queue for ranks that have not submitted it; without, as long
    /// as an operation may take.
    STALL_SHUTDOWN_TIME = "PACELINE_STALL_SHUTDOWN_TIME" Paceline Setting
        ("a number of seconds, 0 or more", default "0")
        option {
            name: "stall-shutdown-time",
            aliases: &["stall-check-shutdown-time-seconds"],
            value_name: "SECONDS",
            form: Form::Seconds,
            reader: Reader::Ranks
        }
        horovod "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS";
    /// Number of ranks.
    NP = "PACELINE_NP" Paceline Setting ("a whole number, at least 1")
        option {
            name: "np",
            short: Some('n'),
            aliases: &["num-proc"],
            value_name: "N",
            form: Form::Count
        };
    /// Hosts and their slots, as in a:4,b:4, rack[1-2]n[01-16]:8 or with devices a:@0+1. With a hostfile,
    /// those of its hosts to use.
    HOSTS = "PACELINE_HOSTS" Paceline Setting ("hosts and their slots, separated by commas")
        option {
            name: "hosts",
            short: Some('H'),
            aliases: &["host"],
            value_name: "HOST[:SLOTS],..."
        };
    /// The port of sshd on the other hosts, where ssh's own configuration does not say.
    SSH_PORT = "PACELINE_SSH_PORT" Paceline Setting ("a port, 1 to 65535")
        option { name: "ssh-port", short: Some('p'), value_name: "PORT", form: Form::Port };
    /// The private key to log in to other hosts with.
    SSH_IDENTITY_FILE = "PACELINE_SSH_IDENTITY_FILE" Paceline Setting ("the path of a file")
        option { name: "ssh-identity-file", short: Some('i'), value_name: "FILE" };
    /// Options as for ssh -o, separated by spaces, as in "ProxyJump=gate ConnectTimeout=3".
    SSH_OPTIONS = "PACELINE_SSH_OPTIONS" Paceline Setting ("NAME=VALUE, separated by spaces")
        option { name: "ssh-options", value_name: "NAME=VALUE..." };
    /// Where paceline is on other hosts. Without it: at the path that it has here, or in the PATH
    /// there.
    REMOTE_PROGRAM = "PACELINE_REMOTE_PROGRAM" Paceline Setting ("the path of a file")
        option { name: "remote-program", value_name: "PATH" };
    /// Copy this binary to the other hosts, where they do not have it yet, and use the copies.
    COPY_BINARY = "PACELINE_COPY_BINARY" Paceline Setting ("true or false", default "false")
        option { name: "copy-binary", form: Form::Switch };
    /// File with a host on each line, as HOST slots=4 or HOST:4; ^HOST leaves one out.
    HOSTFILE = "PACELINE_HOSTFILE" Paceline Setting ("the path of a file")
        option { name: "hostfile", aliases: &["machinefile"], value_name: "FILE" };
    /// Use so many of the hosts, the first ones.
    NNODES = "PACELINE_NNODES" Paceline Setting ("a whole number, at least 1")
        option { name: "nnodes", value_name: "N", form: Form::Count };
    /// Ranks of each host; a host without a number of slots has as many.
    NPROC_PER_NODE = "PACELINE_NPROC_PER_NODE" Paceline Setting ("a whole number, at least 1")
        option {
            name: "nproc-per-node",
            aliases: &["nproc_per_node", "npernode", "ppn"],
            value_name: "N",
            form: Form::Count
        };
    /// How ranks are dealt to hosts: slot fills one host after the other, node gives each one in turn.
    MAP_BY = "PACELINE_MAP_BY" Paceline Setting ("slot or node", default "slot")
        option { name: "map-by", value_name: "ORDER", form: Form::OneOf(&["slot", "node"]) };
    /// File that says where each rank runs, on lines as rank 0=HOST.
    RANK_FILE = "PACELINE_RANK_FILE" Paceline Setting ("the path of a file")
        option { name: "rank-file", aliases: &["rankfile"], value_name: "FILE" };
    /// GPUs of each host, as in a:0+1,b:2, or 0+1 for those of every host: numbers as nvidia-smi has
    /// them, or UUIDs of GPUs and of their parts (MIG). Each rank gets one.
    GPUS = "PACELINE_GPUS" Paceline Setting ("hosts and their GPUs, as in a:0+1,b:2")
        option { name: "gpus", value_name: "HOST:GPU+GPU,..." };
    /// Share of a GPU that each rank gets: a part of it where it is divided (MIG), else limits for MPS,
    /// which must run there.
    GPU_FRACTION = "PACELINE_GPU_FRACTION" Paceline Setting
        ("a number above 0 and up to 1, such as 0.5", default "1")
        option { name: "gpu-fraction", value_name: "SHARE" };
    /// Which GPUs a rank sees: those of all ranks of its host, its own being that with the number of its
    /// local rank, or its own alone. With parts of GPUs always its own.
    GPU_VISIBILITY = "PACELINE_GPU_VISIBILITY" Paceline Setting ("host or rank", default "host")
        option { name: "gpu-visibility", value_name: "WHOSE", form: Form::OneOf(&["host", "rank"]) };
    /// Bind each rank to cores of its own, or to a NUMA node: that of its GPU, where it has one.
    BIND_TO = "PACELINE_BIND_TO" Paceline Setting ("none, core or numa", default "none")
        option { name: "bind-to", value_name: "WHAT", form: Form::OneOf(&["none", "core", "numa"]) };
    /// Command to run each rank under, as "numactl --localalloc --": the program follows it. {rank},
    /// {local_rank} and {host} stand for those of the rank.
    WRAP = "PACELINE_WRAP" Paceline Setting ("a command")
        option { name: "wrap", value_name: "COMMAND" };
    /// Give the ranks TF_CONFIG, by which TensorFlow's workers find each other.
    TENSORFLOW = "PACELINE_TF_CONFIG" Paceline Setting ("true or false", default "false")
        option { name: "tf-config", form: Form::Switch };
    /// Time between SIGTERM and SIGKILL when ranks are stopped.
    GRACE = "PACELINE_GRACE" Paceline Setting ("a number of seconds, 0 or more", default "10")
        option { name: "grace", value_name: "SECONDS", form: Form::Seconds };
    /// Stop the job after this time.
    JOB_TIMEOUT = "PACELINE_JOB_TIMEOUT" Paceline Setting ("a positive number of seconds")
        option { name: "timeout", value_name: "SECONDS", form: Form::PositiveSeconds };
    /// When a time limit ends the job, tell what the ranks' threads are doing: from /proc, and by gdb or
    /// py-spy where the host has them.
    STACKS_ON_TIMEOUT = "PACELINE_STACKS_ON_TIMEOUT" Paceline Setting
        ("true or false", default "false")
        option { name: "stacks-on-timeout", form: Form::Switch };
    /// Serve metrics in Prometheus' format at this port of 127.0.0.1; 0 takes any that is free.
    METRICS_PORT = "PACELINE_METRICS_PORT" Paceline Setting ("a port, or 0")
        option { name: "metrics-port", value_name: "PORT", form: Form::Ports };
    /// File for what happens in the job, as JSON, one event in a line: agents and ranks come and go, why
    /// it ends.
    EVENTS = "PACELINE_EVENTS" Paceline Setting ("the path of a file")
        option { name: "events", value_name: "FILE" };
    /// Also write DIR/rank.NN/stdout and DIR/rank.NN/stderr.
    OUTPUT_DIRECTORY = "PACELINE_OUTPUT_DIRECTORY" Paceline Setting ("the path of a directory")
        option { name: "output-filename", aliases: &["log-dir"], value_name: "DIR" };
    /// What stands before each line of output: text with the fields {rank}, {local_rank}, {host} and {time}
    /// (HH:MM:SS.mmm); {{ and }} are braces.
    OUTPUT_PREFIX = "PACELINE_OUTPUT_PREFIX" Paceline Setting
        ("text with fields such as {rank}", default "[{rank}] ")
        option { name: "output-prefix", value_name: "TEMPLATE" };
    /// Put nothing before the lines of output, whatever the prefix is.
    NO_PREFIX = "PACELINE_NO_PREFIX" Paceline Setting ("true or false", default "false")
        option { name: "no-prefix", form: Form::Switch };
    /// Show the output of these ranks only; files and reports have that of all.
    SHOW_RANKS = "PACELINE_SHOW_RANKS" Paceline Setting ("ranks such as 0,3-5")
        option { name: "show-ranks", value_name: "LIST", form: Form::RankList };
    /// Show a line once that several ranks print within 0.1 s, as [0-63]: auto does so on a terminal. Files
    /// have it of each rank.
    FOLD = "PACELINE_FOLD" Paceline Setting ("auto, on or off", default "auto")
        option { name: "fold", value_name: "WHEN", form: Form::OneOf(&["auto", "on", "off"]) };
    /// Who gets our standard input: none, all, or the number of a rank.
    STDIN = "PACELINE_STDIN" Paceline Setting
        ("none, all or the number of a rank", default "none")
        option { name: "stdin", value_name: "WHO", form: Form::Ranks };
    /// Another launcher whose variables the ranks get, too (beside ours, Horovod's and torch's):
    /// ompi.
    ENV_DIALECT = "PACELINE_ENV_DIALECT" Paceline Setting ("ompi")
        option { name: "env-dialect", value_name: "NAME", form: Form::OneOf(&["ompi"]) };
    /// Say nothing about decisions made for you.
    QUIET = "PACELINE_QUIET" Paceline Setting ("true or false", default "false")
        option { name: "quiet", short: Some('q'), form: Form::Switch };
    /// A file with settings, in TOML: keys are named as the options are; or, with a name that ends in
    /// .yaml or .yml, horovodrun's.
    CONFIG = "PACELINE_CONFIG" Paceline Setting ("the path of a file")
        option { name: "config", aliases: &["config-file"], value_name: "FILE" };

    /// Rank; set for Horovod programs.
    HOROVOD_RANK = "HOROVOD_RANK" Horovod Identity ("a whole number below HOROVOD_SIZE");
    /// World size; set for Horovod programs.
    HOROVOD_SIZE = "HOROVOD_SIZE" Horovod Identity ("a whole number, at least 1");
    /// Rank on the node.
    HOROVOD_LOCAL_RANK = "HOROVOD_LOCAL_RANK" Horovod Identity
        ("a whole number below HOROVOD_LOCAL_SIZE");
    /// Ranks on the node.
    HOROVOD_LOCAL_SIZE = "HOROVOD_LOCAL_SIZE" Horovod Identity ("a whole number, at least 1");
    /// Index of the node among those that have this local rank.
    HOROVOD_CROSS_RANK = "HOROVOD_CROSS_RANK" Horovod Identity
        ("a whole number below HOROVOD_CROSS_SIZE");
    /// Number of nodes that have this local rank.
    HOROVOD_CROSS_SIZE = "HOROVOD_CROSS_SIZE" Horovod Identity ("a whole number, at least 1");
    /// Address of the rendezvous server of `horovodrun`; with the port it tells jobs apart.
    HOROVOD_GLOO_RENDEZVOUS_ADDR = "HOROVOD_GLOO_RENDEZVOUS_ADDR" Horovod Identity ("an address");
    /// Port of the rendezvous server of `horovodrun`.
    HOROVOD_GLOO_RENDEZVOUS_PORT = "HOROVOD_GLOO_RENDEZVOUS_PORT" Horovod Identity ("a port");

    /// Rank; set for PyTorch programs.
    TORCH_RANK = "RANK" Torch Identity ("a whole number below WORLD_SIZE");
    /// World size; set for PyTorch programs.
    TORCH_WORLD_SIZE = "WORLD_SIZE" Torch Identity ("a whole number, at least 1");
    /// Rank on the node.
    TORCH_LOCAL_RANK = "LOCAL_RANK" Torch Identity ("a whole number below LOCAL_WORLD_SIZE");
    /// Ranks on the node.
    TORCH_LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE" Torch Identity ("a whole number, at least 1");
    /// Index of the node.
    TORCH_GROUP_RANK = "GROUP_RANK" Torch Identity ("a whole number below GROUP_WORLD_SIZE");
    /// Number of nodes.
    TORCH_GROUP_WORLD_SIZE = "GROUP_WORLD_SIZE" Torch Identity ("a whole number, at least 1");
    /// Rank within a role; we have one role, so it equals the rank.
    TORCH_ROLE_RANK = "ROLE_RANK" Torch Identity ("a whole number below ROLE_WORLD_SIZE");
    /// Ranks of a role; we have one role, so it equals the world size.
    TORCH_ROLE_WORLD_SIZE = "ROLE_WORLD_SIZE" Torch Identity ("a whole number, at least 1");
    /// Host of PyTorch's own store. It belongs to the user's framework: we never listen there,
    /// it only helps to tell jobs apart.
    TORCH_MASTER_ADDR = "MASTER_ADDR" Torch Identity ("a host");
    /// Port of PyTorch's own store; see MASTER_ADDR.
    TORCH_MASTER_PORT = "MASTER_PORT" Torch Identity ("a port");
    /// Name of the job under `torchrun`.
    TORCHELASTIC_RUN_ID = "TORCHELASTIC_RUN_ID" Torch Identity ("a name");
    /// How often `torchrun` has restarted the job.
    TORCHELASTIC_RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT" Torch Identity ("a whole number");

    /// Where the processes of `jax.distributed.initialize` meet; rank 0 listens there, not we.
    JAX_COORDINATOR_ADDRESS = "JAX_COORDINATOR_ADDRESS" Jax Identity ("HOST:PORT");
    /// World size; set for JAX programs.
    JAX_NUM_PROCESSES = "JAX_NUM_PROCESSES" Jax Identity ("a whole number, at least 1");
    /// Rank; set for JAX programs.
    JAX_PROCESS_ID = "JAX_PROCESS_ID" Jax Identity ("a whole number below JAX_NUM_PROCESSES");
    /// Which of the GPUs that it sees is this process's; set for JAX programs where GPUs are listed.
    JAX_LOCAL_DEVICE_IDS = "JAX_LOCAL_DEVICE_IDS" Jax Identity ("a whole number");
    /// The cluster of TensorFlow's workers and the place of this process in it; set with
    /// --tf-config.
    TF_CONFIG = "TF_CONFIG" TensorFlow Setting ("JSON");

    /// Rank under `mpirun`.
    OMPI_RANK = "OMPI_COMM_WORLD_RANK" OpenMpi Identity
        ("a whole number below OMPI_COMM_WORLD_SIZE");
    /// World size under `mpirun`.
    OMPI_SIZE = "OMPI_COMM_WORLD_SIZE" OpenMpi Identity ("a whole number, at least 1");
    /// Rank on the node.
    OMPI_LOCAL_RANK = "OMPI_COMM_WORLD_LOCAL_RANK" OpenMpi Identity
        ("a whole number below OMPI_COMM_WORLD_LOCAL_SIZE");
    /// Ranks on the node.
    OMPI_LOCAL_SIZE = "OMPI_COMM_WORLD_LOCAL_SIZE" OpenMpi Identity
        ("a whole number, at least 1");
    /// Rank on the node, counted over all jobs of one `mpirun`.
    OMPI_NODE_RANK = "OMPI_COMM_WORLD_NODE_RANK" OpenMpi Identity ("a whole number");
    /// Name of the job under PMIx; tells jobs of `mpirun` apart.
    PMIX_NAMESPACE = "PMIX_NAMESPACE" OpenMpi Identity ("a name");
    /// Number of the job under Open MPI.
    OMPI_JOB_ID = "OMPI_MCA_ess_base_jobid" OpenMpi Identity ("a number");

    /// Rank under a PMI launcher.
    PMI_RANK = "PMI_RANK" Pmi Identity ("a whole number below PMI_SIZE");
    /// World size under a PMI launcher.
    PMI_SIZE = "PMI_SIZE" Pmi Identity ("a whole number, at least 1");
    /// Rank on the node under Hydra.
    MPI_LOCAL_RANK = "MPI_LOCALRANKID" Pmi Identity ("a whole number below MPI_LOCALNRANKS");
    /// Ranks on the node under Hydra.
    MPI_LOCAL_SIZE = "MPI_LOCALNRANKS" Pmi Identity ("a whole number, at least 1");
    /// Name of the job under PMI.
    PMI_JOB_ID = "PMI_JOBID" Pmi Identity ("a name");

    /// Number of the job; an allocation, in which several steps may run.
    SLURM_JOB_ID = "SLURM_JOB_ID" Slurm Setting ("a number");
    /// Number of the step. Only inside a step do the other variables describe a rank.
    SLURM_STEP_ID = "SLURM_STEP_ID" Slurm Identity ("a number");
    /// The older name of SLURM_STEP_ID.
    SLURM_STEPID = "SLURM_STEPID" Slurm Identity ("a number");
    /// Rank in the step.
    SLURM_PROCID = "SLURM_PROCID" Slurm Identity ("a whole number below SLURM_NTASKS");
    /// Tasks of the step.
    SLURM_STEP_NUM_TASKS = "SLURM_STEP_NUM_TASKS" Slurm Identity ("a whole number, at least 1");
    /// Tasks of the job, or of the step where SLURM_STEP_NUM_TASKS is missing.
    SLURM_NTASKS = "SLURM_NTASKS" Slurm Setting ("a whole number, at least 1");
    /// Rank on the node.
    SLURM_LOCALID = "SLURM_LOCALID" Slurm Identity ("a whole number");
    /// Tasks of the step on each node.
    SLURM_STEP_TASKS_PER_NODE = "SLURM_STEP_TASKS_PER_NODE" Slurm Identity
        ("a list such as 2(x3),1");
    /// Index of the node.
    SLURM_NODEID = "SLURM_NODEID" Slurm Identity ("a whole number below SLURM_NNODES");
    /// Nodes of the step.
    SLURM_STEP_NUM_NODES = "SLURM_STEP_NUM_NODES" Slurm Identity ("a whole number, at least 1");
    /// Nodes of the job.
    SLURM_NNODES = "SLURM_NNODES" Slurm Setting ("a whole number, at least 1");

    /// Directory of the user for files that live as long as the login; automatic job
    /// directories are made there, or else under /tmp.
    XDG_RUNTIME_DIR = "XDG_RUNTIME_DIR" System Setting ("the path of a directory");
    /// Directories in which programs are looked up.
    PATH = "PATH" System Setting ("paths separated by colons");
    /// The home directory.
    HOME = "HOME" System Setting ("the path of a directory");
    /// The kind of terminal; "dumb" turns progress lines off.
    TERM = "TERM" System Setting ("the name of a terminal");
    /// The locale; if it names UTF-8, bars are drawn with block characters.
    LC_ALL = "LC_ALL" System Setting ("a locale");
    /// The locale of characters, where LC_ALL is not set.
    LC_CTYPE = "LC_CTYPE" System Setting ("a locale");
    /// The locale where neither LC_ALL nor LC_CTYPE is set.
    LANG = "LANG" System Setting ("a locale");
    /// Any value turns colours off.
    NO_COLOR = "NO_COLOR" System Setting ("any text");
}

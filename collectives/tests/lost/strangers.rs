//! Strangers at every door of a job, while ranks make contexts and reduce: the port of the coordinator,
//! the ports that ranks open to each other, and the sockets by which they share memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use paceline_collectives::{Context, ContextOptions, ReduceOp};
use paceline_rendezvous::hello::{HELLO_LEN, MAGIC, PROTOCOL_VERSION};
use paceline_rendezvous::{ProcessEnvironment, env};

use super::{END, end_well, twice, until_running};
use crate::processes::{PATIENCE, Rank, Site, directory, say};

const WORLD_SIZE: u32 = 3;

/// Ports that the ranks may use: more than they need, as some may be in use.
const PORTS: u16 = 16;

/// Longer than any machine needs to hang up on somebody: the handshake may take five seconds.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(40);

/// How often each manner is tried at each kind of door, at least.
const TIMES: u32 = 2;

/// Makes one context after the other and works in each, until the test says that it is enough.
pub(super) fn make_contexts(first: &Context) {
    let options = ContextOptions::from_environment(&ProcessEnvironment).unwrap();
    let (first_communicator, end) = (first.communicator().unwrap(), directory().join(END));
    let mut contexts = 0;
    loop {
        let mut is_over = [u8::from(first.rank() == 0 && end.exists())];
        first_communicator.broadcast(&mut is_over, 0).unwrap();
        if is_over == [1] {
            break;
        }
        let context = Context::new(first.job(), &options).unwrap();
        let mut sum = vec![1i32; 100_000];
        context.communicator().unwrap().all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        assert!(sum.iter().all(|sum| *sum == 3), "context {contexts}");
        contexts += 1;
        if contexts == 1 {
            say("in full swing", "");
        }
    }
    say("ended after ", contexts);
}

/// What a stranger does who knows nothing, or nearly nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    /// Says nothing.
    Silent,
    /// Never finishes its first message.
    Hesitant,
    /// Sends bytes that mean nothing.
    Garbage,
    /// Asks for a web page.
    Web,
    /// Begins as a rank of this version would, and goes on with a frame that claims four gigabytes.
    Oversize,
    /// Speaks a version that does not exist yet.
    Newer,
}

impl Manner {
    const ALL: [Self; 6] =
        [Self::Silent, Self::Hesitant, Self::Garbage, Self::Web, Self::Oversize, Self::Newer];

    fn bytes(self) -> Vec<u8> {
        let hello = |version: u16| [&MAGIC[..], &version.to_le_bytes(), &[1]].concat();
        match self {
            Self::Silent => Vec::new(),
            Self::Hesitant => hello(PROTOCOL_VERSION),
            Self::Garbage => {
                (0u32..1 << 18).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
            }
            Self::Web => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            Self::Oversize => {
                let mut bytes = hello(PROTOCOL_VERSION);
                bytes.resize(HELLO_LEN, 0);
                bytes.resize(1 << 20, 0xff);
                bytes
            }
            Self::Newer => hello(PROTOCOL_VERSION + 1),
        }
    }

    /// Does it, and returns when the other side has hung up.
    fn visit(self, mut stream: impl Read + Write) {
        // Who is hung up on early need not be able to say everything.
        let _ = stream.write_all(&self.bytes());
        let mut answer = Vec::new();
        let mut waits = stream.read_to_end(&mut answer).is_err_and(|error| is_timeout(&error));
        if waits {
            // A reset is sent once, and lost where a queue of the kernel is full. Who still holds the
            // connection lets this pass; where nobody does, it is answered with another reset.
            let _ = stream.write_all(&[0]);
            waits = stream.read_to_end(&mut answer).is_err_and(|error| is_timeout(&error));
        }
        assert!(!waits, "{self:?}: nobody hung up");
        assert!(answer.len() < 1 << 10, "{self:?} was told {} bytes", answer.len());
    }
}

fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Where one can knock.
#[derive(Clone, Debug)]
enum Door {
    Coordinator(SocketAddr),
    Rank(SocketAddr),
    /// Abstract unix sockets of these processes, under names that everybody on the host can read.
    Memory(Vec<u32>),
}

impl Door {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Coordinator(_) => "the coordinator",
            Self::Rank(_) => "a rank's port",
            Self::Memory(_) => "a rank's unix socket",
        }
    }

    /// Returns how often somebody was in.
    fn knock(&self, manner: Manner) -> u32 {
        match self {
            Self::Coordinator(address) | Self::Rank(address) => {
                let Ok(stream) = TcpStream::connect(address) else { return 0 };
                stream.set_read_timeout(Some(HANG_UP_TIMEOUT)).unwrap();
                manner.visit(stream);
                1
            }
            Self::Memory(processes) => {
                let visit = |name: String| {
                    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
                    let Ok(stream) = UnixStream::connect_addr(&address) else { return 0 };
                    stream.set_read_timeout(Some(HANG_UP_TIMEOUT)).unwrap();
                    manner.visit(stream);
                    1
                };
                abstract_sockets(processes).into_iter().map(visit).sum()
            }
        }
    }
}

/// The names of the abstract unix sockets that these processes have.
fn abstract_sockets(processes: &[u32]) -> Vec<String> {
    let descriptors = |process: &u32| fs::read_dir(format!("/proc/{process}/fd"));
    let descriptors = processes.iter().filter_map(|process| descriptors(process).ok());
    let targets =
        descriptors.flatten().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let targets: BTreeSet<PathBuf> = targets.collect();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let name = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(6);
        let socket = format!("socket:[{}]", fields.next()?);
        let name = fields.next()?.strip_prefix("@paceline-")?;
        targets.contains(Path::new(&socket)).then(|| format!("paceline-{name}"))
    };
    sockets.lines().filter_map(name).collect()
}

/// Ports next to each other that nobody listens at.
fn free_ports() -> u16 {
    let local = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    // Below those that the kernel gives to whoever asks for any.
    let first = 20_000 + u16::try_from(std::process::id() % 600).unwrap() * PORTS;
    let mut candidates = (first..32_000).step_by(PORTS.into());
    candidates.find(|first| (*first..first + PORTS).all(|port| local(port).is_ok())).unwrap()
}

/// Strangers of all manners at all doors at once, until each was often enough at each kind of door.
fn harass(doors: &[Door]) {
    let (visits, is_over) = (Mutex::new(BTreeMap::new()), AtomicBool::new(false));
    let give_up = Instant::now() + PATIENCE;
    let kinds: BTreeSet<&str> = doors.iter().map(Door::kind).collect();
    let go_about = |manner: Manner, kind: &'static str| {
        for door in doors.iter().filter(|door| door.kind() == kind).cycle() {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            let count = door.knock(manner);
            *visits.lock().unwrap().entry((kind, manner)).or_insert(0) += count;
            thread::sleep(Duration::from_micros(500));
        }
    };
    let go_about = &go_about;
    thread::scope(|scope| {
        for (manner, kind) in
            Manner::ALL.iter().flat_map(|all| kinds.iter().map(move |kind| (*all, *kind)))
        {
            let run = move || go_about(manner, kind);
            thread::Builder::new().name("stranger".to_owned()).spawn_scoped(scope, run).unwrap();
        }
        let enough = || {
            let visits = visits.lock().unwrap();
            kinds.iter().all(|kind| {
                let often = |manner| visits.get(&(*kind, manner)).is_some_and(|n| *n >= TIMES);
                Manner::ALL.into_iter().all(often)
            })
        };
        while !enough() && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(10));
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(enough(), "{:?}", visits.lock().unwrap());
    });
}

fn with_strangers(transport: &str) {
    let (rendezvous, first) = (twice::free_address(), free_ports());
    let site = Site::new(WORLD_SIZE)
        .with(&env::TRANSPORT, transport)
        .with(&env::RENDEZVOUS, &rendezvous)
        .with(&env::PORT_RANGE, format_args!("{first}-{}", first + PORTS - 1));
    let mut ranks = site.start_all(|_| "makes contexts");
    until_running(&mut ranks);
    let mut doors = vec![Door::Coordinator(rendezvous.parse().unwrap())];
    if transport == "tcp" {
        let at = |port| Door::Rank((Ipv4Addr::LOCALHOST, port).into());
        doors.extend((first..first + PORTS).map(at));
    } else {
        doors.push(Door::Memory(ranks.iter().map(Rank::pid).collect()));
    }
    harass(&doors);
    assert!(ranks.iter_mut().all(|rank| rank.is_running()), "over {transport}");
    end_well(&site, ranks);
}

#[test]
fn they_are_hung_up_on_at_every_port_and_the_job_goes_on() {
    with_strangers("tcp");
}

#[test]
fn they_are_hung_up_on_where_ranks_share_memory_and_the_job_goes_on() {
    with_strangers("shm");
}

//! Rank 0: its own ends of connections, and what stands for the others.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use paceline_transports::conformance::Harness;
use paceline_transports::mpi::{MpiTransport, World};
use paceline_transports::{
    Capabilities, ConnectionCounters, Endpoint, EndpointError, Event, OpError, RecvPost, Rejected,
    SendPost, Signature, Transport, TransportKind, Wakeup,
};

use crate::everybody;
use crate::far::{connect, socket, transport};
use crate::words::{Answer, Command, Death, Ended, Facts, Line, signature};

type SharedLine = Arc<Mutex<Line>>;

/// Connections between rank 0 and rank 1; further ranks are in the group and idle.
pub(crate) struct MpiHarness {
    world: &'static World,
    /// To rank 1 and those after it.
    lines: Vec<SharedLine>,
}

impl MpiHarness {
    pub(crate) fn meet(directory: &Path, world: &'static World, deadline: Instant) -> Self {
        let call = |rank| loop {
            match UnixStream::connect(socket(directory, rank)) {
                Ok(stream) => return Arc::new(Mutex::new(Line::new(stream))),
                Err(error) => assert!(Instant::now() < deadline, "rank {rank}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Self { world, lines: (1..world.size()).map(call).collect() }
    }

    /// New transports, ours first, and their addresses.
    fn join(&self) -> (MpiTransport, Vec<Vec<u8>>) {
        let own = transport();
        let mut addresses = vec![own.address()];
        for line in &self.lines {
            match ask(line, &Command::Join, &[]) {
                Answer::Address(address) => addresses.push(address),
                other => panic!("{other:?}"),
            }
        }
        (own, addresses)
    }

    /// Every rank sends to and receives from every other at once.
    pub(crate) fn everybody(&self, round: u32) {
        let (own, addresses) = self.join();
        for line in &self.lines {
            let command = Command::Everybody { addresses: addresses.clone(), round };
            line.lock().expect("no panic before").say(&command, &[]);
        }
        everybody::exchange(connect(own, 0, &addresses), 0, round);
        for line in &self.lines {
            let answer = line.lock().expect("no panic before").hear();
            assert!(matches!(answer, Some(Answer::Done)), "{answer:?}");
        }
    }
}

fn ask(line: &SharedLine, command: &Command, bytes: &[u8]) -> Answer {
    let mut line = line.lock().expect("no panic before");
    line.say(command, bytes);
    line.hear().expect("the other rank is alive")
}

impl Harness for MpiHarness {
    fn describe(&self) -> String {
        format!("MPI, {} processes", self.world.size())
    }

    fn capabilities(&self) -> Capabilities {
        transport().capabilities()
    }

    fn pair(&self) -> [Box<dyn Endpoint>; 2] {
        let (own, addresses) = self.join();
        let mut ends = Vec::new();
        for line in &self.lines {
            let command = Command::Connect { addresses: addresses.clone() };
            let Answer::End(end) = ask(line, &command, &[]) else { panic!() };
            ends.push(end);
        }
        // Nobody needs the idle ranks' ends any more.
        for (line, end) in self.lines.iter().zip(&ends).skip(1) {
            ask(line, &Command::Drop { end: *end }, &[]);
        }
        let mut endpoints = connect(own, 0, &addresses);
        let near = endpoints[1].take().expect("an endpoint to rank 1");
        let line = Arc::clone(&self.lines[0]);
        let far = FarEndpoint {
            line,
            end: ends[0],
            sends: HashMap::new(),
            receives: HashMap::new(),
            counters: ConnectionCounters::of_another(0, TransportKind::Mpi),
        };
        [near, Box::new(far)]
    }

    fn header_bytes(&self) -> Option<u64> {
        Some(64)
    }
}

/// Stands for an endpoint in rank 1.
#[derive(Debug)]
struct FarEndpoint {
    line: SharedLine,
    end: usize,
    sends: HashMap<u64, SendPost>,
    receives: HashMap<u64, RecvPost>,
    counters: Arc<ConnectionCounters>,
}

impl FarEndpoint {
    fn ask(&self, command: &Command, bytes: &[u8]) -> Answer {
        ask(&self.line, command, bytes)
    }

    fn facts(&self) -> Facts {
        match self.ask(&Command::Facts { end: self.end }, &[]) {
            Answer::Facts(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    fn error(death: Death) -> EndpointError {
        let (peer, address) = (0, "rank 0".to_owned());
        match death {
            Death::Closed { orderly } => EndpointError::Closed { peer, address, orderly },
            Death::Abandoned => EndpointError::Abandoned { peer, address },
            Death::Other(what) => EndpointError::Protocol { peer, address, what },
        }
    }
}

impl Endpoint for FarEndpoint {
    fn peer(&self) -> u32 {
        self.facts().peer
    }

    fn peer_description(&self) -> String {
        self.facts().description
    }

    fn post_send(&mut self, post: SendPost) -> Result<(), Rejected<SendPost>> {
        let SendPost { token, id, signature, .. } = post;
        let (length, id) = (post.slice.len(), id.into());
        let command = Command::Send { end: self.end, token, id, signature: signature.0, length };
        match self.ask(&command, post.slice.bytes(0)) {
            Answer::Done => {
                self.sends.insert(token, post);
                Ok(())
            }
            Answer::Full => Err(Rejected::QueueFull(post)),
            Answer::Dead => Err(Rejected::Dead(post)),
            other => panic!("{other:?}"),
        }
    }

    fn post_recv(&mut self, post: RecvPost) -> Result<(), Rejected<RecvPost>> {
        let RecvPost { token, id, signature, .. } = post;
        let (length, id) = (post.slice.len(), id.into());
        let command = Command::Receive { end: self.end, token, id, signature: signature.0, length };
        match self.ask(&command, &[]) {
            Answer::Done => {
                self.receives.insert(token, post);
                Ok(())
            }
            Answer::Full => Err(Rejected::QueueFull(post)),
            Answer::Dead => Err(Rejected::Dead(post)),
            other => panic!("{other:?}"),
        }
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> Result<bool, EndpointError> {
        let mut line = self.line.lock().expect("no panic before");
        line.say(&Command::Poll { end: self.end }, &[]);
        let Some(Answer::Polled(outcome, ended)) = line.hear() else {
            panic!("the other rank is alive and answers")
        };
        for event in ended {
            events.push(match event {
                Ended::Sent(token) => {
                    self.sends.remove(&token);
                    Event::Sent { token }
                }
                Ended::Received(token, length) => {
                    let mut post = self.receives.remove(&token).expect("a receive ends once");
                    line.bytes(post.slice.bytes_mut(0..length));
                    Event::Received { token }
                }
                Ended::Signature { token, id, ours, theirs } => {
                    self.receives.remove(&token);
                    let (ours, theirs) = (signature(ours), signature(theirs));
                    let error = OpError::SignatureMismatch { id: id.into(), ours, theirs };
                    Event::Failed { token, error }
                }
                Ended::Length { token, id, posted, announced } => {
                    self.receives.remove(&token);
                    let error = OpError::LengthMismatch { id: id.into(), posted, announced };
                    Event::Failed { token, error }
                }
                Ended::Early(id, of) => Event::Early { id: id.into(), signature: signature(of) },
            });
        }
        drop(line);
        outcome.map_err(Self::error)
    }

    fn is_active(&self) -> bool {
        self.facts().active
    }

    /// Nobody asks for it here.
    fn stray(&self, _communicator: u32, _op_seq: u64) -> Option<(u64, Signature)> {
        None
    }

    fn abandon(&mut self, communicator: u32) {
        self.ask(&Command::Abandon { end: self.end, communicator }, &[]);
        self.sends.retain(|_, post| post.id.communicator != communicator);
        self.receives.retain(|_, post| post.id.communicator != communicator);
    }

    fn wakeups<'a>(&'a self, _wakeups: &mut Vec<Wakeup<'a>>) {}

    fn wakeups_max(&self) -> usize {
        0
    }

    fn counters(&self) -> &Arc<ConnectionCounters> {
        self.counters.set(self.facts().counts);
        &self.counters
    }

    fn memory_bytes(&self) -> usize {
        self.facts().memory_bytes
    }
}

impl Drop for FarEndpoint {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask(&Command::Drop { end: self.end }, &[]);
        }
    }
}

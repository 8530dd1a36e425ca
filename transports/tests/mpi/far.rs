//! The ranks that do what rank 0 says.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use paceline_rendezvous::{RunId, Secret};
use paceline_transports::mpi::{MpiConfig, MpiTransport, World};
use paceline_transports::{
    Checksum, Endpoint, EndpointError, Event, Group, OpError, Patience, RecvPost, Region, Rejected,
    SendPost, Transport,
};

use crate::everybody;
use crate::words::{Answer, Command, Death, Ended, Facts, Line, signature};

/// Where a rank listens.
pub(crate) fn socket(directory: &Path, rank: u32) -> PathBuf {
    directory.join(format!("rank-{rank}"))
}

pub(crate) fn transport() -> MpiTransport {
    let deadline = Instant::now() + Duration::from_secs(60);
    MpiTransport::join(&MpiConfig { is_launched: true, deadline }).expect("MPI has started")
}

/// Joins the group of these addresses.
pub(crate) fn connect(
    transport: MpiTransport,
    rank: u32,
    addresses: &[Vec<u8>],
) -> Vec<Option<Box<dyn Endpoint>>> {
    let secret = Secret::from_bytes([1; 32]);
    let run_id = RunId::from_bytes([2; 16]);
    let group =
        Group { rank, run_id, epoch: 3, checksum: Checksum::None, secret: &secret, addresses };
    let patience = Patience::until(Instant::now() + Duration::from_secs(60));
    Box::new(transport).connect(&group, &patience).expect("all ranks are there")
}

/// Does what rank 0 says until it says no more.
pub(crate) fn serve(directory: &Path, world: &World) {
    let socket = socket(directory, world.rank());
    // Under its final name only once it listens.
    let unnamed = socket.with_extension("new");
    let listener = UnixListener::bind(&unnamed).expect("a socket in our directory");
    std::fs::rename(&unnamed, &socket).expect("a name in our directory");
    let (stream, _) = listener.accept().expect("rank 0 calls");
    let mut line = Line::new(stream);
    let mut server = Server { rank: world.rank(), transport: None, ends: HashMap::new(), next: 0 };
    while let Some(command) = line.hear() {
        let (answer, bytes) = server.obey(command, &mut line);
        line.say(&answer, &bytes);
    }
}

struct Server {
    rank: u32,
    transport: Option<MpiTransport>,
    ends: HashMap<usize, End>,
    next: usize,
}

/// The end of a connection to rank 0, the other endpoints of its group, and what is posted.
struct End {
    endpoint: Box<dyn Endpoint>,
    others: Vec<Box<dyn Endpoint>>,
    posted: HashMap<u64, (u32, Arc<Region>)>,
}

impl Server {
    fn obey(&mut self, command: Command, line: &mut Line) -> (Answer, Vec<u8>) {
        let answer = match command {
            Command::Join => {
                let transport = self.transport.insert(transport());
                Answer::Address(transport.address())
            }
            Command::Connect { addresses } => self.connect(&addresses),
            Command::Everybody { addresses, round } => {
                let transport = self.transport.take().expect("rank 0 lets join first");
                everybody::exchange(connect(transport, self.rank, &addresses), self.rank, round);
                Answer::Done
            }
            Command::Send { end, token, id, signature: of, length } => {
                let region = Region::allocate(length).expect("memory for the test");
                // SAFETY: nobody else has the region yet.
                let mut slice = unsafe { region.slice_mut(0..length) };
                line.bytes(slice.bytes_mut(0..length));
                drop(slice);
                // SAFETY: nobody writes to it any more.
                let slice = unsafe { region.slice(0..length) };
                let post = SendPost { token, id: id.into(), signature: signature(of), slice };
                let end = self.end(end);
                end.posted.insert(token, (post.id.communicator, region));
                match end.endpoint.post_send(post) {
                    Ok(()) => Answer::Done,
                    Err(rejected) => end.take_back(token, rejected),
                }
            }
            Command::Receive { end, token, id, signature: of, length } => {
                let region = Region::allocate(length).expect("memory for the test");
                // SAFETY: it is looked at when the receive has ended.
                let slice = unsafe { region.slice_mut(0..length) };
                let post = RecvPost { token, id: id.into(), signature: signature(of), slice };
                let end = self.end(end);
                end.posted.insert(token, (post.id.communicator, region));
                match end.endpoint.post_recv(post) {
                    Ok(()) => Answer::Done,
                    Err(rejected) => end.take_back(token, rejected),
                }
            }
            Command::Poll { end } => return self.end(end).poll(),
            Command::Facts { end } => self.end(end).facts(),
            Command::Abandon { end, communicator } => {
                self.end(end).abandon(communicator);
                Answer::Done
            }
            Command::Drop { end } => {
                self.ends.remove(&end);
                Answer::Done
            }
        };
        (answer, Vec::new())
    }

    fn connect(&mut self, addresses: &[Vec<u8>]) -> Answer {
        let transport = self.transport.take().expect("rank 0 lets join first");
        let mut endpoints = connect(transport, self.rank, addresses);
        let endpoint = endpoints[0].take().expect("an endpoint to rank 0");
        let others = endpoints.into_iter().flatten().collect();
        self.next += 1;
        self.ends.insert(self.next, End { endpoint, others, posted: HashMap::new() });
        Answer::End(self.next)
    }

    fn end(&mut self, end: usize) -> &mut End {
        self.ends.get_mut(&end).expect("rank 0 knows what it has dropped")
    }
}

impl End {
    fn take_back<P>(&mut self, token: u64, rejected: Rejected<P>) -> Answer {
        self.posted.remove(&token);
        match rejected {
            Rejected::QueueFull(_) => Answer::Full,
            Rejected::Dead(_) => Answer::Dead,
        }
    }

    fn poll(&mut self) -> (Answer, Vec<u8>) {
        for other in &mut self.others {
            let _ = other.poll(&mut Vec::new());
        }
        let mut events = Vec::new();
        let outcome = self.endpoint.poll(&mut events).map_err(|error| match error {
            EndpointError::Closed { orderly, .. } => Death::Closed { orderly },
            EndpointError::Abandoned { .. } => Death::Abandoned,
            other => Death::Other(other.to_string()),
        });
        let mut bytes = Vec::new();
        let ended = events.into_iter().map(|event| self.ended(event, &mut bytes)).collect();
        (Answer::Polled(outcome, ended), bytes)
    }

    fn ended(&mut self, event: Event, bytes: &mut Vec<u8>) -> Ended {
        match event {
            Event::Sent { token } => {
                self.take(token);
                Ended::Sent(token)
            }
            Event::Received { token } => {
                let region = self.take(token);
                // SAFETY: nobody else has a slice of it any more.
                let slice = unsafe { region.slice(0..region.len()) };
                bytes.extend_from_slice(slice.bytes(0));
                Ended::Received(token, region.len())
            }
            Event::Failed { token, error } => {
                self.take(token);
                match error {
                    OpError::SignatureMismatch { id, ours, theirs } => {
                        Ended::Signature { token, id: id.into(), ours: ours.0, theirs: theirs.0 }
                    }
                    OpError::LengthMismatch { id, posted, announced } => {
                        Ended::Length { token, id: id.into(), posted, announced }
                    }
                    other => panic!("an error that is new: {other}"),
                }
            }
            Event::Early { id, signature } => Ended::Early(id.into(), signature.0),
            other => panic!("an event that is new: {other:?}"),
        }
    }

    /// The memory of what has ended, which nobody may hold any more.
    fn take(&mut self, token: u64) -> Arc<Region> {
        let (_, region) = self.posted.remove(&token).expect("a post ends once");
        assert_eq!(Arc::strong_count(&region), 1, "a post that ended holds its slice");
        region
    }

    fn abandon(&mut self, communicator: u32) {
        self.endpoint.abandon(communicator);
        self.posted.retain(|_, (of, region)| {
            let is_its = *of == communicator;
            assert!(!is_its || Arc::strong_count(region) == 1, "abandoned, but still held");
            !is_its
        });
    }

    fn facts(&self) -> Answer {
        Answer::Facts(Facts {
            peer: self.endpoint.peer(),
            description: self.endpoint.peer_description(),
            active: self.endpoint.is_active(),
            counts: self.endpoint.counters().total(),
            memory_bytes: self.endpoint.memory_bytes(),
        })
    }
}

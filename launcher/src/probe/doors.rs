//! Where others knock.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use paceline_rendezvous::env::PortRange;
use paceline_rendezvous::hello::{Admission, HelloError, Purpose, accept};
use rustix::net::{Shutdown, shutdown};
use serde::{Deserialize, Serialize};

use super::way::{Command, read_until, write_until};
use super::{BLOCK_BYTES, Party};

/// How long a stranger may take to prove who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a guest may say nothing.
const GUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Guests at a time: each host is probed by one other at a time, the rest is strangers.
const GUESTS_MAX: usize = 32;

/// Time between two tries to accept where there is no descriptor left.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A door, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Door {
    pub(crate) address: IpAddr,
    pub(crate) port: Result<u16, String>,
}

/// A port of each address of this host, at which the other parties are answered until this is dropped.
pub(crate) struct Doors {
    list: Vec<Door>,
    open: Vec<(Arc<TcpListener>, JoinHandle<()>)>,
    is_closing: Arc<AtomicBool>,
}

impl fmt::Debug for Doors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Doors").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Doors {
    /// Opens them.
    pub(crate) fn open(party: &Party, addresses: &[IpAddr], ports: PortRange) -> Self {
        let is_closing = Arc::new(AtomicBool::new(false));
        let mut doors = Self { list: Vec::new(), open: Vec::new(), is_closing };
        for &address in addresses {
            let port = doors.open_one(party, address, ports).map_err(|error| error.to_string());
            doors.list.push(Door { address, port });
        }
        doors
    }

    /// In the order of the addresses.
    pub(crate) fn list(&self) -> &[Door] {
        &self.list
    }

    fn open_one(&mut self, party: &Party, address: IpAddr, ports: PortRange) -> io::Result<u16> {
        let listener = Arc::new(ports.listen(address)?);
        let port = listener.local_addr()?.port();
        let (shared, party) = (Arc::clone(&listener), party.clone());
        let is_closing = Arc::clone(&self.is_closing);
        let keeper = thread::Builder::new()
            .name("probe-door".to_owned())
            .spawn(move || keep(&shared, &party, &is_closing))?;
        self.open.push((listener, keeper));
        Ok(port)
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.is_closing.store(true, Ordering::Relaxed);
        for (listener, keeper) in self.open.drain(..) {
            // It wakes whoever waits in accept, with an error.
            let _ = shutdown(&*listener, Shutdown::Both);
            let _ = keeper.join();
        }
    }
}

fn keep(listener: &TcpListener, party: &Party, is_closing: &AtomicBool) {
    let guests = Arc::new(AtomicUsize::new(0));
    while !is_closing.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            thread::park_timeout(RETRY_INTERVAL);
            continue;
        };
        if guests.fetch_add(1, Ordering::Relaxed) >= GUESTS_MAX {
            guests.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (party, count) = (party.clone(), Arc::clone(&guests));
        let serve = move || {
            // What became of it the guest tells.
            let _ = receive(stream, &party);
            count.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().name("probe-guest".to_owned()).spawn(serve).is_err() {
            guests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn receive(mut stream: TcpStream, party: &Party) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let admission = Admission { world_size: party.count, rank: None };
    let deadline = Instant::now() + GREETING_TIMEOUT;
    let admit = |_: u32, purpose: Purpose| match purpose {
        Purpose::Probe => Ok(()),
        _ => Err(HelloError::UnservedPurpose),
    };
    accept(&mut stream, party.identity(), admission, &party.secret, deadline, admit)
        .map_err(io::Error::other)?;
    let mut block = vec![0; BLOCK_BYTES as usize];
    stream.set_read_timeout(Some(GUEST_TIMEOUT))?;
    loop {
        // One time limit for all of them, so that an echo costs two system calls.
        let mut bytes = [0; Command::LEN];
        io::Read::read_exact(&mut stream, &mut bytes)?;
        let Some(Command { bytes: following }) = Command::decode(bytes) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if following > 0 {
            let deadline = Instant::now() + GUEST_TIMEOUT;
            read_until(&mut stream, &mut block[..following as usize], deadline)?;
            stream.set_read_timeout(Some(GUEST_TIMEOUT))?;
            write_until(&mut stream, &bytes, deadline)?;
        } else {
            io::Write::write_all(&mut stream, &bytes)?;
        }
    }
}

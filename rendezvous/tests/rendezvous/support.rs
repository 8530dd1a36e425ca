//! What several tests need.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use paceline_rendezvous::coordinator::{Event, Server, ServerConfig};
use paceline_rendezvous::hello::Identity;
use paceline_rendezvous::{ControlClient, ControlError, RunId, Secret};

pub(crate) const RUN: RunId = RunId::from_bytes([7; 16]);

pub(crate) fn secret() -> Secret {
    Secret::from_bytes([42; 32])
}

pub(crate) fn identity(rank: u32) -> Identity {
    Identity { run_id: RUN, epoch: 3, rank, features: 0 }
}

/// A deadline that a healthy test never reaches, however loaded the machine.
pub(crate) fn generous() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

pub(crate) fn localhost() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

pub(crate) fn config(world_size: u32) -> ServerConfig {
    let mut config = ServerConfig::new(RUN, secret(), world_size);
    config.coordinator.epoch = 3;
    config
}

pub(crate) fn start(config: ServerConfig) -> (Server, Receiver<Event>) {
    let (sender, events) = mpsc::channel();
    let server = Server::start(localhost(), config, move |event| {
        // The test may have seen enough already.
        let _ = sender.send(event);
    })
    .unwrap();
    (server, events)
}

pub(crate) fn connect(server: &Server, rank: u32) -> Result<ControlClient, ControlError> {
    ControlClient::connect(server.local_addr(), identity(rank), &secret(), generous())
}

/// The next event that `matches`; others are passed over.
pub(crate) fn expect_event(events: &Receiver<Event>, matches: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = events.recv_timeout(Duration::from_secs(60)).expect("the event does not come");
        if matches(&event) {
            return event;
        }
    }
}

/// Polls `condition` until it gives something.
pub(crate) fn eventually<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = generous();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "the condition never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An address that nobody listens on. Every test names a loopback `host` of its own, so that the
/// port stays free whatever other tests do.
pub(crate) fn free_address(host: &str) -> SocketAddr {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap()
}

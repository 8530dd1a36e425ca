//! The ranks' way to the coordinator, where that is on another host.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::AbortHandle;

use super::Reporter;
use crate::protocol::messages::Report;
use crate::protocol::tunnel::{self, Piece};

/// A rank has one connection, and for a moment two when it comes again. Whatever else comes is a stranger's
/// or a tool's: of those few, since each costs the launcher a descriptor.
fn connections_max(ranks: usize) -> usize {
    ranks.saturating_mul(2).saturating_add(16)
}

/// Before it is tried again to accept a connection.
const PAUSE: Duration = Duration::from_millis(100);

type Connections = Arc<Mutex<HashMap<u32, UnboundedSender<Piece>>>>;

/// A port of the loopback interface behind which the coordinator seems to be.
#[derive(Debug)]
pub(super) struct Tunnels {
    address: SocketAddr,
    connections: Connections,
    listener: AbortHandle,
}

impl Tunnels {
    /// Listens from now on, for so many ranks.
    pub(super) async fn open(reporter: Reporter, ranks: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connections = Connections::default();
        let accepting = tokio::spawn(accept(
            listener,
            connections_max(ranks),
            Arc::clone(&connections),
            reporter,
        ));
        Ok(Self { address, connections, listener: accepting.abort_handle() })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Something came from the launcher.
    pub(super) fn take(&self, connection: u32, piece: Piece) {
        // The connection may have ended here meanwhile.
        if let Some(pieces) = lock(&self.connections).get(&connection) {
            let _ = pieces.send(piece);
        }
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.listener.abort();
        // Whatever is still carried ends when nothing can come for it any more.
        lock(&self.connections).clear();
    }
}

fn lock(connections: &Connections) -> MutexGuard<'_, HashMap<u32, UnboundedSender<Piece>>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    connections_max: usize,
    connections: Connections,
    reporter: Reporter,
) {
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, for example: those that there are may end.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (pieces, incoming) = mpsc::unbounded_channel();
        {
            let mut open = lock(&connections);
            if open.len() >= connections_max {
                continue;
            }
            open.insert(connection, pieces);
        }
        tokio::spawn(carry(
            connection,
            stream,
            incoming,
            Arc::clone(&connections),
            reporter.clone(),
        ));
    }
}

async fn carry(
    connection: u32,
    stream: TcpStream,
    incoming: mpsc::UnboundedReceiver<Piece>,
    connections: Connections,
    reporter: Reporter,
) {
    let send = move |piece| reporter.send(&Report::Tunnel { connection, piece });
    send(Piece::Open);
    tunnel::carry(stream, incoming, send).await;
    lock(&connections).remove(&connection);
}

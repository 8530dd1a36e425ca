//! The launcher's end of the connections that ranks on other hosts have to the coordinator.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::protocol::messages::Order;
use crate::protocol::tunnel::{self, Piece};

/// Fewer connections are not worth tidying up.
const TIDY_AT_MIN: usize = 64;

/// All connections that agents have opened, by the number of the node and their own.
#[derive(Debug)]
pub(super) struct Tunnels {
    coordinator: SocketAddr,
    open: HashMap<(usize, u32), UnboundedSender<Piece>>,
    /// With so many, those that have ended are taken out.
    tidy_at: usize,
}

impl Tunnels {
    /// None yet.
    pub(super) fn to(coordinator: SocketAddr) -> Self {
        Self { coordinator, open: HashMap::new(), tidy_at: TIDY_AT_MIN }
    }

    /// Something came from the agent of a node, whose orders go to `orders` as frames.
    pub(super) fn take(
        &mut self,
        node: usize,
        connection: u32,
        piece: Piece,
        orders: &UnboundedSender<Vec<u8>>,
    ) {
        if piece == Piece::Open {
            // Not each time: to look at all of them for each of them takes long where there are thousands.
            if self.open.len() >= self.tidy_at {
                self.open.retain(|_, pieces| !pieces.is_closed());
                self.tidy_at = (2 * self.open.len()).max(TIDY_AT_MIN);
            }
            let (pieces, incoming) = mpsc::unbounded_channel();
            self.open.insert((node, connection), pieces);
            tokio::spawn(carry(self.coordinator, connection, incoming, orders.clone()));
        } else if let Some(pieces) = self.open.get(&(node, connection)) {
            // It may have ended here meanwhile.
            let _ = pieces.send(piece);
        }
    }

    /// The agent of a node is gone: so are its ranks' connections, as the coordinator sees it.
    pub(super) fn node_is_gone(&mut self, node: usize) {
        self.open.retain(|(of, _), _| *of != node);
    }
}

async fn carry(
    coordinator: SocketAddr,
    connection: u32,
    incoming: UnboundedReceiver<Piece>,
    orders: UnboundedSender<Vec<u8>>,
) {
    let send = move |piece| {
        let mut frame = Vec::new();
        // A piece is far smaller than a frame may be; if the agent is gone there is nobody to tell.
        if (Order::Tunnel { connection, piece }).encode(&mut frame).is_ok() {
            let _ = orders.send(frame);
        }
    };
    match TcpStream::connect(coordinator).await {
        Ok(stream) => tunnel::carry(stream, incoming, send).await,
        // The coordinator has ended, or this process has no descriptor left: as if it had hung up.
        Err(_) => send(Piece::End),
    }
}

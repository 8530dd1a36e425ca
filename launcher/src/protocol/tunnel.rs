//! Carrying connections over the link between launcher and agent.
//!
//! Ranks on another host reach the coordinator through their agent, whose pipe to the launcher is
//! there anyway: no port of the launcher's host has to be open to others. Each end reads from its
//! socket, sends what it has read as pieces, and pauses while [`WINDOW`] bytes of them have not been
//! taken by the socket at the other end; so a reader that is slow holds up its own connection only.
//!
//! What is carried is neither looked at nor trusted: coordinator and rank prove to each other who
//! they are.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::UnboundedReceiver;

use super::room::Room;
use super::window::Window;

/// Bytes on their way in one direction of one connection: four of the coordinator's largest values.
const WINDOW: u32 = 1 << 20;

/// Most bytes read from a socket at a time.
const PIECE_BYTES: usize = 64 << 10;

/// What one end of a connection says to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A rank has connected: the launcher is to connect to the coordinator.
    Open,
    /// Bytes.
    Data(Vec<u8>),
    /// So many more bytes may be sent.
    Taken(u32),
    /// No more bytes will come from here.
    End,
    /// Nobody takes bytes here any more: the connection is dead.
    Broken,
}

impl Piece {
    /// A byte for its kind, and its contents.
    pub(super) fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Open => (0, Vec::new()),
            Self::Data(bytes) => (1, bytes.clone()),
            Self::Taken(bytes) => (2, bytes.to_le_bytes().to_vec()),
            Self::End => (3, Vec::new()),
            Self::Broken => (4, Vec::new()),
        }
    }

    /// `None` if it is none of ours.
    pub(super) fn decode(kind: u8, contents: &[u8]) -> Option<Self> {
        Some(match kind {
            0 if contents.is_empty() => Self::Open,
            1 => Self::Data(contents.to_vec()),
            2 => Self::Taken(u32::from_le_bytes(contents.try_into().ok()?)),
            3 if contents.is_empty() => Self::End,
            4 if contents.is_empty() => Self::Broken,
            _ => return None,
        })
    }
}

/// Carries one connection until both directions have ended or nothing comes from the other end any
/// more. `send` takes what is for the other end.
pub(crate) async fn carry(
    stream: TcpStream,
    pieces: UnboundedReceiver<Piece>,
    send: impl Fn(Piece) + Clone,
) {
    // What is said here is short and waited for. Where it cannot be set things are only slower.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let window = Window::of(WINDOW);
    let ended = Ended::default();
    let mut outgoing = std::pin::pin!(read(reader, window.clone(), send.clone()));
    let incoming = write(writer, pieces, window, &ended, send);
    let mut incoming = std::pin::pin!(incoming);
    loop {
        let here = ended.here.load(Ordering::Relaxed);
        tokio::select! {
            () = &mut outgoing, if !here => {
                ended.here.store(true, Ordering::Relaxed);
                if ended.there.load(Ordering::Relaxed) {
                    return;
                }
            }
            () = &mut incoming => return,
        }
    }
}

/// Who has said everything: the socket at this end, and the one at the other.
#[derive(Debug, Default)]
struct Ended {
    here: AtomicBool,
    there: AtomicBool,
}

async fn read(mut reader: OwnedReadHalf, window: Window, send: impl Fn(Piece)) {
    let mut room = Room::up_to(PIECE_BYTES);
    // A connection that is reset ends like any other.
    while let Ok(count @ 1..) = reader.read(room.all()).await {
        if !window.take(count).await {
            break;
        }
        room.take(count, |bytes| send(Piece::Data(bytes.to_vec())));
    }
    send(Piece::End);
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut pieces: UnboundedReceiver<Piece>,
    window: Window,
    ended: &Ended,
    send: impl Fn(Piece),
) {
    while let Some(piece) = pieces.recv().await {
        match piece {
            Piece::Data(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    send(Piece::Broken);
                    return;
                }
                send(Piece::Taken(u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
            }
            Piece::Taken(bytes) => window.grant(bytes),
            Piece::End => {
                let _ = writer.shutdown().await;
                ended.there.store(true, Ordering::Relaxed);
                if ended.here.load(Ordering::Relaxed) {
                    return;
                }
            }
            Piece::Broken => return,
            Piece::Open => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (here, listener.accept().await.unwrap().0)
    }

    /// Two sockets whose far ends are joined by a tunnel.
    async fn joined() -> (TcpStream, TcpStream) {
        let ((near, a), (b, far)) = (pair().await, pair().await);
        let (to_b, for_b) = mpsc::unbounded_channel();
        let (to_a, for_a) = mpsc::unbounded_channel();
        tokio::spawn(carry(a, for_a, move |piece| drop(to_b.send(piece))));
        tokio::spawn(carry(b, for_b, move |piece| drop(to_a.send(piece))));
        (near, far)
    }

    #[tokio::test]
    async fn more_than_a_window_goes_both_ways_at_once() {
        let (near, far) = joined().await;
        let bytes = |salt: u32| {
            (0..5u32 << 20).map(|i| (i * 7 + salt).to_le_bytes()[0]).collect::<Vec<u8>>()
        };
        let exchange = |stream: TcpStream, mine: Vec<u8>| async move {
            let (mut reader, mut writer) = stream.into_split();
            let write = async {
                writer.write_all(&mine).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut theirs = Vec::new();
            let (_, outcome) = tokio::join!(write, reader.read_to_end(&mut theirs));
            outcome.unwrap();
            theirs
        };
        let (at_near, at_far) = tokio::join!(exchange(near, bytes(1)), exchange(far, bytes(2)));
        assert!(at_near == bytes(2) && at_far == bytes(1));
    }

    #[tokio::test]
    async fn what_one_end_does_not_read_stops_the_other_and_its_death_reaches_it() {
        let (mut near, far) = joined().await;
        let flood = tokio::spawn(async move {
            let mut sent = 0;
            while let Ok(count @ 1..) = near.write(&[7; 64 << 10]).await {
                sent += count;
            }
            sent
        });
        // Once nothing moves any more, less is on its way than sockets and window hold.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(!flood.is_finished(), "it waits");
        drop(far);
        assert!(flood.await.unwrap() < 256 << 20);
    }

    #[test]
    fn nonsense_is_no_piece() {
        let data = Piece::Data(vec![1, 2]);
        for piece in [Piece::Open, data, Piece::Taken(9), Piece::End, Piece::Broken] {
            let (kind, contents) = piece.encode();
            assert_eq!(Piece::decode(kind, &contents), Some(piece));
        }
        for (kind, contents) in [(0, &b"x"[..]), (2, b"123"), (3, b"y"), (5, b"")] {
            assert_eq!(Piece::decode(kind, contents), None);
        }
    }
}

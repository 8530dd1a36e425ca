//! Metrics of a job, for Prometheus and for people with a browser.
//!
//! A listener on 127.0.0.1, and on nothing else, answers `GET /metrics` with what the coordinator
//! knows from the ranks' heartbeats. There is no state between requests and nothing can be changed
//! by one. Whoever connects has a few seconds and a few kilobytes to say what it wants.

mod text;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use paceline_rendezvous::coordinator::Watcher;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::RunError;

/// Longest request, in bytes: method, path and headers. A browser's is below 2 KiB.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// How long a request may take to come, and an answer to be taken.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the coordinator may take to say what it knows.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;

/// How long to wait after accepting failed, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The port of 127.0.0.1 where a job's metrics are to be had.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Nobody can be answered.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on 127.0.0.1:{port} for metrics")]
pub struct MetricsError {
    port: u16,
    #[source]
    source: io::Error,
}

impl MetricsError {
    /// What the user may do about it.
    pub fn hint(&self) -> Option<String> {
        (self.source.kind() == io::ErrorKind::AddrInUse)
            .then(|| "another job may have it; --metrics-port 0 takes any port that is free".into())
    }
}

impl MetricsListener {
    /// Listens on a port of 127.0.0.1; 0 takes any that is free.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn bind(port: u16) -> Result<Self, MetricsError> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        listen().map_err(|source| MetricsError { port, source })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers whoever asks, from now on until the runtime ends.
    pub(super) fn serve(self, watcher: Watcher) -> Result<(), RunError> {
        let listener = tokio::net::TcpListener::from_std(self.listener)
            .map_err(|source| RunError::System { operation: "serve metrics", source })?;
        tokio::spawn(accept(listener, watcher));
        Ok(())
    }
}

async fn accept(listener: tokio::net::TcpListener, watcher: Watcher) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let watcher = watcher.clone();
                tokio::spawn(async move {
                    // Whoever does not listen to the end is not told the rest.
                    let _ = timeout(2 * PEER_TIMEOUT + STATUS_TIMEOUT, talk(stream, watcher)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn talk(mut stream: TcpStream, watcher: Watcher) -> io::Result<()> {
    let answer = match timeout(PEER_TIMEOUT, request(&mut stream)).await {
        Ok(request) => answer(request?, watcher).await,
        Err(_) => Answer::failed("408 Request Timeout"),
    };
    timeout(PEER_TIMEOUT, stream.write_all(&answer.bytes())).await??;
    stream.shutdown().await?;
    // What lies unread when a socket is closed takes back what is still on its way to the peer.
    let mut rest = [0; 1024];
    let drain = async { while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(PEER_TIMEOUT, drain).await;
    Ok(())
}

/// What a peer has sent, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// A request for a path, perhaps of the headers only.
    For { path: String, head_only: bool },
    /// Something else.
    Wrong(&'static str),
}

async fn request(stream: &mut TcpStream) -> io::Result<Request> {
    let mut received = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        received.extend_from_slice(&buffer[..count]);
        if received.windows(4).any(|end| end == b"\r\n\r\n") {
            return Ok(parse(&received));
        }
        if count == 0 {
            return Ok(Request::Wrong("400 Bad Request"));
        }
        if received.len() > REQUEST_BYTES_MAX {
            return Ok(Request::Wrong("431 Request Header Fields Too Large"));
        }
    }
}

/// Reads the first line of a request whose headers are complete.
fn parse(received: &[u8]) -> Request {
    let line = received.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words = std::str::from_utf8(line).map(|line| line.split(' ').collect::<Vec<_>>());
    match words.as_deref() {
        Ok([method, target, version]) if version.starts_with("HTTP/1.") => {
            let path = target.split('?').next().unwrap_or_default().to_owned();
            match *method {
                "GET" => Request::For { path, head_only: false },
                "HEAD" => Request::For { path, head_only: true },
                _ => Request::Wrong("405 Method Not Allowed"),
            }
        }
        _ => Request::Wrong("400 Bad Request"),
    }
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
    head_only: bool,
}

impl Answer {
    fn failed(status: &'static str) -> Self {
        let (content_type, body) = ("text/plain; charset=utf-8", format!("{status}\n"));
        Self { status, content_type, body, head_only: false }
    }

    fn bytes(&self) -> Vec<u8> {
        let Self { status, content_type, body, head_only } = self;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let mut text = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             {allow}Connection: close\r\n\r\n",
            body.len()
        );
        if !head_only {
            text.push_str(body);
        }
        text.into_bytes()
    }
}

async fn answer(request: Request, watcher: Watcher) -> Answer {
    let (path, head_only) = match request {
        Request::Wrong(status) => return Answer::failed(status),
        Request::For { path, head_only } => (path, head_only),
    };
    let mut answer = match path.as_str() {
        "/metrics" => {
            let asked = tokio::task::spawn_blocking(move || watcher.status(STATUS_TIMEOUT)).await;
            match asked.ok().flatten() {
                Some(status) => Answer {
                    status: "200 OK",
                    content_type: "text/plain; version=0.0.4; charset=utf-8",
                    body: text::metrics(&status),
                    head_only,
                },
                None => Answer::failed("503 Service Unavailable"),
            }
        }
        "/" => Answer {
            status: "200 OK",
            content_type: "text/plain; charset=utf-8",
            body: "metrics are at /metrics\n".to_owned(),
            head_only,
        },
        _ => Answer::failed("404 Not Found"),
    };
    answer.head_only = head_only;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_by_their_first_line() {
        let wanted = |path: &str, head_only| Request::For { path: path.to_owned(), head_only };
        let read = |line: &str| parse(format!("{line}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(read("GET /metrics HTTP/1.1"), wanted("/metrics", false));
        assert_eq!(read("HEAD /metrics?x=1 HTTP/1.0"), wanted("/metrics", true));
        assert_eq!(read("POST /metrics HTTP/1.1"), Request::Wrong("405 Method Not Allowed"));
        for wrong in ["GET /metrics", "GET  /metrics HTTP/1.1", "GET /metrics SPDY/3", "", "\u{0}"]
        {
            assert_eq!(read(wrong), Request::Wrong("400 Bad Request"), "{wrong:?}");
        }
        assert_eq!(parse(b"\xff\xfe / HTTP/1.1\r\n\r\n"), Request::Wrong("400 Bad Request"));
    }

    #[test]
    fn answers_say_how_long_they_are() {
        let text = String::from_utf8(Answer::failed("404 Not Found").bytes()).unwrap();
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        assert!(text.contains("\r\nContent-Length: 14\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n404 Not Found\n"), "{text}");
    }
}

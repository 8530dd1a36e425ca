//! The ports that a process may listen on.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An inclusive range of TCP ports, such as `40000-40100`, or one port.
///
/// The default, `0`, lets the kernel choose a free port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The kernel chooses.
    pub const ANY: Self = Self { first: 0, last: 0 };

    /// The range from `first` to `last`, both included; `None` when it is empty or contains 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// The ports to try, in order; `0` alone stands for "any free port".
    pub fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Listens on the first free port of the range at `address`, and at no other address.
    ///
    /// # Errors
    /// The error of the last port tried; `AddrInUse` when all of them are taken.
    pub fn listen(self, address: IpAddr) -> io::Result<TcpListener> {
        let mut last_error = None;
        for port in self.ports() {
            match TcpListener::bind(SocketAddr::new(address, port)) {
                Ok(listener) => return Ok(listener),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last_error = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last_error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(formatter, "{}", self.first)
        } else {
            write!(formatter, "{}-{}", self.first, self.last)
        }
    }
}

/// The text is not a port or a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a port or a range of ports such as 40000-40100")]
pub struct ParsePortRangeError;

impl FromStr for PortRange {
    type Err = ParsePortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |text: &str| text.trim().parse::<u16>().map_err(|_| ParsePortRangeError);
        match text.split_once('-') {
            Some((first, last)) => {
                Self::new(parse(first)?, parse(last)?).ok_or(ParsePortRangeError)
            }
            None => {
                let port = parse(text)?;
                Ok(Self { first: port, last: port })
            }
        }
    }
}

//! One non-blocking socket as a stream of bytes.

use std::ffi::c_int;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::sockopt::set_tcp_congestion;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, send, sendmsg,
};

use crate::TransportKind;
use crate::messaging::ByteStream;

/// The congestion control of connections within one host. Nothing is lost or queued there, so that
/// any algorithm will do that does not pace: BBR's pacing costs a third of the bandwidth
/// (benches/RESULTS.md). Every kernel has Reno, and everybody may choose it.
const LOCAL_CONGESTION_CONTROL: &str = "reno";

/// Asks for the bytes that the kernel has not sent yet (linux/sockios.h).
const SIOCOUTQNSD: Opcode = 0x894B;

/// A connected socket. The flags of every call make it non-blocking whatever its mode.
#[derive(Debug)]
pub(super) struct Socket(TcpStream);

impl Socket {
    /// Prepares a connection for data.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        if stream.local_addr()?.ip() == stream.peer_addr()?.ip() {
            // Refused at worst, which leaves the host's default: slower, but right.
            let _ = set_tcp_congestion(&stream, LOCAL_CONGESTION_CONTROL);
        }
        Ok(Self(stream))
    }
}

impl ByteStream for Socket {
    const KIND: TransportKind = TransportKind::Tcp;

    const MAY_WAIT: bool = true;

    #[inline]
    fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // Most control frames and small messages come alone: `send` costs less than gathering.
        if let [only, [], []] = parts {
            return Ok(send(&self.0, only, flags)?);
        }
        let mut none = SendAncillaryBuffer::default();
        Ok(sendmsg(&self.0, &parts.map(IoSlice::new), &mut none, flags)?)
    }

    #[inline]
    fn read(&mut self, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
        if second.is_empty() {
            return Ok(recv(&self.0, first, RecvFlags::DONTWAIT)?.0);
        }
        let mut parts = [IoSliceMut::new(first), IoSliceMut::new(second)];
        let mut none = RecvAncillaryBuffer::default();
        Ok(recvmsg(&self.0, &mut parts, &mut none, RecvFlags::DONTWAIT)?.bytes)
    }

    fn wait_on(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn has_left(&self) -> bool {
        // SAFETY: the request writes one int.
        let request = unsafe { Getter::<SIOCOUTQNSD, c_int>::new() };
        // SAFETY: as above, and the socket is open.
        let unsent = unsafe { ioctl(&self.0, request) };
        unsent.is_ok_and(|bytes| bytes == 0)
    }
}

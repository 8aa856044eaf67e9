// SPDX-License-Identifier: BSD-2-Clause
//! A socket that both workers use, and what they tell of its end.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::events::{Event, Events};
use crate::sys;

/// Room for what arrives while the receiving worker is not running; the kernel takes twice as much, for what it keeps
/// beside the bytes. At 4 Gbit/s some two milliseconds: what waits longer is worth more to its sender as a loss.
const RECEIVE_BUFFER: i32 = 1 << 20;

pub(crate) enum Socket {
    /// Datagrams; whether the socket is connected to the only one there is.
    Udp { fd: OwnedFd, connected: bool },
    /// A connection with frames on it.
    Tcp(TcpStream),
}

pub(crate) struct Link {
    pub(crate) number: u64,
    pub(crate) socket: Socket,
    failed: AtomicBool,
}

impl Link {
    pub(crate) fn new(number: u64, fd: OwnedFd, stream: bool, connected: bool) -> Self {
        let socket = if stream {
            Socket::Tcp(TcpStream::from(fd))
        } else {
            // A kernel that does neither works all the same, slower.
            let _ = sys::enable_udp_gro(fd.as_fd());
            let _ = sys::set_receive_buffer(fd.as_fd(), RECEIVE_BUFFER);
            Socket::Udp { fd, connected }
        };
        Self { number, socket, failed: AtomicBool::new(false) }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Udp { fd, .. } => fd.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.socket, Socket::Tcp(_))
    }

    pub(crate) fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(stream) => (&mut &*stream).read(into),
            Socket::Udp { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(stream) => (&mut &*stream).write(bytes),
            Socket::Udp { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Tells the owner, once.
    pub(crate) fn fail(&self, events: &Events, reason: &str) {
        if !self.failed.swap(true, Relaxed) {
            events.push(Event::LinkFailed { link: self.number, reason: reason.to_owned() });
        }
    }
}

/// Whether `error` says that there is no socket; whatever else happens to UDP passes.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}

/// What the system calls `error`, without its number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! A link as whoever sends has it: sealed packets go out in rows, or to the end of a stream.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use miragevpn_core::stream::FRAME_HEADER;

use crate::events::Events;
use crate::link::{Link, Socket, is_gone, words};
use crate::sys::{self, Address, MESSAGES, Run};

/// Datagrams that the kernel takes in a row (UDP_MAX_SEGMENTS), of together at most so many bytes.
const MAX_RUN: usize = 64;
const MAX_RUN_BYTES: usize = 65000;

/// Bytes of control packets that may wait for a full TCP socket, beside one arena of data.
const MAX_BACKLOG: usize = 256 * 1024;

/// A packet in the arena, as it goes to its link.
pub(crate) struct Sealed {
    pub(crate) at: Range<usize>,
    pub(crate) link: u64,
    pub(crate) to: SocketAddr,
}

pub(crate) struct Outlet {
    pub(crate) link: Arc<Link>,
    /// What a stream did not take yet.
    pub(crate) backlog: Vec<u8>,
    control: usize, // bytes of control packets in it, at most
    pub(crate) blocked: bool,
    in_runs: bool,
    longest_run: usize, // datagrams of this many bytes do not fit the path in rows
}

impl Outlet {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, backlog: Vec::new(), control: 0, blocked: false, in_runs: true, longest_run: usize::MAX }
    }

    /// Sends a control packet, which waits only behind what is in the socket's way already.
    pub(crate) fn control(&mut self, to: SocketAddr, packet: &[u8], events: &Events) {
        match &self.link.socket {
            Socket::Udp { fd, connected } => {
                let to = (!connected).then(|| Address::from(to));
                let run = [Run { bytes: packet, segment: 0, to }];
                if let Err(error) = sys::send_runs(fd.as_fd(), &run) {
                    if is_gone(&error) {
                        self.link.fail(events, &words(&error));
                    }
                }
            }
            Socket::Tcp(_) => {
                let mut frame = Vec::with_capacity(FRAME_HEADER + packet.len());
                frame.extend_from_slice(&(packet.len() as u16).to_be_bytes());
                frame.extend_from_slice(packet);
                if self.backlog.is_empty() {
                    self.write(&frame, events);
                } else if self.control + frame.len() <= MAX_BACKLOG {
                    self.control += frame.len();
                    self.backlog.extend_from_slice(&frame);
                } else {
                    self.link.fail(events, "the peer does not read what is sent to it");
                }
            }
        }
    }

    /// Writes to a stream; what it does not take waits.
    pub(crate) fn write(&mut self, bytes: &[u8], events: &Events) {
        let sent = match self.link.write(bytes) {
            Ok(sent) => sent,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => {
                self.blocked = false;
                self.link.fail(events, &words(&error));
                return;
            }
        };
        self.backlog.extend_from_slice(&bytes[sent..]);
        self.blocked = !self.backlog.is_empty();
        if !self.blocked {
            self.control = 0;
        }
    }

    /// Sends datagrams; returns how many are done with, and how many of them were lost.
    pub(crate) fn send(&mut self, packets: &[Sealed], arena: &[u8], events: &Events) -> (usize, u64) {
        let Socket::Udp { fd, connected } = &self.link.socket else {
            return (packets.len(), packets.len() as u64);
        };
        let connected = *connected;
        let (mut runs, mut counts) = ([Run { bytes: &[], segment: 0, to: None }; MESSAGES], [0; MESSAGES]);
        let mut made = 0;
        let mut done = 0;
        while made < MESSAGES && done < packets.len() && packets[done].link == self.link.number {
            let count = if self.in_runs { run_length(&packets[done..], self.longest_run) } else { 1 };
            let size = packets[done].at.len();
            runs[made] = Run {
                bytes: &arena[packets[done].at.start..packets[done + count - 1].at.end],
                segment: if count > 1 { size as u16 } else { 0 },
                to: (!connected).then(|| Address::from(packets[done].to)),
            };
            counts[made] = count;
            made += 1;
            done += count;
        }
        // What an earlier packet met (an ICMP message) is told to this call, once, and means nothing to its packets.
        let send = || sys::send_runs(fd.as_fd(), &runs[..made]);
        match send().or_else(|error| if is_about_an_earlier_packet(&error) { send() } else { Err(error) }) {
            Ok(sent) => (counts[..sent].iter().sum(), 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.blocked = true;
                (0, 0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => (0, 0),
            Err(error) if is_gone(&error) => {
                self.link.fail(events, &words(&error));
                (0, 0)
            }
            Err(error) if runs[0].segment != 0 => {
                match error.raw_os_error() {
                    // A row of datagrams larger than the path takes whole.
                    Some(libc::EINVAL | libc::EMSGSIZE) => {
                        self.longest_run = self.longest_run.min(usize::from(runs[0].segment))
                    }
                    // The kernel does not know rows, or the interface cannot make checksums.
                    Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => self.in_runs = false,
                    // Something that each of these would meet alone.
                    _ => return (counts[0], counts[0] as u64),
                }
                (0, 0)
            }
            Err(_) => (1, 1),
        }
    }
}

/// How many of `packets`, from the first on, go to one address in one row: of one length, the last may be shorter.
fn run_length(packets: &[Sealed], longest: usize) -> usize {
    let first = &packets[0];
    let size = first.at.len();
    if size >= longest {
        return 1;
    }
    let mut total = size;
    let mut count = 1;
    for packet in &packets[1..packets.len().min(MAX_RUN)] {
        let length = packet.at.len();
        if packet.link != first.link || packet.to != first.to || length > size || total + length > MAX_RUN_BYTES {
            break;
        }
        total += length;
        count += 1;
        if length < size {
            break;
        }
    }
    count
}

fn is_about_an_earlier_packet(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO))
}

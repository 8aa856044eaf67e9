// SPDX-License-Identifier: BSD-2-Clause
//! Large packets that were read from the TUN and not sealed yet, so that others need not wait behind them.
//!
//! Who sends much hands over 64 KiB at a time, and has a dozen of those on the way. A packet of a flow that has none
//! here goes ahead of them all; those of one flow stay in order. A flow is said by addresses, protocol and ports; by
//! the rest alone where a packet's ports are not to be seen (fragments, IPv6 extension headers).

use std::collections::VecDeque;
use std::ops::Range;

use miragevpn_core::segment::Segments;

/// Bytes that may wait, some four milliseconds of 4 Gbit/s, and packets. More is dropped, as at a full interface.
const MOST: usize = 2 * 1024 * 1024;
const MOST_PACKETS: usize = 512;
/// Empty buffers that are kept for the next ones.
const SPARE: usize = 4;

/// What packets belong together by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    addresses: [u8; 32],
    protocol: u8,
    ports: Option<[u8; 4]>,
}

impl Flow {
    /// The flow of an IP packet.
    pub(crate) fn of(packet: &[u8]) -> Self {
        let mut flow = Self { addresses: [0; 32], protocol: 0, ports: None };
        let (transport, whole) = match packet.first().map(|first| first >> 4) {
            Some(4) if packet.len() >= 20 => {
                flow.addresses[..8].copy_from_slice(&packet[12..20]);
                flow.protocol = packet[9];
                (usize::from(packet[0] & 0x0F) * 4, packet[6] & 0x3F == 0 && packet[7] == 0)
            }
            Some(6) if packet.len() >= 40 => {
                flow.addresses.copy_from_slice(&packet[8..40]);
                flow.protocol = packet[6];
                (40, true)
            }
            _ => return flow,
        };
        if whole && matches!(flow.protocol, 6 | 17) {
            flow.ports = packet.get(transport..).and_then(|rest| rest.first_chunk()).copied();
        }
        flow
    }

    /// Whether packets of the two might be of one.
    fn meets(&self, other: &Self) -> bool {
        let ports = self.ports == other.ports || self.ports.is_none() || other.ports.is_none();
        // An extension header hides which protocol it is, too.
        let protocol = self.protocol == other.protocol || (ports && self.addresses[8..] != [0; 24]);
        ports && protocol && self.addresses == other.addresses
    }
}

/// The packet at `at` of `bytes`.
pub(crate) struct Waiting {
    pub(crate) bytes: Vec<u8>,
    pub(crate) at: Range<usize>,
    /// How it is to be cut; None: it goes as it is.
    pub(crate) segments: Option<Segments>,
    pub(crate) peer: u32,
    pub(crate) flow: Flow,
}

/// A queue of them.
#[derive(Default)]
pub(crate) struct Backlog {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MOST || self.waiting.len() >= MOST_PACKETS
    }

    /// Whether a packet of `flow` has to wait for its turn.
    pub(crate) fn holds(&self, flow: &Flow) -> bool {
        self.waiting.iter().any(|waiting| waiting.flow.meets(flow))
    }

    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.at.len();
        self.waiting.push_back(waiting);
    }

    /// Takes out the one that came first; it may be put back in front.
    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        let first = self.waiting.pop_front()?;
        self.bytes -= first.at.len();
        Some(first)
    }

    pub(crate) fn put_back(&mut self, waiting: Waiting) {
        self.bytes += waiting.at.len();
        self.waiting.push_front(waiting);
    }

    /// An empty buffer of `size` bytes.
    pub(crate) fn buffer(&mut self, size: usize) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| vec![0; size])
    }

    /// Takes a buffer that is not needed any more, if it is one of `size` bytes.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>, size: usize) {
        if buffer.len() == size && self.spare.len() < SPARE {
            self.spare.push(buffer);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, to: u8, port: u8, fragment: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[7] = fragment;
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, to]);
        packet[23] = port;
        packet
    }

    fn v6(protocol: u8, to: u8, port: u8) -> Vec<u8> {
        let mut packet = vec![0; 60];
        packet[0] = 0x60;
        packet[6] = protocol;
        packet[8] = 0xFD;
        packet[39] = to;
        packet[43] = port;
        packet
    }

    fn meet(one: &[u8], other: &[u8]) -> bool {
        let (one, other) = (Flow::of(one), Flow::of(other));
        assert_eq!(one.meets(&other), other.meets(&one));
        one.meets(&other)
    }

    #[test]
    fn packets_of_one_flow_meet_and_no_others() {
        for (protocol, to, port) in [(6, 2, 80), (17, 2, 80), (1, 2, 0)] {
            assert!(meet(&v4(protocol, to, port, 0), &v4(protocol, to, port, 0)));
            assert!(!meet(&v4(protocol, to, port, 0), &v4(protocol, 3, port, 0)));
            assert!(meet(&v6(protocol, to, port), &v6(protocol, to, port)));
            assert!(!meet(&v6(protocol, to, port), &v6(protocol, 3, port)));
        }
        assert!(!meet(&v4(6, 2, 80, 0), &v4(6, 2, 81, 0)));
        assert!(!meet(&v4(6, 2, 80, 0), &v4(17, 2, 80, 0)));
        assert!(!meet(&v4(6, 2, 80, 0), &v4(1, 2, 0, 0)));
        assert!(!meet(&v6(6, 2, 80), &v6(6, 2, 81)));
    }

    #[test]
    fn what_shows_no_ports_stays_behind_all_that_it_may_belong_to() {
        assert!(meet(&v4(17, 2, 80, 1), &v4(17, 2, 81, 0)));
        assert!(!meet(&v4(17, 2, 80, 1), &v4(17, 3, 80, 0)));
        assert!(!meet(&v4(17, 2, 80, 1), &v4(6, 2, 80, 0)));
        assert!(meet(&v6(44, 2, 0), &v6(17, 2, 81))); // a fragment of whatever it is
        assert!(!meet(&v6(44, 2, 0), &v6(17, 3, 81)));
    }

    #[test]
    fn whatever_is_no_ip_packet_is_one_flow() {
        for packet in [&[][..], &[0x45], &[0x60; 39], &[0xFF; 60]] {
            assert!(meet(packet, b""));
            assert!(!meet(packet, &v4(6, 2, 80, 0)));
        }
    }

    #[test]
    fn it_is_bounded_in_bytes_and_in_packets() {
        let waiting = |length| Waiting {
            bytes: Vec::new(),
            at: 0..length,
            segments: None,
            peer: 1,
            flow: Flow::of(&v4(6, 2, 80, 0)),
        };
        for (length, most) in [(65536, MOST / 65536), (40, MOST_PACKETS)] {
            let mut backlog = Backlog::default();
            let mut count = 0;
            while !backlog.is_full() {
                backlog.push(waiting(length));
                count += 1;
            }
            assert_eq!(count, most);
            let first = backlog.pop().unwrap();
            assert!(!backlog.is_full());
            backlog.put_back(first);
            assert!(backlog.is_full() && backlog.holds(&Flow::of(&v4(6, 2, 80, 0))));
            while backlog.pop().is_some() {}
            assert!(backlog.is_empty() && backlog.bytes == 0);
        }
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! Packets as a TUN with virtio-net headers gives them: checksums left open, TCP and UDP in one piece of up to 64 KiB.
//!
//! The header (linux/virtio_net.h, in the machine's byte order):
//!
//! ```text
//! flags 1 | gso type 1 | header length 2 | gso size 2 | checksum start 2 | checksum offset 2
//! ```
//!
//! `prepare` says what a packet needs and does what can be done in place; a [`Segments`] then gives one ordinary packet
//! after the other: IP length, identification (+1 each) and header checksum, TCP sequence number, FIN and PSH on the
//! last one only, CWR on the first one only, UDP length, and the transport checksum. The kernel's header length is not
//! believed; it follows from the packet.

use crate::checksum;

/// Bytes of the header.
pub const VNET_LEN: usize = 10;

pub(crate) const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const TCP_CHECKSUM: usize = 16;
pub(crate) const UDP_CHECKSUM: usize = 6;
pub(crate) const TCP_FLAGS: usize = 13;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const CWR: u8 = 0x80;

/// A packet whose header does not agree with its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inconsistent;

/// The virtio-net header in front of a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Whether the transport checksum is still to be made.
    pub needs_csum: bool,
    /// 0, or one of the kinds of segmentation, with the ECN bit.
    pub gso_type: u8,
    /// Where the payload begins, for those who believe it.
    pub header_len: u16,
    /// Payload of one segment.
    pub gso_size: u16,
    /// Where the checksummed part begins.
    pub csum_start: u16,
    /// Where in it the checksum is.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the header.
    #[must_use]
    pub fn read(bytes: &[u8; VNET_LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            needs_csum: bytes[0] & NEEDS_CSUM != 0,
            gso_type: bytes[1],
            header_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// Writes the header.
    #[must_use]
    pub fn bytes(&self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        bytes[0] = if self.needs_csum { NEEDS_CSUM } else { 0 };
        bytes[1] = self.gso_type;
        for (at, word) in [(2, self.header_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// What is to be done with a packet.
#[derive(Debug)]
pub enum Prepared {
    /// It can go as it is.
    Whole,
    /// It is to be cut.
    Segments(Segments),
}

/// Completes the checksum of an ordinary packet in place, or says how a large one is to be cut.
///
/// # Errors
/// [`Inconsistent`] if header and packet do not agree.
pub fn prepare(header: VnetHeader, packet: &mut [u8]) -> Result<Prepared, Inconsistent> {
    if header.gso_type & !GSO_ECN != GSO_NONE {
        return Segments::of(header, packet).map(Prepared::Segments);
    }
    if header.needs_csum {
        let start = usize::from(header.csum_start);
        let field = start + usize::from(header.csum_offset);
        if field + 2 > packet.len() {
            return Err(Inconsistent);
        }
        // The field holds the pseudo header's sum already.
        let sum = checksum::finish(checksum::add(0, &packet[start..]));
        let udp = usize::from(header.csum_offset) == UDP_CHECKSUM;
        put(packet, field, if udp && sum == 0 { 0xFFFF } else { sum });
    }
    Ok(Prepared::Whole)
}

/// The segments of one large packet that are still to come.
#[derive(Debug)]
pub struct Segments {
    transport: usize,
    payload: usize,
    size: usize,
    checksum: usize,
    tcp: bool,
    pseudo: u64, // the pseudo header's sum without the length
    next: usize, // offset of the next segment's data
    first: bool,
    total: usize,
    number: u16,
}

impl Segments {
    fn of(header: VnetHeader, packet: &[u8]) -> Result<Self, Inconsistent> {
        let version = packet.first().ok_or(Inconsistent)? >> 4;
        let tcp = match (header.gso_type & !GSO_ECN, version) {
            (GSO_TCPV4, 4) | (GSO_TCPV6, 6) => true,
            (GSO_UDP_L4, 4 | 6) => false,
            _ => return Err(Inconsistent),
        };
        let transport = usize::from(header.csum_start);
        let least = if version == 4 { usize::from(packet[0] & 0x0F) * 4 } else { 40 };
        // Behind IPv4's header the transport's follows at once; IPv6 may have others in between.
        if least < 20 || transport < least || (version == 4 && transport != least) {
            return Err(Inconsistent);
        }
        let fixed = if tcp { 20 } else { 8 };
        if packet.len() < transport + fixed || header.gso_size == 0 || !header.needs_csum {
            return Err(Inconsistent);
        }
        let own = if tcp { usize::from(packet[transport + 12] >> 4) * 4 } else { fixed };
        let payload = transport + own;
        let offset = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        if own < fixed || packet.len() <= payload || usize::from(header.csum_offset) != offset {
            return Err(Inconsistent);
        }
        // What the checksum field holds is the sum of the pseudo header with the length of it all, which is taken out
        // of it again: adding the complement is subtracting.
        let checksum = transport + offset;
        let whole = (packet.len() - transport) as u16;
        let pseudo = checksum::add_word(checksum::add(0, &packet[checksum..checksum + 2]), !whole);
        Ok(Self {
            transport,
            payload,
            size: usize::from(header.gso_size),
            checksum,
            tcp,
            pseudo,
            next: payload,
            first: true,
            total: packet.len(),
            number: 0,
        })
    }

    /// Bytes that the longest segment has.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.payload + self.size.min(self.total - self.payload)
    }

    /// Writes the next segment of `packet`, the one that this was made of, to the beginning of `out`.
    ///
    /// Returns its length; None when there are no more, or `out` is shorter than [`Self::longest`].
    pub fn next_into(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let end = self.total.min(self.next + self.size);
        let length = self.payload + (end - self.next);
        if self.next >= self.total || packet.len() != self.total || out.len() < length {
            return None;
        }
        let out = &mut out[..length];
        out[..self.payload].copy_from_slice(&packet[..self.payload]);
        let data = checksum::add_copied(0, &packet[self.next..end], &mut out[self.payload..]);
        self.number_ip(out);
        self.number_transport(out, data, end == self.total);
        self.next = end;
        self.first = false;
        self.number = self.number.wrapping_add(1);
        Some(length)
    }

    /// How many are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        (self.total - self.next).div_ceil(self.size)
    }

    /// Gives no more.
    pub fn end(&mut self) {
        self.next = self.total;
    }

    /// Whether all segments were given.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next >= self.total
    }

    fn number_ip(&self, out: &mut [u8]) {
        if out[0] >> 4 == 4 {
            put(out, 2, out.len() as u16);
            put(out, 4, word(out, 4).wrapping_add(self.number));
            put(out, 10, 0);
            let sum = checksum::finish(checksum::add(0, &out[..self.transport]));
            put(out, 10, sum);
        } else {
            put(out, 4, (out.len() - 40) as u16);
        }
    }

    /// `data` is the sum of what the header is followed by.
    fn number_transport(&self, out: &mut [u8], data: u64, last: bool) {
        let at = self.transport;
        if self.tcp {
            let sequence = u32::from_be_bytes([out[at + 4], out[at + 5], out[at + 6], out[at + 7]]);
            let sequence = sequence.wrapping_add((self.next - self.payload) as u32);
            out[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                out[at + TCP_FLAGS] &= !(FIN | PSH);
            }
            if !self.first {
                out[at + TCP_FLAGS] &= !CWR;
            }
        } else {
            put(out, at + 4, (out.len() - at) as u16);
        }
        put(out, self.checksum, 0);
        let pseudo = checksum::add_word(self.pseudo, (out.len() - at) as u16);
        let sum = checksum::finish(checksum::add(pseudo + data, &out[at..self.payload]));
        put(out, self.checksum, if sum == 0 && !self.tcp { 0xFFFF } else { sum });
    }
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

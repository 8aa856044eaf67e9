// SPDX-License-Identifier: BSD-2-Clause
//! Packets of one flow that follow each other, put together for a TUN with virtio-net headers.
//!
//! What comes out, cut by the kernel (or by `segment`), gives the packets that went in: only segments of one size are
//! joined, a shorter one ends the row, so do PSH and FIN, nothing with SYN, RST, URG or CWR is touched, everything
//! else in the headers must be alike, and identifications must count up (where "don't fragment" is set they mean
//! nothing: RFC 6864). Checksums are verified before two packets are joined: a wrong one stays wrong, and alone.
//!
//! Order: packets of one flow stay in order, and none passes a packet that is not plain TCP or UDP.

use core::ops::Range;

use crate::checksum;
use crate::segment::{
    FIN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, PSH, TCP, TCP_CHECKSUM, TCP_FLAGS, UDP, UDP_CHECKSUM, VNET_LEN, VnetHeader,
    put, word,
};

const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const NONE: u32 = u32::MAX;
/// Flows that are looked at at once; the oldest gives way.
const MAX_FLOWS: usize = 16;
/// Packets in a row: as many as the kernel itself puts together for UDP (UDP_GRO_CNT_MAX).
const MAX_ROW: u32 = 64;
const MAX_BYTES: usize = 65535;
/// virtio-net header, IPv6 header, longest TCP header.
const HEAD: usize = VNET_LEN + 40 + 60;

/// One write to the TUN: a head, and the pieces behind it.
#[derive(Debug)]
pub struct Frame {
    head: [u8; HEAD],
    head_len: usize,
    first: u32,
    last: u32,
    row: Row,
}

/// What the packets of a frame have in common.
#[derive(Debug, Clone)]
struct Row {
    packet: Range<usize>, // the first one
    transport: usize,
    payload: usize,
    size: usize,
    total: usize, // bytes of the packet that it makes
    count: u32,
    tcp: bool,
    verified: bool,
    closed: bool,
    flags: u8,
}

#[derive(Debug)]
struct Piece {
    at: Range<usize>,
    next: u32,
}

/// Puts together what is pushed, until it is emptied.
#[derive(Debug)]
pub struct Coalescer {
    tcp: bool,
    udp: bool,
    frames: Vec<Frame>,
    pieces: Vec<Piece>,
    flows: Vec<u32>, // frames that may still grow
}

impl Coalescer {
    /// `tcp`, `udp`: what the TUN takes in large pieces.
    #[must_use]
    pub fn new(tcp: bool, udp: bool) -> Self {
        Self { tcp, udp, frames: Vec::new(), pieces: Vec::new(), flows: Vec::with_capacity(MAX_FLOWS) }
    }

    /// Forgets everything pushed.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.pieces.clear();
        self.flows.clear();
    }

    /// Takes the IP packet at `at` of `arena`, whose version and lengths were found right.
    pub fn push(&mut self, arena: &[u8], at: Range<usize>) {
        let packet = &arena[at.clone()];
        let Some(row) = self.row_of(packet, &at) else {
            self.flows.clear(); // nothing passes it
            self.alone(at);
            return;
        };
        let known = self.flows.iter().position(|&n| same_flow(arena, &self.frames[n as usize].row, packet, &row));
        if let Some(flow) = known {
            let number = self.flows[flow];
            if self.append(arena, number, packet, &row) {
                if self.frames[number as usize].row.closed {
                    self.flows.swap_remove(flow);
                }
                return;
            }
            self.flows.swap_remove(flow);
        }
        let grows = !row.closed;
        self.begin(at, row);
        if grows {
            if self.flows.len() == MAX_FLOWS {
                self.flows.remove(0);
            }
            self.flows.push((self.frames.len() - 1) as u32);
        }
    }

    /// Completes the heads; call once, after the last `push` and before [`Self::frames`].
    pub fn finish(&mut self, arena: &[u8]) {
        for frame in &mut self.frames {
            if frame.row.count > 1 {
                frame.complete(arena);
            }
        }
    }

    /// The frames, in the order to write them in.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The pieces of `arena` behind the head of `frame`.
    pub fn pieces<'a>(&'a self, frame: &Frame) -> impl Iterator<Item = Range<usize>> + 'a {
        let mut next = frame.first;
        core::iter::from_fn(move || {
            let piece = self.pieces.get(next as usize)?;
            next = piece.next;
            Some(piece.at.clone())
        })
    }

    fn alone(&mut self, at: Range<usize>) {
        let row = Row {
            packet: at.clone(),
            transport: 0,
            payload: 0,
            size: 0,
            total: at.len(),
            count: 1,
            tcp: false,
            verified: false,
            closed: true,
            flags: 0,
        };
        self.begin(at, row);
    }

    fn begin(&mut self, at: Range<usize>, row: Row) {
        let piece = self.pieces.len() as u32;
        self.pieces.push(Piece { at, next: NONE });
        self.frames.push(Frame { head: [0; HEAD], head_len: VNET_LEN, first: piece, last: piece, row });
    }

    /// What `packet` could be joined by; None if it is not for joining, and nothing may pass it.
    fn row_of(&self, packet: &[u8], at: &Range<usize>) -> Option<Row> {
        let (protocol, transport) = match packet[0] >> 4 {
            4 if packet[0] & 0x0F == 5 && word(packet, 6) & 0x3FFF == 0 => (packet[9], 20),
            6 => (packet[6], 40),
            _ => return None,
        };
        let mut row = Row {
            packet: at.clone(),
            transport,
            payload: 0,
            size: 0,
            total: packet.len(),
            count: 1,
            tcp: protocol == TCP,
            verified: false,
            closed: false,
            flags: 0,
        };
        match protocol {
            TCP if packet.len() >= transport + 20 => {
                row.payload = transport + usize::from(packet[transport + 12] >> 4) * 4;
                if row.payload < transport + 20 || row.payload > packet.len() {
                    return None;
                }
                row.flags = packet[transport + TCP_FLAGS];
                row.closed = !self.tcp || row.flags & !(PSH | FIN | ECE) != ACK || row.flags & (PSH | FIN) != 0;
            }
            UDP if packet.len() >= transport + 8 => {
                row.payload = transport + 8;
                if usize::from(word(packet, transport + 4)) != packet.len() - transport {
                    return None;
                }
                row.closed = !self.udp || word(packet, transport + UDP_CHECKSUM) == 0;
            }
            _ => return None,
        }
        row.size = packet.len() - row.payload;
        row.closed |= row.size == 0;
        Some(row)
    }

    /// Adds `packet` to the frame of its flow if that loses nothing.
    fn append(&mut self, arena: &[u8], number: u32, packet: &[u8], row: &Row) -> bool {
        let frame = &mut self.frames[number as usize];
        let head = &mut frame.row;
        let first = &arena[head.packet.clone()];
        if !follows(first, head, packet, row) {
            return false;
        }
        if !head.verified {
            head.verified = is_valid(first, head.transport, head.tcp);
        }
        if !head.verified || !is_valid(packet, row.transport, row.tcp) {
            return false;
        }
        head.total += row.size;
        head.count += 1;
        head.flags |= row.flags;
        head.closed = row.closed || row.size < head.size || head.count == MAX_ROW;
        let piece = self.pieces.len() as u32;
        self.pieces.push(Piece { at: row.packet.start + row.payload..row.packet.end, next: NONE });
        self.pieces[frame.last as usize].next = piece;
        frame.last = piece;
        if frame.row.count == 2 {
            // The first piece was the whole packet; its headers are the head's now.
            let first = &mut self.pieces[frame.first as usize];
            first.at.start += frame.row.payload;
        }
        true
    }
}

impl Frame {
    /// Virtio-net header, and the IP and transport headers if packets were joined.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_len]
    }

    /// How many packets it holds.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.row.count
    }

    /// Whether they are TCP; if it holds several, they are UDP otherwise.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        self.row.tcp
    }

    fn complete(&mut self, arena: &[u8]) {
        let row = &self.row;
        let offset = if row.tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        self.head_len = VNET_LEN + row.payload;
        let (vnet, headers) = self.head[..VNET_LEN + row.payload].split_at_mut(VNET_LEN);
        headers.copy_from_slice(&arena[row.packet.start..row.packet.start + row.payload]);
        let v4 = headers[0] >> 4 == 4;
        let header = VnetHeader {
            needs_csum: true,
            gso_type: match (row.tcp, v4) {
                (false, _) => GSO_UDP_L4,
                (true, true) => GSO_TCPV4,
                (true, false) => GSO_TCPV6,
            },
            header_len: row.payload as u16,
            gso_size: row.size as u16,
            csum_start: row.transport as u16,
            csum_offset: offset as u16,
        };
        vnet.copy_from_slice(&header.bytes());
        let length = row.total - row.transport;
        let pseudo = if v4 {
            put(headers, 2, row.total as u16);
            put(headers, 10, 0);
            let sum = checksum::finish(checksum::add(0, &headers[..20]));
            put(headers, 10, sum);
            checksum::pseudo(&headers[12..20], if row.tcp { TCP } else { UDP }, length)
        } else {
            put(headers, 4, (row.total - 40) as u16);
            checksum::pseudo(&headers[8..40], if row.tcp { TCP } else { UDP }, length)
        };
        if row.tcp {
            headers[row.transport + TCP_FLAGS] = row.flags;
        } else {
            put(headers, row.transport + 4, length as u16);
        }
        put(headers, row.transport + offset, checksum::fold(pseudo));
    }
}

/// Whether both packets have one protocol, and the same addresses and ports.
fn same_flow(arena: &[u8], row: &Row, packet: &[u8], other: &Row) -> bool {
    let first = &arena[row.packet.clone()];
    // IPv4's header is 20 bytes here, so that equal offsets of the transport mean equal versions.
    let addresses = if row.transport == 20 { 12 } else { 8 };
    row.tcp == other.tcp
        && row.transport == other.transport
        && first[addresses..row.transport + 4] == packet[addresses..row.transport + 4]
}

/// Whether `packet` is what comes next in `row`, whose first packet is `first`.
fn follows(first: &[u8], row: &Row, packet: &[u8], other: &Row) -> bool {
    if other.size == 0 || other.size > row.size || row.payload != other.payload || row.total + other.size > MAX_BYTES {
        return false;
    }
    let ip_alike = if row.transport == 20 {
        // Version, length, service; fragmentation and time to live.
        let counted = word(first, 4).wrapping_add(row.count as u16) == word(packet, 4);
        first[..2] == packet[..2] && first[6..9] == packet[6..9] && (first[6] & 0x40 != 0 || counted)
    } else {
        first[..4] == packet[..4] && first[7] == packet[7]
    };
    if !ip_alike || !row.tcp {
        return ip_alike && !row.closed && word(packet, row.transport + UDP_CHECKSUM) != 0;
    }
    let at = row.transport;
    let number = |bytes: &[u8]| u32::from_be_bytes([bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]]);
    let expected = number(first).wrapping_add((row.total - row.payload) as u32);
    number(packet) == expected
        && other.flags & !(PSH | FIN) == row.flags
        // Acknowledgement, header length and reserved bits; window; urgent pointer and options.
        && first[at + 8..at + 13] == packet[at + 8..at + 13]
        && first[at + 14..at + 16] == packet[at + 14..at + 16]
        && first[at + 18..row.payload] == packet[at + 18..row.payload]
}

/// Whether the transport checksum of `packet` is right.
fn is_valid(packet: &[u8], transport: usize, tcp: bool) -> bool {
    let addresses = if transport == 20 { &packet[12..20] } else { &packet[8..40] };
    // The header's, too: it is made anew for what is joined, which would hide that it was wrong.
    if transport == 20 && checksum::fold(checksum::add(0, &packet[..20])) != 0xFFFF {
        return false;
    }
    let pseudo = checksum::pseudo(addresses, if tcp { TCP } else { UDP }, packet.len() - transport);
    checksum::fold(checksum::add(pseudo, &packet[transport..])) == 0xFFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{CWR, Prepared, prepare};

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % sides
        }
    }

    fn seal(packet: &mut [u8], transport: usize, tcp: bool) {
        let field = transport + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        put(packet, field, 0);
        let addresses = if transport == 20 { &packet[12..20] } else { &packet[8..40] };
        let pseudo = checksum::pseudo(addresses, if tcp { TCP } else { UDP }, packet.len() - transport);
        let sum = checksum::finish(checksum::add(pseudo, &packet[transport..]));
        put(packet, field, if sum == 0 && !tcp { 0xFFFF } else { sum });
        if transport == 20 {
            put(packet, 10, 0);
            let sum = checksum::finish(checksum::add(0, &packet[..20]));
            put(packet, 10, sum);
        }
    }

    struct Sender {
        v6: bool,
        tcp: bool,
        port: u8,
        sequence: u32,
        id: u16,
    }

    impl Sender {
        fn packet(&mut self, size: usize, flags: u8, dice: &mut Dice) -> Vec<u8> {
            let transport = if self.v6 { 40 } else { 20 };
            let options = if self.tcp { 12 } else { 0 };
            let own = if self.tcp { 20 + options } else { 8 };
            let mut packet = vec![0u8; transport + own + size];
            let total = packet.len();
            let protocol = if self.tcp { TCP } else { UDP };
            if self.v6 {
                packet[0] = 0x60;
                put(&mut packet, 4, (total - 40) as u16);
                packet[6] = protocol;
                packet[7] = 64;
                packet[23] = 1;
                packet[39] = 2;
            } else {
                packet[0] = 0x45;
                put(&mut packet, 2, total as u16);
                put(&mut packet, 4, self.id);
                packet[8] = 64;
                packet[9] = protocol;
                packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
                self.id = self.id.wrapping_add(1);
            }
            packet[transport + 1] = self.port;
            packet[transport + 3] = 80;
            if self.tcp {
                packet[transport + 4..transport + 8].copy_from_slice(&self.sequence.to_be_bytes());
                packet[transport + 12] = 0x80;
                packet[transport + TCP_FLAGS] = flags;
                self.sequence = self.sequence.wrapping_add(size as u32);
            } else {
                put(&mut packet, transport + 4, (8 + size) as u16);
            }
            for byte in &mut packet[transport + own..] {
                *byte = dice.roll(256) as u8;
            }
            seal(&mut packet, transport, self.tcp);
            packet
        }
    }

    /// Coalesces, writes the frames as the TUN would get them, and cuts them again.
    fn there_and_back(packets: &[Vec<u8>], tcp: bool, udp: bool) -> (Vec<Vec<u8>>, usize) {
        let arena: Vec<u8> = packets.concat();
        let mut coalescer = Coalescer::new(tcp, udp);
        let mut at = 0;
        for packet in packets {
            coalescer.push(&arena, at..at + packet.len());
            at += packet.len();
        }
        coalescer.finish(&arena);
        let mut out = Vec::new();
        for frame in coalescer.frames() {
            let mut bytes = frame.head().to_vec();
            for piece in coalescer.pieces(frame) {
                bytes.extend_from_slice(&arena[piece]);
            }
            let header = VnetHeader::read(bytes[..VNET_LEN].try_into().unwrap());
            let mut packet = bytes.split_off(VNET_LEN);
            match prepare(header, &mut packet).unwrap() {
                Prepared::Whole => out.push(packet),
                Prepared::Segments(mut segments) => {
                    let mut room = vec![0; segments.longest()];
                    while let Some(length) = segments.next_into(&packet, &mut room) {
                        out.push(room[..length].to_vec());
                    }
                }
            }
        }
        (out, coalescer.frames().len())
    }

    /// Packets in an order that only moves whole flows against each other.
    fn by_flow(packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
        let mut flows: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
        for packet in packets {
            let transport = if packet[0] >> 4 == 4 { 20 } else { 40 };
            let protocol = if transport == 20 { packet[9] } else { packet[6] };
            let key = vec![packet[0], protocol, packet[transport + 1]];
            match flows.iter_mut().find(|(known, _)| *known == key) {
                Some((_, list)) => list.push(packet.clone()),
                None => flows.push((key, vec![packet.clone()])),
            }
        }
        flows.sort();
        flows.into_iter().map(|(_, list)| list).collect()
    }

    #[test]
    fn a_row_becomes_one_write_and_comes_back_byte_by_byte() {
        let mut dice = Dice(1);
        for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
            let mut sender = Sender { v6, tcp, port: 5, sequence: 0xFFFF_F000, id: 0xFFF0 };
            let mut packets: Vec<_> = (0..30).map(|_| sender.packet(1300, ACK, &mut dice)).collect();
            packets.push(sender.packet(700, ACK | PSH | if v6 { FIN } else { 0 }, &mut dice));
            let (out, frames) = there_and_back(&packets, true, true);
            assert_eq!(out, packets);
            assert_eq!(frames, 1);
        }
    }

    #[test]
    fn any_mixture_comes_back_flow_by_flow() {
        for seed in 0..400 {
            let mut dice = Dice(seed);
            let mut senders: Vec<_> = (0..8)
                .map(|n| Sender { v6: n & 1 == 1, tcp: n & 2 == 2, port: n, sequence: u32::MAX - 3000, id: 65530 })
                .collect();
            let sizes = [0, 1, 7, 100, 1300, 1300, 1300, 1300];
            let packets: Vec<_> = (0..100)
                .map(|_| {
                    let sender = &mut senders[dice.roll(8)];
                    let flags = [ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | ECE, ACK | CWR, 2][dice.roll(8)];
                    let size = sizes[dice.roll(8)];
                    let mut packet = sender.packet(size, flags, &mut dice);
                    match dice.roll(12) {
                        0 => sender.sequence = sender.sequence.wrapping_add(77),
                        1 => sender.id = sender.id.wrapping_add(9),
                        2 => *packet.last_mut().unwrap() ^= 1, // a wrong checksum stays wrong
                        _ => {}
                    }
                    packet
                })
                .collect();
            let (out, frames) = there_and_back(&packets, true, true);
            assert_eq!(by_flow(&out), by_flow(&packets), "seed {seed}");
            assert!(frames < packets.len());
        }
    }

    #[test]
    fn what_the_tun_does_not_take_is_left_alone() {
        let mut dice = Dice(3);
        for tcp in [true, false] {
            let mut sender = Sender { v6: false, tcp, port: 5, sequence: 1, id: 1 };
            let packets: Vec<_> = (0..10).map(|_| sender.packet(1000, ACK, &mut dice)).collect();
            let (out, frames) = there_and_back(&packets, !tcp, tcp);
            assert_eq!((out, frames), (packets, 10));
        }
    }

    #[test]
    fn nothing_passes_a_packet_of_another_kind() {
        let mut dice = Dice(4);
        let mut sender = Sender { v6: false, tcp: true, port: 5, sequence: 1, id: 1 };
        let mut packets: Vec<_> = (0..3).map(|_| sender.packet(1000, ACK, &mut dice)).collect();
        let mut icmp = packets[0].clone();
        icmp[9] = 1;
        packets.insert(1, icmp);
        let (out, frames) = there_and_back(&packets, true, true);
        assert_eq!((out, frames), (packets, 3));
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! Whatever comes from outside, at random and for as long as wanted: nothing panics, and what must hold holds.
//!
//! A bounded run of the same chance every time; with FUZZ_SECONDS set each target runs for so long, from FUZZ_SEED (or
//! the time of day). What fails names its seed.

#[path = "../src/testing.rs"]
mod testing;

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use miragevpn_core::coalesce::Coalescer;
use miragevpn_core::framing::Framing;
use miragevpn_core::inner::{Payload, addresses, classify};
use miragevpn_core::segment::{Prepared, VNET_LEN, VnetHeader, prepare};
use miragevpn_core::stream::{FRAME_HEADER, Impossible, MAX_FRAME, Stream};
use miragevpn_core::{
    Digest, DirectionKeys, Format, KeySpec, Limits, NO_PEER_ID, Opener, Sealer, Suite, checksum, make_key, mss,
};
use testing::Chance;
use zeroize::Zeroizing;

/// Run `target` with one seed after the other: `rounds` of them, or until the time is over.
fn hunt(rounds: u64, target: impl Fn(&mut Chance)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("FUZZ_SECONDS").map(Duration::from_secs);
    let today = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let first = number("FUZZ_SEED").unwrap_or_else(|| if seconds.is_some() { today() } else { 1 });
    let start = Instant::now();
    for round in 0_u64.. {
        if seconds.map_or(round >= rounds, |seconds| start.elapsed() >= seconds) {
            break;
        }
        let seed = first.wrapping_add(round);
        let named = Named(seed);
        target(&mut Chance::new(seed));
        std::mem::forget(named);
    }
}

/// Says which seed it was, when a panic unwinds past it.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("FUZZ_SEED={}", self.0);
    }
}

impl Chance {
    fn size(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next() as u8).collect()
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// `bytes` as somebody on the way may have made them.
fn spoil(bytes: &mut Vec<u8>, chance: &mut Chance) {
    for _ in 0..=chance.size(3) {
        if bytes.is_empty() {
            return;
        }
        let at = chance.size(bytes.len());
        match chance.below(6) {
            0 => bytes.truncate(at),
            1 => {
                let more = chance.size(40);
                bytes.extend(chance.bytes(more));
            }
            2 => bytes[at] = chance.next() as u8,
            3 => bytes[at.min(3)] ^= 1 << chance.below(8),
            4 => bytes[at] ^= 1 << chance.below(8),
            _ => {
                let other = chance.size(bytes.len());
                bytes.swap(at, other);
            }
        }
    }
}

fn key(chance: &mut Chance) -> (Sealer, Opener) {
    let aead = [Suite::Aes128Gcm, Suite::Aes192Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
    let cbc = [Suite::Aes128Cbc, Suite::Aes192Cbc, Suite::Aes256Cbc];
    let (suite, format) = match chance.below(5) {
        0 | 1 => (aead[chance.size(4)], Format::Plain),
        2 => (aead[chance.size(4)], Format::Epoch),
        3 => (cbc[chance.size(3)], Format::Plain),
        _ => (cbc[chance.size(3)], Format::Static { since: 7 }),
    };
    let digest = [Digest::Sha1, Digest::Sha256, Digest::Sha512, Digest::Blake2s256][chance.size(4)];
    let size = if format == Format::Epoch { 32 } else { suite.key_size() };
    let mut part = |size| Zeroizing::new(chance.bytes(size));
    let way = DirectionKeys { cipher_key: part(size), implicit_iv: part(8), hmac_key: part(digest.size()) };
    let digest = (!suite.is_aead()).then_some(digest);
    let spec = KeySpec { suite, digest, format, send: way.clone(), receive: way };
    let peer_id = if format == Format::Epoch || chance.one_in(2) { 77 } else { NO_PEER_ID };
    let limits = Limits { replay_window: 1 + chance.size(200), ..Limits::default() };
    let entropy = |buffer: &mut [u8]| {
        buffer.fill(0x5A);
        true
    };
    make_key(3, &spec, peer_id, &limits, Box::new(entropy)).expect("the keys fit")
}

#[test]
fn nothing_forged_is_opened() {
    hunt(300, |chance| {
        let (mut sealer, mut opener) = key(chance);
        let (head, tail) = (sealer.head(), sealer.tail());
        let (mut packets, mut payloads) = (Vec::new(), HashSet::new());
        for number in 0..20 {
            let size = 8 + chance.size(100);
            let mut buffer = chance.bytes(head + size + tail);
            buffer[head] = number; // no two are alike
            payloads.insert(buffer[head..head + size].to_vec());
            let size = sealer.seal(&mut buffer, size).expect("a new key, and room");
            buffer.truncate(size);
            packets.push(buffer);
        }
        let mut opened = HashSet::new();
        for _ in 0..60 {
            let mut packet = packets[chance.size(20)].clone();
            if chance.one_in(2) {
                spoil(&mut packet, chance);
            }
            if let Ok(at) = opener.open(&mut packet) {
                let payload = packet[at].to_vec();
                assert!(payloads.contains(&payload), "a payload that nobody sent");
                assert!(opened.insert(payload), "a payload that came twice");
            }
        }
        assert!(!opened.is_empty());
        assert_eq!(opener.usage().received().0, opened.len() as u64);
    });
}

/// Makes IPv4 and TCP or UDP checksums right, if the lengths let it.
fn mend(packet: &mut [u8]) {
    let v4 = packet[0] >> 4 == 4;
    let (transport, protocol) = if v4 { (20, packet[9]) } else { (40, packet[6]) };
    let field = transport
        + match protocol {
            6 => 16,
            17 => 6,
            _ => return,
        };
    packet[field..field + 2].fill(0);
    let ends = if v4 { &packet[12..20] } else { &packet[8..40] };
    let pseudo = checksum::pseudo(ends, protocol, packet.len() - transport);
    let mut sum = checksum::finish(checksum::add(pseudo, &packet[transport..]));
    if sum == 0 && protocol == 17 {
        sum = 0xFFFF;
    }
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    if v4 {
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::add(0, &packet[..20]));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A row of segments of one flow, each with more than 10 bytes of payload.
fn row(chance: &mut Chance) -> Vec<Vec<u8>> {
    let (v6, tcp, port) = (chance.one_in(2), !chance.one_in(3), chance.below(3) as u8);
    let (mut sequence, mut id) = (chance.next() as u32, chance.next() as u16);
    let size = 12 + chance.size(200);
    let made = 1 + chance.size(12);
    let (transport, own) = (if v6 { 40 } else { 20 }, if tcp { 32 } else { 8 });
    let mut all = Vec::new();
    for number in 0..made {
        let size = if number + 1 == made && chance.one_in(2) { size - chance.size(size - 11) } else { size };
        let mut packet = vec![0; transport + own];
        packet.extend(chance.bytes(size));
        let total = packet.len();
        if v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
            (packet[6], packet[7], packet[23], packet[39]) = (if tcp { 6 } else { 17 }, 64, 1, 2);
        } else {
            (packet[0], packet[8], packet[9]) = (0x45, 64, if tcp { 6 } else { 17 });
            packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            id = id.wrapping_add(1);
        }
        (packet[transport + 1], packet[transport + 3]) = (port, 80);
        if tcp {
            packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            (packet[transport + 12], packet[transport + 13]) = (0x80, 0x10);
            sequence = sequence.wrapping_add(size as u32);
        } else {
            packet[transport + 4..transport + 6].copy_from_slice(&((8 + size) as u16).to_be_bytes());
        }
        mend(&mut packet);
        all.push(packet);
    }
    all
}

/// Damage that leaves a well-formed IP packet, more often than not.
fn twist(packet: &mut [u8], chance: &mut Chance) {
    for _ in 0..chance.size(3) {
        let at = 1 + chance.size(packet.len().min(80) - 1);
        let length = if packet[0] >> 4 == 4 { 2..4 } else { 4..6 };
        if !length.contains(&at) {
            packet[at] ^= 1 << chance.below(8);
        }
    }
}

fn cut(frame: &[u8]) -> Vec<Vec<u8>> {
    let (vnet, packet) = frame.split_first_chunk::<VNET_LEN>().expect("a frame has a header");
    let mut packet = packet.to_vec();
    match prepare(VnetHeader::read(vnet), &mut packet).expect("our own header fits") {
        Prepared::Whole => vec![packet],
        Prepared::Segments(mut segments) => {
            let mut room = vec![0; segments.longest()];
            std::iter::from_fn(|| segments.next_into(&packet, &mut room).map(|size| room[..size].to_vec())).collect()
        }
    }
}

/// In one order; and IPv4's identification and header checksum left out where "don't fragment" is set, since they mean
/// nothing there (RFC 6864).
fn relaxed(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = packets.to_vec();
    for packet in &mut all {
        if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }
    all.sort();
    all
}

#[test]
fn what_is_joined_comes_apart_as_it_was() {
    hunt(3000, |chance| {
        let mut packets: Vec<Vec<u8>> = (0..1 + chance.size(5)).flat_map(|_| row(chance)).collect();
        for packet in &mut packets {
            if chance.one_in(4) {
                twist(packet, chance);
                if !chance.one_in(8) {
                    mend(packet);
                }
            }
        }
        packets.retain(|packet| addresses(packet).is_some());
        let arena = packets.concat();
        let mut coalescer = Coalescer::new(!chance.one_in(8), !chance.one_in(8));
        let mut at = 0;
        for packet in &packets {
            coalescer.push(&arena, at..at + packet.len());
            at += packet.len();
        }
        coalescer.finish(&arena);
        let mut again = Vec::new();
        for frame in coalescer.frames() {
            let mut bytes = frame.head().to_vec();
            coalescer.pieces(frame).for_each(|piece: Range<usize>| bytes.extend_from_slice(&arena[piece]));
            assert!(bytes.len() <= VNET_LEN + 0xFFFF, "no IP packet is that long");
            again.extend(cut(&bytes));
        }
        let (again, packets) = (relaxed(&again), relaxed(&packets));
        let first = again.iter().zip(&packets).find(|(came, went)| came != went);
        assert!(again.len() == packets.len() && first.is_none(), "{first:?}");
    });
}

#[test]
fn any_virtio_header_is_survived() {
    hunt(20_000, |chance| {
        let mut packet = row(chance).concat();
        packet.truncate(0xFFFF);
        let total = packet.len();
        if packet[0] >> 4 == 4 {
            packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        } else {
            packet[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        }
        if chance.one_in(2) {
            spoil(&mut packet, chance);
        }
        let mut vnet = [0; VNET_LEN];
        vnet.copy_from_slice(&chance.bytes(VNET_LEN));
        if !chance.one_in(4) {
            // Plausible: a kind that exists, numbers that may fit.
            let mut put = |at: usize, value: u16| vnet[at..at + 2].copy_from_slice(&value.to_ne_bytes());
            put(0, u16::from_ne_bytes([1, [0, 1, 4, 5, 0x81][chance.size(5)]]));
            put(4, chance.below(300) as u16);
            put(6, [20, 40, chance.below(70) as u16][chance.size(3)]);
            put(8, [6, 16, chance.below(30) as u16][chance.size(3)]);
        }
        let Ok(Prepared::Segments(mut segments)) = prepare(VnetHeader::read(&vnet), &mut packet) else {
            return;
        };
        let mut room = vec![0; segments.longest()];
        let mut made = 0;
        while let Some(size) = segments.next_into(&packet, &mut room) {
            assert!(addresses(&room[..size]).is_some(), "a segment is a whole IP packet");
            made += size;
        }
        assert!(segments.is_done() && made >= packet.len());
    });
}

#[test]
fn the_mss_is_lowered_and_nothing_else() {
    hunt(20_000, |chance| {
        let mut packet = row(chance).remove(0);
        let transport = if packet[0] >> 4 == 4 { 20 } else { 40 };
        if packet.len() > transport + 20 {
            packet[transport + 13] |= 2;
            packet[transport + 12] = (5 + chance.below(11) as u8) << 4;
            let options = packet.len().min(transport + 60);
            for byte in &mut packet[transport + 20..options] {
                *byte = [0, 1, 2, 2, 3, 4, 4, 10][chance.size(8)];
            }
        }
        twist(&mut packet, chance);
        let (before, limit) = (packet.clone(), chance.next() as u16);
        mss::clamp(&mut packet, limit, limit);
        let once = packet.clone();
        mss::clamp(&mut packet, limit, limit);
        assert_eq!(packet, once, "the second time there is nothing left to lower");
        assert_eq!(packet[..transport + 8], before[..transport + 8]);
        mss::clamp(&mut packet, 0, 0);
        assert_eq!(packet, once, "no limit, no change");
    });
}

#[test]
fn payloads_and_framings_are_survived() {
    hunt(20_000, |chance| {
        let mut payload = row(chance).remove(0);
        spoil(&mut payload, chance);
        if let Payload::Ip { .. } = classify(&payload) {
            assert!(payload.len() >= 20);
        }
        for framing in [Framing::None, Framing::Byte, Framing::Swapped, Framing::V2] {
            let mut any = payload.clone();
            let size = any.len();
            if let Ok(at) = framing.unwrap(&mut any, 0..size) {
                assert!(at.end <= size);
            }
            if !payload.is_empty() {
                let mut buffer = vec![0; framing.head()];
                buffer.extend_from_slice(&payload);
                let end = buffer.len();
                let framed = framing.wrap(&mut buffer, framing.head()..end);
                let at = framing.unwrap(&mut buffer, framed).expect("our own framing");
                assert_eq!(buffer[at], payload);
            }
        }
    });
}

#[test]
fn a_stream_is_cut_as_its_lengths_say() {
    hunt(300, |chance| {
        let (mut stream, mut sent, mut expected) = (Vec::new(), 0, Vec::new());
        let mut reader = Stream::default();
        for _ in 0..1 + chance.size(60) {
            let limit = [3, 200, 1600, MAX_FRAME][chance.size(4)];
            let size = 1 + chance.size(limit);
            let packet = chance.bytes(size);
            stream.extend_from_slice(&(size as u16).to_be_bytes());
            stream.extend_from_slice(&packet);
            expected.push(packet);
        }
        let whole = stream.len();
        let size = [0, MAX_FRAME + 1, 0xFFFF, MAX_FRAME + 1 + chance.size(100)][chance.size(4)];
        let broken = chance.one_in(2);
        if broken {
            stream.extend_from_slice(&(size as u16).to_be_bytes());
            let more = chance.size(3000);
            stream.extend(chance.bytes(more));
        } else {
            stream.truncate(whole - chance.size(FRAME_HEADER + 2));
        }
        let mut came = Vec::new();
        let mut end = None;
        while end.is_none() && sent < stream.len() {
            let most = [1, 3, 1500, usize::MAX][chance.size(4)];
            let room = reader.room();
            let count = room.len().min(stream.len() - sent).min(most);
            assert!(count > 0, "there is always room");
            room[..count].copy_from_slice(&stream[sent..sent + count]);
            reader.took(count);
            sent += count;
            end = loop {
                match reader.cut() {
                    Ok(Some(at)) => came.push(reader.packets()[at].to_vec()),
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            reader.rest();
        }
        if !broken && stream.len() < whole {
            expected.pop();
        }
        assert_eq!(came, expected);
        assert_eq!(end, (broken && sent > whole + 1).then_some(Impossible(size)));
        assert!(reader.room().len() <= 256 * 1024 + MAX_FRAME + FRAME_HEADER);
    });
}

#[test]
fn any_stream_is_survived() {
    hunt(2000, |chance| {
        let mut reader = Stream::default();
        let size = chance.size(40_000);
        let mut bytes = chance.bytes(size);
        for at in (0..bytes.len()).step_by(1 + chance.size(700)) {
            bytes[at] = 0; // short frames and empty ones
        }
        let mut given = 0;
        for chunk in bytes.chunks(1 + chance.size(5000)) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let room = reader.room();
                let count = room.len().min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                reader.took(count);
                rest = &rest[count..];
                while let Ok(Some(at)) = reader.cut() {
                    given += FRAME_HEADER + at.len();
                }
                if let Err(Impossible(size)) = reader.cut() {
                    assert!(size == 0 || size > MAX_FRAME);
                    return;
                }
                reader.rest();
            }
        }
        assert!(bytes.len() - given < FRAME_HEADER + MAX_FRAME, "less than a frame is kept");
    });
}

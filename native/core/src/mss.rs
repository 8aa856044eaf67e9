// SPDX-License-Identifier: BSD-2-Clause
//! Lowering the MSS that TCP announces inside the tunnel, exactly as `dataplane/mss.py` does it.
//!
//! Only whole packets are touched, never fragments, never behind IPv6 extension headers, and only when every length on
//! the way is consistent: a hostile SYN comes out as it went in.

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const CHECKSUM_AT: usize = 16;
const FLAGS_AT: usize = 13;
const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const MSS_SIZE: usize = 4;

/// Lowers the MSS option of the IP packet to at most `limit4` (IPv4) or `limit6` (IPv6); a limit of 0 leaves it.
pub fn clamp(packet: &mut [u8], limit4: u16, limit6: u16) {
    let Some((tcp, limit)) = tcp_of(packet, limit4, limit6) else {
        return;
    };
    if limit == 0 || packet.len() < tcp + TCP_HEADER || packet[tcp + FLAGS_AT] & SYN == 0 {
        return;
    }
    let end = tcp + usize::from(packet[tcp + 12] >> 4) * 4;
    if end > packet.len() || !options_are_whole(&packet[..end], tcp) {
        return;
    }
    let mut at = tcp + TCP_HEADER;
    while at < end && packet[at] != OPTION_END {
        if packet[at] == OPTION_NOP {
            at += 1;
            continue;
        }
        let size = usize::from(packet[at + 1]);
        if packet[at] == OPTION_MSS && size == MSS_SIZE {
            lower(packet, tcp, at + 2, limit);
        }
        at += size;
    }
}

/// Where the TCP header of an unfragmented packet begins, and which limit is meant for it.
fn tcp_of(packet: &[u8], limit4: u16, limit6: u16) -> Option<(usize, u16)> {
    match packet.first()? >> 4 {
        4 => {
            if packet.len() < 20 + TCP_HEADER || packet[9] != TCP {
                return None;
            }
            let tcp = usize::from(packet[0] & 0x0F) * 4;
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3FFF;
            (tcp >= 20 && fragment == 0).then_some((tcp, limit4))
        }
        _ => (packet.len() >= 40 + TCP_HEADER && packet[6] == TCP).then_some((40, limit6)),
    }
}

/// Whether no option says that it is shorter than itself or leaves the header, which `packet` ends with.
fn options_are_whole(packet: &[u8], tcp: usize) -> bool {
    let end = packet.len();
    let mut at = tcp + TCP_HEADER;
    while at < end && packet[at] != OPTION_END {
        if packet[at] == OPTION_NOP {
            at += 1;
            continue;
        }
        let size = if at + 1 < end { usize::from(packet[at + 1]) } else { 0 };
        if size < 2 || at + size > end {
            return false;
        }
        at += size;
    }
    true
}

/// Lowers the number at `at` to `limit` and mends the checksum (RFC 1624: HC' = ~(~HC + ~m + m')).
fn lower(packet: &mut [u8], tcp: usize, at: usize, limit: u16) {
    let old = u16::from_be_bytes([packet[at], packet[at + 1]]);
    if old <= limit {
        return;
    }
    packet[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    // Behind an odd number of NOPs the value lies across two words of the sum: its bytes count swapped.
    let odd = (at - tcp) % 2 == 1;
    let (old, new) = if odd { (old.swap_bytes(), limit.swap_bytes()) } else { (old, limit) };
    let checksum = u16::from_be_bytes([packet[tcp + CHECKSUM_AT], packet[tcp + CHECKSUM_AT + 1]]);
    let mut total = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    total = (total & 0xFFFF) + (total >> 16);
    total = (total & 0xFFFF) + (total >> 16);
    let mended = !(total as u16);
    packet[tcp + CHECKSUM_AT..tcp + CHECKSUM_AT + 2].copy_from_slice(&mended.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;

    fn syn(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[9] = TCP;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend_from_slice(options);
        packet[32] = (((20 + options.len()) / 4) << 4) as u8;
        packet[33] = SYN;
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let sum =
            checksum::finish(checksum::add(checksum::pseudo(&packet[12..20], TCP, packet.len() - 20), &packet[20..]));
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn valid(packet: &[u8]) -> bool {
        checksum::fold(checksum::add(checksum::pseudo(&packet[12..20], TCP, packet.len() - 20), &packet[20..]))
            == 0xFFFF
    }

    #[test]
    fn lowers_at_even_and_odd_places() {
        for options in [[2, 4, 0x05, 0xB4, 1, 1, 1, 0], [1, 2, 4, 0x05, 0xB4, 1, 1, 0]] {
            let mut packet = syn(&options);
            clamp(&mut packet, 1300, 0);
            assert!(packet.windows(4).any(|four| four == [2, 4, 0x05, 0x14]));
            assert!(valid(&packet));
        }
    }

    #[test]
    fn leaves_what_is_small_broken_or_not_asked_for() {
        for (options, limit) in [
            ([2u8, 4, 0x05, 0xB4, 0, 0, 0, 0], 0),
            ([2, 4, 0x02, 0x00, 0, 0, 0, 0], 1300),
            ([2, 4, 0x05, 0xB4, 9, 1, 0, 0], 1300),
            ([2, 4, 0x05, 0xB4, 9, 9, 0, 0], 1300),
        ] {
            let whole = syn(&options);
            let mut packet = whole.clone();
            clamp(&mut packet, limit, 0);
            assert_eq!(packet, whole);
        }
        let whole = syn(&[2, 4, 0x05, 0xB4]);
        for length in 0..whole.len() {
            let mut cut = whole[..length].to_vec();
            clamp(&mut cut, 1300, 1300);
            assert_eq!(cut, &whole[..length], "{length} bytes");
        }
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! Just enough of IPv4 and IPv6 to tell where an inner packet comes from and goes to, as in `dataplane/ip.py`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source and destination of a whole and well-formed IP packet.
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let size = packet.len();
    match packet.first()? >> 4 {
        4 if size >= 20 => {
            let header = usize::from(packet[0] & 0x0F) * 4;
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let at = |n: usize| IpAddr::V4(Ipv4Addr::new(packet[n], packet[n + 1], packet[n + 2], packet[n + 3]));
            (header >= 20 && header <= size && size == total).then(|| (at(12), at(16)))
        }
        6 if size >= 40 => {
            let total = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            let at = |n: usize| {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&packet[n..n + 16]);
                IpAddr::V6(Ipv6Addr::from(bytes))
            };
            (size == total).then(|| (at(8), at(24)))
        }
        _ => None,
    }
}

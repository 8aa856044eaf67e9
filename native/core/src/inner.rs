// SPDX-License-Identifier: BSD-2-Clause
//! What comes out of a packet: IP (RFC 791, RFC 8200), the keep-alive, an OCC message. Nothing is parsed beyond the
//! fixed header; a packet whose header does not fit its length is refused, and so are jumbograms.

/// The keep-alive.
pub const PING: [u8; 16] = *b"\x2a\x18\x7b\xf3\x64\x1e\xb4\xcb\x07\xed\x2d\x0a\x98\x1f\xc7\x48";
/// What every OCC message begins with.
pub const OCC_MAGIC: [u8; 16] = *b"\x28\x7f\x34\x6b\xd4\xef\x7a\x81\x2d\x56\xb8\xd3\xaf\xc5\x45\x9c";
/// Bytes of a message that are looked at, behind the magic number: an options string has about 200.
pub const OCC_MOST: usize = 512;
const OCC_EXIT: u8 = 6;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// An address of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4
    V4(u32),
    /// IPv6
    V6(u128),
}

impl Address {
    /// How many bits it has.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4(_) => 32,
            Self::V6(_) => 128,
        }
    }

    /// All but the first `length` bits made 0.
    #[inline]
    pub fn masked(self, length: u8) -> Self {
        match self {
            Self::V4(bits) => Self::V4(bits & !u32::MAX.checked_shr(length.into()).unwrap_or(0)),
            Self::V6(bits) => Self::V6(bits & !u128::MAX.checked_shr(length.into()).unwrap_or(0)),
        }
    }
}

impl From<std::net::IpAddr> for Address {
    fn from(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(address) => Self::V4(address.into()),
            std::net::IpAddr::V6(address) => Self::V6(address.into()),
        }
    }
}

/// What an authentic payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A whole and well-formed IP packet.
    Ip {
        /// Where it comes from.
        source: Address,
        /// Where it goes.
        destination: Address,
    },
    /// The keep-alive, which has done its work by being authentic.
    Ping,
    /// The peer leaves.
    Exit,
    /// Another OCC message, which is for the owner.
    Occ,
    /// None of that: dropped, and counted as "other".
    Unknown,
}

/// Source and destination of `packet`, a whole and well-formed IP packet.
#[inline]
pub fn addresses(packet: &[u8]) -> Option<(Address, Address)> {
    match packet.first()? >> 4 {
        4 => addresses4(packet),
        6 => addresses6(packet),
        _ => None,
    }
}

#[inline]
fn addresses4(packet: &[u8]) -> Option<(Address, Address)> {
    let front = packet.first_chunk::<IPV4_HEADER>()?;
    let header = usize::from(front[0] & 0x0F) * 4;
    let total = usize::from(u16::from_be_bytes([front[2], front[3]]));
    let end = |at: usize| Address::V4(u32::from_be_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]));
    let fits = header >= IPV4_HEADER && header <= packet.len() && packet.len() == total;
    fits.then(|| (end(12), end(16)))
}

#[inline]
fn addresses6(packet: &[u8]) -> Option<(Address, Address)> {
    let front = packet.first_chunk::<IPV6_HEADER>()?;
    let payload = usize::from(u16::from_be_bytes([front[4], front[5]]));
    let source = Address::V6(u128::from_be_bytes(*front[8..].first_chunk()?));
    let destination = Address::V6(u128::from_be_bytes(*front[24..].first_chunk()?));
    (packet.len() == IPV6_HEADER + payload).then_some((source, destination))
}

/// What `payload` is.
#[inline]
pub fn classify(payload: &[u8]) -> Payload {
    if let Some((source, destination)) = addresses(payload) {
        return Payload::Ip { source, destination };
    }
    if payload == PING {
        return Payload::Ping;
    }
    match payload.strip_prefix(&OCC_MAGIC) {
        Some([OCC_EXIT, ..]) => Payload::Exit,
        Some(_) => Payload::Occ,
        None => Payload::Unknown,
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! Compression framing: a byte that says whether a packet is compressed. Nothing ever is, on the way out, and what comes
//! compressed is refused: unpacking it is the reference's business.
//!
//! ```text
//! Byte      FA data                          66 LZO(data)
//! Swapped   FB data[1:] data[0]              69 LZ4[1:] LZ4[0]
//! V2        data, or 50 00 data if data      50 01 LZ4(data)
//!           itself begins with 50
//! ```

use std::ops::Range;

const PLAIN: u8 = 0xFA;
const PLAIN_SWAPPED: u8 = 0xFB;
const LZO: u8 = 0x66;
const LZ4_SWAPPED: u8 = 0x69;
const V2: u8 = 0x50;
const V2_PLAIN: u8 = 0;
const V2_LZ4: u8 = 1;

/// Which framing lies between keys and inner packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None at all.
    None,
    /// ``comp-lzo``, ``compress lzo``
    Byte,
    /// ``compress``, ``compress stub``, ``compress lz4``
    Swapped,
    /// ``compress stub-v2``, ``compress lz4-v2``
    V2,
}

/// Why there is no inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unframed {
    /// It is compressed; that is counted apart, and told once.
    Compressed,
    /// The framing is not known, or there is nothing in it.
    Malformed,
}

impl Framing {
    /// Bytes that a caller leaves in front of an inner packet.
    pub fn head(self) -> usize {
        match self {
            Self::None => 0,
            Self::Byte | Self::Swapped => 1,
            Self::V2 => 2,
        }
    }

    /// Bytes that are needed in front of an inner packet that begins with `first`.
    pub fn room(self, first: u8) -> usize {
        if self == Self::V2 && first != V2 { 0 } else { self.head() }
    }

    /// Frame the inner packet at `at` of `buf`, which is not empty; `head` bytes are free in front of it.
    ///
    /// Returns where the framed packet is: it ends where the inner packet did.
    #[inline]
    pub fn wrap(self, buf: &mut [u8], at: Range<usize>) -> Range<usize> {
        match self {
            Self::None => at,
            Self::Byte => {
                buf[at.start - 1] = PLAIN;
                at.start - 1..at.end
            }
            Self::Swapped => {
                // What is framed begins one byte earlier than the packet and ends with its first byte.
                buf[at.start - 1] = PLAIN_SWAPPED;
                buf[at.clone()].rotate_left(1);
                at.start - 1..at.end
            }
            Self::V2 if buf[at.start] == V2 => {
                buf[at.start - 2] = V2;
                buf[at.start - 1] = V2_PLAIN;
                at.start - 2..at.end
            }
            Self::V2 => at,
        }
    }

    /// The inner packet in what lies at `at` of `buf`; it may be empty.
    #[inline]
    pub fn unwrap(self, buf: &mut [u8], at: Range<usize>) -> Result<Range<usize>, Unframed> {
        let framed = &mut buf[at.clone()];
        match (self, &mut *framed) {
            (Self::None, _) => Ok(at),
            (Self::Byte, [PLAIN, ..]) => Ok(at.start + 1..at.end),
            (Self::Byte, [LZO, ..]) => Err(Unframed::Compressed),
            (Self::Swapped, [PLAIN_SWAPPED, rest @ .., _]) => {
                let _ = rest;
                framed[1..].rotate_right(1);
                Ok(at.start + 1..at.end)
            }
            (Self::Swapped, [LZ4_SWAPPED, _, ..]) => Err(Unframed::Compressed),
            (Self::V2, [V2, V2_PLAIN, ..]) => Ok(at.start + 2..at.end),
            (Self::V2, [V2, V2_LZ4, ..]) => Err(Unframed::Compressed),
            (Self::V2, [V2, ..]) => Err(Unframed::Malformed),
            (Self::V2, _) => Ok(at),
            (Self::Byte | Self::Swapped, _) => Err(Unframed::Malformed),
        }
    }
}

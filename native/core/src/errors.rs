// SPDX-License-Identifier: BSD-2-Clause
//! What can go wrong, by who can act: a peer's packet is dropped and counted, a caller's mistake is refused.

use std::fmt;

/// The counter that a dropped packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Seen before, or too old to tell.
    Replay,
    /// It fails authentication.
    Auth,
    /// Whatever says nothing of an attempt to forge.
    Other,
}

/// Why a packet from the wire was not opened; nothing of it is remembered but the count of failed tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Packet id 0, seen before, or too old to tell.
    Replayed,
    /// The tag does not fit, or the padding of an authentic packet is wrong.
    Forged,
    /// The packet cannot hold what its format demands.
    TooShort,
    /// Not a data packet, or a form of header that the format does not have.
    Header,
    /// An epoch whose key is not at hand: long past, too far ahead, or 0.
    UnknownEpoch,
    /// The key reached a hard limit and is not used any more.
    Spent,
}

impl OpenError {
    /// The counter that the packet belongs to.
    pub fn counter(self) -> Drop {
        match self {
            Self::Replayed => Drop::Replay,
            Self::Forged => Drop::Auth,
            Self::TooShort | Self::Header | Self::UnknownEpoch | Self::Spent => Drop::Other,
        }
    }
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The key reached a hard limit and is not used any more.
    Spent,
    /// Nothing is ever sent about nothing: the payload is empty.
    Empty,
    /// The buffer does not have `head` bytes in front of the payload and `tail` behind it.
    Room,
    /// There was no entropy for an initialisation vector.
    Entropy,
}

/// Keys that do not fit their suite: a mistake of the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(pub String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Replayed => "packet is a replay",
            Self::Forged => "packet fails authentication",
            Self::TooShort => "packet is too short",
            Self::Header => "packet has no header that its key knows",
            Self::UnknownEpoch => "packet of an epoch that is not at hand",
            Self::Spent => "the packet's key is used up",
        })
    }
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spent => "the key is used up",
            Self::Empty => "there is no payload",
            Self::Room => "the buffer has no room for header and tag",
            Self::Entropy => "there is no entropy",
        })
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}
impl std::error::Error for SealError {}
impl std::error::Error for KeyError {}

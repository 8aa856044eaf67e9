// SPDX-License-Identifier: BSD-2-Clause
//! What a key is made from: suite, format, and the bytes of both directions.

use std::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::suites::{Digest, Suite};

/// `peer_id` that means "none": packets go out as DATA_V1.
pub const NO_PEER_ID: u32 = 0x00FF_FFFF;

/// Fills the buffer with random bytes, or says that it cannot.
pub type Entropy = Box<dyn FnMut(&mut [u8]) -> bool + Send>;

/// Keys of one direction; wiped when they go.
#[derive(Clone)]
pub struct DirectionKeys {
    /// The cipher's key; for the epoch format the first secret of the chain, 32 bytes.
    pub cipher_key: Zeroizing<Vec<u8>>,
    /// AEAD: the 8 bytes that follow the packet id in the nonce.
    pub implicit_iv: Zeroizing<Vec<u8>>,
    /// Suites that are not AEAD: the HMAC's key.
    pub hmac_key: Zeroizing<Vec<u8>>,
}

/// How packets look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// DATA_V1 or DATA_V2, as the peer id says, with 32-bit packet ids.
    Plain,
    /// The epoch format of OpenVPN 2.7.
    Epoch,
    /// The static key mode's: no header, and the time `since` (seconds of the wall clock) beside every packet id.
    Static {
        /// When our numbering began.
        since: u32,
    },
}

/// One key slot, both directions.
#[derive(Clone)]
pub struct KeySpec {
    /// The cipher.
    pub suite: Suite,
    /// The HMAC's digest; none for AEAD.
    pub digest: Option<Digest>,
    /// How packets look.
    pub format: Format,
    /// What we seal with.
    pub send: DirectionKeys,
    /// What we open with.
    pub receive: DirectionKeys,
}

/// Rules of a peer that concern its keys; 0 switches a volume limit off.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Packet ids that are remembered, 1 to 65536.
    pub replay_window: usize,
    /// A packet may be so late, and up to a quarter more; None: however late.
    pub replay_time: Option<Duration>,
    /// Report the key as exhausted after so many bytes, both directions added up.
    pub reneg_bytes: u64,
    /// The same for packets.
    pub reneg_packets: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { replay_window: 64, replay_time: None, reneg_bytes: 0, reneg_packets: 0 }
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! The AEAD format, which every OpenVPN from 2.4 on speaks. Big endian:
//!
//! ```text
//! DATA_V2   op/kid 1 | peer-id 3 | packet id 4 | tag 16 | ciphertext      AD = the first 8 bytes
//! DATA_V1   op/kid 1 |             packet id 4 | tag 16 | ciphertext      AD = the packet id alone
//! nonce     packet id 4 | implicit IV 8
//! ```

use std::ops::Range;

use super::{Header, V2_HEADER, body_at};
use crate::crypto::aead::{Aead, NONCE_SIZE, TAG_SIZE};
use crate::crypto::suites::Suite;
use crate::errors::{KeyError, OpenError};
use crate::keys::{DirectionKeys, Limits};
use crate::replay::ReplayWindow;

const PACKET_ID: usize = 4;
const IMPLICIT_IV: usize = 8;
/// What stands between header and ciphertext.
pub(super) const OVERHEAD: usize = PACKET_ID + TAG_SIZE;

/// A key and the part of its nonces that never changes.
struct Keyed {
    aead: Aead,
    implicit_iv: [u8; IMPLICIT_IV],
}

impl Keyed {
    fn new(suite: Suite, keys: &DirectionKeys) -> Result<Self, KeyError> {
        let Ok(implicit_iv) = <[u8; IMPLICIT_IV]>::try_from(keys.implicit_iv.as_slice()) else {
            return Err(KeyError(format!("{suite:?} takes an implicit IV of {IMPLICIT_IV} bytes")));
        };
        Ok(Self { aead: Aead::new(suite, &keys.cipher_key)?, implicit_iv })
    }

    #[inline]
    fn nonce(&self, packet_id: [u8; PACKET_ID]) -> [u8; NONCE_SIZE] {
        let mut nonce = [0; NONCE_SIZE];
        nonce[..PACKET_ID].copy_from_slice(&packet_id);
        nonce[PACKET_ID..].copy_from_slice(&self.implicit_iv);
        nonce
    }
}

pub(super) struct Sealing(Keyed);

impl Sealing {
    pub(super) fn new(suite: Suite, keys: &DirectionKeys) -> Result<Self, KeyError> {
        Ok(Self(Keyed::new(suite, keys)?))
    }

    /// Make a packet with id `number`, at most 2^32 - 1, in `packet`, which ends with the payload.
    #[inline]
    pub(super) fn seal(&mut self, header: &Header, number: u64, packet: &mut [u8]) -> usize {
        let packet_id = (number as u32).to_be_bytes();
        let tag_at = header.size + PACKET_ID;
        let (front, data) = packet.split_at_mut(header.size + OVERHEAD);
        front[..header.size].copy_from_slice(header.bytes());
        front[header.size..tag_at].copy_from_slice(&packet_id);
        // AD: all that is in front of the tag, but DATA_V1 leaves the opcode out.
        let ad_at = if header.size == V2_HEADER { 0 } else { header.size };
        let tag = self.0.aead.seal(self.0.nonce(packet_id), &front[ad_at..tag_at], data);
        front[tag_at..].copy_from_slice(&tag);
        packet.len()
    }
}

pub(super) struct Opening {
    key: Keyed,
    window: ReplayWindow,
}

impl Opening {
    pub(super) fn new(suite: Suite, keys: &DirectionKeys, limits: &Limits) -> Result<Self, KeyError> {
        Ok(Self { key: Keyed::new(suite, keys)?, window: ReplayWindow::new(limits.replay_window) })
    }

    #[inline]
    pub(super) fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let body_at = body_at(packet)?;
        let (tag_at, data_at) = (body_at + PACKET_ID, body_at + OVERHEAD);
        if packet.len() <= data_at {
            return Err(OpenError::TooShort);
        }
        let (front, data) = packet.split_at_mut(data_at);
        let mut packet_id = [0; PACKET_ID];
        packet_id.copy_from_slice(&front[body_at..tag_at]);
        let number = u64::from(u32::from_be_bytes(packet_id));
        self.window.check(number)?;
        let mut tag = [0; TAG_SIZE];
        tag.copy_from_slice(&front[tag_at..]);
        let ad_at = if body_at == V2_HEADER { 0 } else { body_at };
        self.key.aead.open(self.key.nonce(packet_id), &front[ad_at..tag_at], data, tag)?;
        self.window.mark(number);
        Ok(data_at..packet.len())
    }

    pub(super) fn windows(&mut self) -> impl Iterator<Item = &mut ReplayWindow> {
        std::iter::once(&mut self.window)
    }
}

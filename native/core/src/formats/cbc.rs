// SPDX-License-Identifier: BSD-2-Clause
//! The formats of the time before AEAD. Big endian; nothing authenticates the header:
//!
//! ```text
//! CBC      header | HMAC | IV, one block | CBC(packet id 4 | data, padded)     HMAC over IV and ciphertext
//! none     header | HMAC | packet id 4 | data                                  HMAC over packet id and data
//! static            HMAC | IV, one block | CBC(packet id 4 | time 4 | data, padded)
//! ```
//!
//! Encrypt, then MAC; on the way in the HMAC comes first. Nothing is decrypted, and no padding looked at, before it was
//! found right, and a padding that is wrong all the same counts as a wrong HMAC. The packet id is inside, so that
//! replay is looked for last.

use std::ops::Range;

use super::{Header, body_at};
use crate::crypto::cbc::{BLOCK, Decryptor, Encryptor};
use crate::crypto::mac::{Signer, signer};
use crate::crypto::suites::Suite;
use crate::errors::{KeyError, OpenError, SealError};
use crate::keys::{DirectionKeys, Entropy, Format, KeySpec, Limits};
use crate::replay::ReplayWindow;

const PACKET_ID: usize = 4;
const TIME: usize = 4;

fn mac_of(spec: &KeySpec, keys: &DirectionKeys) -> Result<Box<dyn Signer>, KeyError> {
    let Some(digest) = spec.digest else {
        return Err(KeyError(format!("{:?} wants an HMAC beside it", spec.suite)));
    };
    signer(digest, &keys.hmac_key)
}

pub(super) struct Sealing {
    mac: Box<dyn Signer>,
    cipher: Option<Encryptor>,
    entropy: Entropy,
    since: Option<[u8; TIME]>,
}

impl Sealing {
    pub(super) fn new(spec: &KeySpec, entropy: Entropy) -> Result<Self, KeyError> {
        let cipher = match spec.suite {
            Suite::Clear => None,
            suite => Some(Encryptor::new(suite, &spec.send.cipher_key)?),
        };
        let since = match spec.format {
            Format::Static { since } => Some(since.to_be_bytes()),
            _ => None,
        };
        Ok(Self { mac: mac_of(spec, &spec.send)?, cipher, entropy, since })
    }

    fn iv_size(&self) -> usize {
        if self.cipher.is_some() { BLOCK } else { 0 }
    }

    /// What stands between header and data.
    pub(super) fn overhead(&self) -> usize {
        self.mac.size() + self.iv_size() + PACKET_ID + if self.since.is_some() { TIME } else { 0 }
    }

    /// The most that padding adds.
    pub(super) fn tail(&self) -> usize {
        self.iv_size()
    }

    /// Make a packet with id `number` in `packet`; the payload lies at `at..end`, and there is room for the padding.
    pub(super) fn seal(
        &mut self,
        header: &Header,
        number: u64,
        packet: &mut [u8],
        at: usize,
        end: usize,
    ) -> Result<usize, SealError> {
        let covered_at = header.size + self.mac.size();
        let numbered_at = covered_at + self.iv_size();
        packet[..header.size].copy_from_slice(header.bytes());
        packet[numbered_at..numbered_at + PACKET_ID].copy_from_slice(&(number as u32).to_be_bytes());
        if let Some(since) = &self.since {
            packet[at - TIME..at].copy_from_slice(since);
        }
        let mut size = end;
        if let Some(cipher) = &self.cipher {
            let mut iv = [0; BLOCK];
            if !(self.entropy)(&mut iv) {
                return Err(SealError::Entropy);
            }
            packet[covered_at..numbered_at].copy_from_slice(&iv);
            let pad = BLOCK - (end - numbered_at) % BLOCK;
            size = end + pad;
            packet[end..size].fill(pad as u8);
            cipher.encrypt(&iv, &mut packet[numbered_at..size]);
        }
        let (front, covered) = packet[..size].split_at_mut(covered_at);
        self.mac.sign(covered, &mut front[header.size..]);
        Ok(size)
    }
}

/// Where a packet stands among the others.
enum Numbering {
    /// One numbering for as long as the key lives.
    Ids(ReplayWindow),
    /// One for every start of the sender's: an older one than the newest seen is a replay.
    Starts { size: usize, time: u32, window: ReplayWindow },
}

pub(super) struct Opening {
    mac: Box<dyn Signer>,
    cipher: Option<Decryptor>,
    numbering: Numbering,
}

impl Opening {
    pub(super) fn new(spec: &KeySpec, limits: &Limits) -> Result<Self, KeyError> {
        let cipher = match spec.suite {
            Suite::Clear => None,
            suite => Some(Decryptor::new(suite, &spec.receive.cipher_key)?),
        };
        let window = ReplayWindow::new(limits.replay_window);
        let numbering = match spec.format {
            Format::Static { .. } => Numbering::Starts { size: limits.replay_window, time: 0, window },
            _ => Numbering::Ids(window),
        };
        Ok(Self { mac: mac_of(spec, &spec.receive)?, cipher, numbering })
    }

    pub(super) fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let body_at = match self.numbering {
            Numbering::Ids(_) => body_at(packet)?,
            Numbering::Starts { .. } => 0,
        };
        let covered_at = body_at + self.mac.size();
        if packet.len() <= covered_at {
            return Err(OpenError::TooShort);
        }
        let (front, covered) = packet.split_at_mut(covered_at);
        self.mac.verify(covered, &front[body_at..])?;
        let Range { start, end } = match &self.cipher {
            None => 0..covered.len(),
            Some(cipher) => uncovered(cipher, covered)?,
        };
        let numbered = &covered[start..end];
        let at = match &mut self.numbering {
            Numbering::Ids(window) => {
                let id = u32_at(numbered, 0, PACKET_ID)?;
                window.check(id.into())?;
                window.mark(id.into());
                PACKET_ID
            }
            Numbering::Starts { size, time, window } => {
                let id = u32_at(numbered, 0, PACKET_ID + TIME)?;
                let since = u32_at(numbered, PACKET_ID, PACKET_ID + TIME)?;
                if id == 0 || since < *time {
                    return Err(OpenError::Replayed);
                }
                if since > *time {
                    *time = since;
                    *window = ReplayWindow::new(*size);
                }
                window.check(id.into())?;
                window.mark(id.into());
                PACKET_ID + TIME
            }
        };
        Ok(covered_at + start + at..covered_at + end)
    }

    pub(super) fn windows(&mut self) -> impl Iterator<Item = &mut ReplayWindow> {
        match &mut self.numbering {
            Numbering::Ids(window) | Numbering::Starts { window, .. } => std::iter::once(window),
        }
    }
}

/// Decrypt the authentic `covered` and say where in it packet id and data are.
fn uncovered(cipher: &Decryptor, covered: &mut [u8]) -> Result<Range<usize>, OpenError> {
    let Some((iv, data)) = covered.split_first_chunk_mut::<BLOCK>() else {
        return Err(OpenError::Forged);
    };
    if data.is_empty() || data.len() % BLOCK != 0 {
        return Err(OpenError::Forged);
    }
    cipher.decrypt(iv, data);
    let pad = usize::from(data[data.len() - 1]);
    if !(1..=BLOCK).contains(&pad) || data[data.len() - pad..].iter().any(|&byte| usize::from(byte) != pad) {
        return Err(OpenError::Forged);
    }
    Ok(BLOCK..BLOCK + data.len() - pad)
}

/// The number at `at` of something that must be longer than the `front` it begins with.
fn u32_at(bytes: &[u8], at: usize, front: usize) -> Result<u32, OpenError> {
    if bytes.len() <= front {
        return Err(OpenError::TooShort);
    }
    match bytes[at..].first_chunk() {
        Some(word) => Ok(u32::from_be_bytes(*word)),
        None => Err(OpenError::TooShort),
    }
}

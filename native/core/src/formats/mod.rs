// SPDX-License-Identifier: BSD-2-Clause
//! How a data packet looks under a key: a module for each format, and the choice between them.
//!
//! A key slot is a `Sealer` and an `Opener`, each owned by one thread, and a `KeyUsage` that both write and anybody
//! reads. All work is done in place.

mod aead;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::errors::{KeyError, OpenError, SealError};
use crate::keys::{Entropy, Format, KeySpec, Limits, NO_PEER_ID};
use crate::suites::UNLIMITED;
use crate::usage::{KeyUsage, RENEW_FAILED_TAGS};

/// The opcode of data packets without a peer id.
pub const DATA_V1: u8 = 6;
/// The opcode of data packets with one.
pub const DATA_V2: u8 = 9;
const V1_HEADER: usize = 1;
const V2_HEADER: usize = 4;

/// What goes in front of every packet: opcode and key id, and the peer id if there is one.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    bytes: [u8; V2_HEADER],
    size: usize,
}

impl Header {
    fn new(key_id: u8, peer_id: u32) -> Self {
        if peer_id == NO_PEER_ID {
            return Self { bytes: [DATA_V1 << 3 | key_id, 0, 0, 0], size: V1_HEADER };
        }
        let word = u32::from(DATA_V2 << 3 | key_id) << 24 | peer_id;
        Self { bytes: word.to_be_bytes(), size: V2_HEADER }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

enum SealForm {
    Aead(aead::Sealing),
}

/// The sending direction of a key.
pub struct Sealer {
    key_id: u8,
    header: Header,
    form: SealForm,
    packets: u64,
    bytes: u64,
    usage: Arc<KeyUsage>,
}

impl Sealer {
    /// Bytes that a caller leaves in front of a payload.
    #[inline]
    pub fn head(&self) -> usize {
        match &self.form {
            SealForm::Aead(_) => self.header.size + aead::OVERHEAD,
        }
    }

    /// Bytes of room that a caller leaves behind a payload.
    #[inline]
    pub fn tail(&self) -> usize {
        match &self.form {
            SealForm::Aead(_) => 0,
        }
    }

    /// Make a packet of the `payload_len` bytes that begin at `head()`: it begins at 0, and its length is returned.
    #[inline]
    pub fn seal(&mut self, buf: &mut [u8], payload_len: usize) -> Result<usize, SealError> {
        if self.usage.spent() {
            return Err(SealError::Spent);
        }
        if payload_len == 0 {
            return Err(SealError::Empty);
        }
        let end = self.head() + payload_len;
        let buf = buf.get_mut(..end + self.tail()).ok_or(SealError::Room)?;
        let number = self.packets + 1;
        let size = match &mut self.form {
            SealForm::Aead(form) => form.seal(&self.header, number, &mut buf[..end]),
        };
        self.packets = number;
        self.bytes += payload_len as u64;
        let sent = &self.usage.sent;
        sent.packets.store(self.packets, Relaxed);
        sent.bytes.store(self.bytes, Relaxed);
        if self.packets >= sent.check_at.load(Relaxed) {
            self.usage.look();
        }
        Ok(size)
    }

    /// Put `peer_id` into the header of what is sent from now on: DATA_V2, or DATA_V1 for `NO_PEER_ID`.
    pub fn address(&mut self, peer_id: u32) -> Result<(), KeyError> {
        checked_peer_id(peer_id)?;
        self.header = Header::new(self.key_id, peer_id);
        Ok(())
    }

    /// Counts, limits and state of the key.
    pub fn usage(&self) -> &Arc<KeyUsage> {
        &self.usage
    }
}

enum OpenForm {
    Aead(aead::Opening),
}

/// The receiving direction of a key.
pub struct Opener {
    form: OpenForm,
    packets: u64,
    bytes: u64,
    usage: Arc<KeyUsage>,
}

impl Opener {
    /// Open `packet` where it lies; its payload is at the range that is returned.
    ///
    /// A packet that is refused changes nothing but the count of failed tags; its bytes may be garbled.
    #[inline]
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, OpenError> {
        if self.usage.spent() {
            return Err(OpenError::Spent);
        }
        let opened = match &mut self.form {
            OpenForm::Aead(form) => form.open(packet),
        };
        match opened {
            Ok(payload) => {
                self.packets += 1;
                self.bytes += payload.len() as u64;
                let received = &self.usage.received;
                received.packets.store(self.packets, Relaxed);
                received.bytes.store(self.bytes, Relaxed);
                if self.packets >= received.check_at.load(Relaxed) {
                    self.usage.look();
                }
                Ok(payload)
            }
            Err(error) => {
                if error == OpenError::Forged {
                    self.forged();
                }
                Err(error)
            }
        }
    }

    /// Count a packet that is not authentic; too many of them wear the key out.
    #[cold]
    fn forged(&mut self) {
        let failed = self.usage.failed_tags.fetch_add(1, Relaxed) + 1;
        if failed > RENEW_FAILED_TAGS {
            self.usage.look();
        }
    }

    /// Counts, limits and state of the key.
    pub fn usage(&self) -> &Arc<KeyUsage> {
        &self.usage
    }
}

/// Make key `key_id` (0 to 7): its two directions. Refuses keys that do not fit their suite, and formats that do not.
pub fn make_key(
    key_id: u8,
    spec: &KeySpec,
    peer_id: u32,
    limits: &Limits,
    _entropy: Entropy,
) -> Result<(Sealer, Opener), KeyError> {
    if key_id > 7 {
        return Err(KeyError(format!("there is no key id {key_id}")));
    }
    checked_peer_id(peer_id)?;
    let usage = Arc::new(KeyUsage::new(spec.suite.usage_limit(), UNLIMITED, limits));
    let header = Header::new(key_id, peer_id);
    let (seal, open) = match spec.format {
        Format::Plain => (
            SealForm::Aead(aead::Sealing::new(spec.suite, &spec.send)?),
            OpenForm::Aead(aead::Opening::new(spec.suite, &spec.receive, limits)?),
        ),
        Format::Epoch | Format::Static { .. } => {
            return Err(KeyError(format!("{:?} is not for {:?}", spec.format, spec.suite)));
        }
    };
    Ok((
        Sealer { key_id, header, form: seal, packets: 0, bytes: 0, usage: usage.clone() },
        Opener { form: open, packets: 0, bytes: 0, usage },
    ))
}

fn checked_peer_id(peer_id: u32) -> Result<(), KeyError> {
    if peer_id > NO_PEER_ID {
        return Err(KeyError(format!("a peer id has 24 bits, {peer_id} does not fit")));
    }
    Ok(())
}

/// Where the header of `packet` ends, if it is data.
#[inline]
pub(crate) fn body_at(packet: &[u8]) -> Result<usize, OpenError> {
    match packet.first().map(|byte| byte >> 3) {
        Some(DATA_V2) => Ok(V2_HEADER),
        Some(DATA_V1) => Ok(V1_HEADER),
        _ => Err(OpenError::Header),
    }
}

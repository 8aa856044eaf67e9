// SPDX-License-Identifier: BSD-2-Clause
//! How a data packet looks under a key: a module for each format, and the choice between them.
//!
//! A key slot is a `Sealer` and an `Opener`, each owned by one thread, and a `KeyUsage` that both write and anybody
//! reads. All work is done in place.

mod aead;
mod cbc;
mod epoch;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::errors::{KeyError, OpenError, SealError};
use crate::keys::{Entropy, Format, KeySpec, Limits, NO_PEER_ID};
use crate::replay::{AGES, MAX_WINDOW, ReplayWindow};
use crate::usage::{KeyUsage, LAST_PACKET_ID, Start};

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
    /// In static key mode there is none.
    const NONE: Self = Self { bytes: [0; V2_HEADER], size: 0 };

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
    Epoch(epoch::Sealing),
    Hmac(cbc::Sealing),
}

/// The sending direction of a key.
pub struct Sealer {
    key_id: u8,
    format: Format,
    header: Header,
    form: SealForm,
    head: usize,
    tail: usize,
    packets: u64,
    bytes: u64,
    usage: Arc<KeyUsage>,
}

impl Sealer {
    /// Bytes that a caller leaves in front of a payload; `address` may change it.
    #[inline]
    pub fn head(&self) -> usize {
        self.head
    }

    /// Bytes of room that a caller leaves behind a payload.
    #[inline]
    pub fn tail(&self) -> usize {
        self.tail
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
        let (head, tail) = (self.head, self.tail);
        if payload_len > buf.len() || buf.len() - payload_len < head + tail {
            return Err(SealError::Room);
        }
        let end = head + payload_len;
        let number = self.packets + 1;
        // The look at the limits comes first, long before; here no mistake in it could make a nonce come twice.
        if number > LAST_PACKET_ID && self.format != Format::Epoch {
            return Err(SealError::Spent);
        }
        let size = match &mut self.form {
            SealForm::Aead(form) => form.seal(&self.header, number, &mut buf[..end]),
            SealForm::Epoch(form) => form.seal(&self.header, &self.usage, buf, end)?,
            SealForm::Hmac(form) => form.seal(&self.header, number, buf, head, end)?,
        };
        self.packets = number;
        self.bytes += payload_len as u64;
        if self.usage.sent.count(self.packets, self.bytes) {
            self.usage.look();
        }
        Ok(size)
    }

    /// Put `peer_id` into the header of what is sent from now on: DATA_V2, or DATA_V1 for `NO_PEER_ID`.
    pub fn address(&mut self, peer_id: u32) -> Result<(), KeyError> {
        if peer_id > NO_PEER_ID {
            return Err(KeyError(format!("a peer id has 24 bits, {peer_id} does not fit")));
        }
        self.header = match self.format {
            Format::Static { .. } => Header::NONE,
            Format::Epoch if peer_id == NO_PEER_ID => {
                return Err(KeyError("the epoch format needs a peer id".to_owned()));
            }
            _ => Header::new(self.key_id, peer_id),
        };
        (self.head, self.tail) = match &self.form {
            SealForm::Aead(_) => (self.header.size + aead::OVERHEAD, 0),
            SealForm::Epoch(_) => (self.header.size + epoch::OVERHEAD, epoch::TAIL),
            SealForm::Hmac(form) => (self.header.size + form.overhead(), form.tail()),
        };
        Ok(())
    }

    /// Counts, limits and state of the key.
    #[inline]
    pub fn usage(&self) -> &Arc<KeyUsage> {
        &self.usage
    }
}

enum OpenForm {
    Aead(aead::Opening),
    Epoch(Box<epoch::Opening>),
    Hmac(cbc::Opening),
}

/// The receiving direction of a key.
pub struct Opener {
    form: OpenForm,
    age_every: Option<Duration>,
    age_at: Option<Instant>, // None: with the next packet
    packets: u64,
    bytes: u64,
    usage: Arc<KeyUsage>,
}

impl Opener {
    /// Open `packet` where it lies; its payload, never empty, is at the range that is returned.
    ///
    /// A packet that is refused changes nothing but the count of failed tags; its bytes may be garbled.
    #[inline]
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, OpenError> {
        if self.usage.spent() {
            return Err(OpenError::Spent);
        }
        let opened = match &mut self.form {
            OpenForm::Aead(form) => form.open(packet),
            OpenForm::Epoch(form) => form.open(packet),
            OpenForm::Hmac(form) => form.open(packet),
        };
        match &opened {
            Ok(payload) => {
                self.packets += 1;
                self.bytes += payload.len() as u64;
                if self.usage.received.count(self.packets, self.bytes) {
                    self.usage.look();
                }
            }
            Err(OpenError::Forged) => self.usage.forged(),
            Err(_) => {}
        }
        opened
    }

    /// Make the packets too late that are, by `replay_time`; call it before `open`, with the time of now.
    #[inline]
    pub fn at(&mut self, now: Instant) {
        match self.age_every {
            Some(every) if self.age_at.is_none_or(|due| now >= due) => self.age(now, every),
            _ => {}
        }
    }

    #[cold]
    fn age(&mut self, now: Instant, every: Duration) {
        let late = self.age_at.map(|due| now.saturating_duration_since(due));
        for number in 0..=AGES as u32 {
            if late.is_some_and(|late| late < every * number) {
                break;
            }
            match &mut self.form {
                OpenForm::Aead(form) => form.windows().for_each(ReplayWindow::age),
                OpenForm::Epoch(form) => form.windows().for_each(ReplayWindow::age),
                OpenForm::Hmac(form) => form.windows().for_each(ReplayWindow::age),
            }
        }
        self.age_at = Some(now + every);
    }

    /// Take over `limits`, but for the size of the window.
    pub fn limit(&mut self, limits: &Limits) {
        self.usage.limit(limits);
        self.age_every = limits.replay_time.map(|time| time / AGES as u32).filter(|every| !every.is_zero());
        self.age_at = None;
    }

    /// Counts, limits and state of the key.
    #[inline]
    pub fn usage(&self) -> &Arc<KeyUsage> {
        &self.usage
    }
}

/// Make key `key_id` (0 to 7): its two directions. Refuses keys that do not fit their suite, and suites that do not
/// fit their format.
pub fn make_key(
    key_id: u8,
    spec: &KeySpec,
    peer_id: u32,
    limits: &Limits,
    entropy: Entropy,
) -> Result<(Sealer, Opener), KeyError> {
    make_key_at(key_id, spec, peer_id, limits, entropy, &Start::default())
}

/// As `make_key`, but the key has lived already: for tests of limits that nobody reaches in a test's time.
pub fn make_key_at(
    key_id: u8,
    spec: &KeySpec,
    peer_id: u32,
    limits: &Limits,
    entropy: Entropy,
    start: &Start,
) -> Result<(Sealer, Opener), KeyError> {
    if key_id > 7 {
        return Err(KeyError(format!("there is no key id {key_id}")));
    }
    if !(1..=MAX_WINDOW).contains(&limits.replay_window) {
        return Err(KeyError(format!("a replay window holds 1 to {MAX_WINDOW} ids, not {}", limits.replay_window)));
    }
    let suite = spec.suite;
    let usage = Arc::new(KeyUsage::new(suite.usage_limit(), spec.format == Format::Epoch, limits, start));
    let (seal, open) = match spec.format {
        Format::Epoch => (
            SealForm::Epoch(epoch::Sealing::new(suite, &spec.send.cipher_key, &usage)?),
            OpenForm::Epoch(Box::new(epoch::Opening::new(
                suite,
                &spec.receive.cipher_key,
                limits.replay_window,
                usage.clone(),
            )?)),
        ),
        Format::Plain if suite.is_aead() => (
            SealForm::Aead(aead::Sealing::new(suite, &spec.send)?),
            OpenForm::Aead(aead::Opening::new(suite, &spec.receive, limits)?),
        ),
        Format::Static { .. } if !suite.is_cbc() => {
            return Err(KeyError(format!("{suite:?} is not for static keys")));
        }
        Format::Plain | Format::Static { .. } => {
            (SealForm::Hmac(cbc::Sealing::new(spec, entropy)?), OpenForm::Hmac(cbc::Opening::new(spec, limits)?))
        }
    };
    let mut sealer = Sealer {
        key_id,
        format: spec.format,
        header: Header::NONE,
        form: seal,
        head: 0,
        tail: 0,
        packets: start.packets_sent,
        bytes: 0,
        usage: usage.clone(),
    };
    sealer.address(peer_id)?;
    let mut opener = Opener { form: open, age_every: None, age_at: None, packets: 0, bytes: 0, usage };
    opener.limit(limits);
    Ok((sealer, opener))
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

// SPDX-License-Identifier: BSD-2-Clause
//! The epoch format of OpenVPN 2.7: AEAD keys that follow each other by themselves. DATA_V2 only, big endian:
//!
//! ```text
//! op/kid 1 | peer-id 3 | epoch 2 | counter 6 | ciphertext | tag 16      AD = the first 12 bytes
//! nonce      (epoch 2 | counter 6 | 0 0 0 0) XOR implicit IV 12
//! ```
//!
//! A receiver holds the current key, the one before and the `FUTURE` next ones. An authentic packet of a future epoch
//! makes that the current one, and the sender follows; anything further ahead is dropped. No key is kept for the last
//! `FUTURE` + 1 epochs, as OpenVPN does it. How the two directions tell each other is in `usage::EpochUsage`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Header, V2_HEADER, body_at};
use crate::crypto::aead::{Aead, NONCE_SIZE, TAG_SIZE};
use crate::crypto::mac::hmac_sha256;
use crate::crypto::suites::Suite;
use crate::errors::{KeyError, OpenError, SealError};
use crate::replay::ReplayWindow;
use crate::usage::{BLOCK, KeyUsage, LAST_EPOCH};

const FUTURE: u32 = 4;
const LAST_RECEIVED_EPOCH: u32 = LAST_EPOCH - FUTURE - 1;
const MAX_COUNTER: u64 = (1 << 48) - 1;
const SECRET_SIZE: usize = 32;
const NUMBER: usize = 8;
const BODY_AT: usize = V2_HEADER + NUMBER;
/// What stands between header and ciphertext; the tag is behind.
pub(super) const OVERHEAD: usize = NUMBER;
pub(super) const TAIL: usize = TAG_SIZE;

type Secret = Zeroizing<[u8; SECRET_SIZE]>;

/// OpenVPN's Expand-Label, TLS 1.3's (RFC 8446, section 7.1) with another prefix; here for up to 32 bytes.
fn expand_label(secret: &Secret, label: &[u8], size: usize) -> Secret {
    let head = [0, size as u8, (5 + label.len()) as u8];
    Zeroizing::new(hmac_sha256(secret, &[&head, b"ovpn ", label, &[0], &[1]]))
}

/// One direction's chain of secrets; those of earlier epochs are forgotten.
struct Chain {
    suite: Suite,
    secret: Secret,
    epoch: u32,
}

impl Chain {
    fn new(suite: Suite, first: &[u8]) -> Result<Self, KeyError> {
        match <[u8; SECRET_SIZE]>::try_from(first) {
            Ok(secret) if suite.is_aead() => Ok(Self { suite, secret: Zeroizing::new(secret), epoch: 1 }),
            Ok(_) => Err(KeyError(format!("the epoch format needs AEAD, which {suite:?} is not"))),
            Err(_) => Err(KeyError(format!(
                "the first secret of an epoch chain has {SECRET_SIZE} bytes, not {}",
                first.len()
            ))),
        }
    }

    fn at(suite: Suite, first: &[u8], epoch: u32) -> Result<Self, KeyError> {
        let mut chain = Self::new(suite, first)?;
        while chain.epoch < epoch.min(LAST_EPOCH) {
            chain.advance();
        }
        Ok(chain)
    }

    fn advance(&mut self) {
        self.secret = expand_label(&self.secret, b"datakey upd", SECRET_SIZE);
        self.epoch += 1;
    }

    fn keyed(&self) -> Result<Keyed, KeyError> {
        let size = self.suite.key_size();
        let key = expand_label(&self.secret, b"data_key", size);
        let mut iv = [0; NONCE_SIZE];
        iv.copy_from_slice(&expand_label(&self.secret, b"data_iv", NONCE_SIZE)[..NONCE_SIZE]);
        Ok(Keyed { aead: Aead::new(self.suite, &key[..size])?, iv })
    }
}

/// The key of one epoch, and what its nonces are mixed with.
struct Keyed {
    aead: Aead,
    iv: [u8; NONCE_SIZE],
}

impl Keyed {
    #[inline]
    fn nonce(&self, number: u64) -> [u8; NONCE_SIZE] {
        let mut nonce = self.iv;
        for (byte, with) in nonce.iter_mut().zip(number.to_be_bytes()) {
            *byte ^= with;
        }
        nonce
    }
}

fn blocks(payload: usize) -> u64 {
    (payload as u64).div_ceil(BLOCK)
}

pub(super) struct Sealing {
    chain: Chain,
    key: Keyed,
    counter: u64,
    blocks: u64,
}

impl Sealing {
    pub(super) fn new(suite: Suite, first: &[u8], usage: &KeyUsage) -> Result<Self, KeyError> {
        let chain = Chain::at(suite, first, usage.epoch.sending())?;
        let key = chain.keyed()?;
        Ok(Self { chain, key, counter: 0, blocks: 0 })
    }

    /// Make a packet of the payload that lies at `BODY_AT..end`; there is room for the tag behind it.
    #[inline]
    pub(super) fn seal(
        &mut self,
        header: &Header,
        usage: &KeyUsage,
        packet: &mut [u8],
        end: usize,
    ) -> Result<usize, SealError> {
        self.follow(usage.epoch.sending());
        if self.blocks + self.counter > usage.usage_limit || self.counter >= MAX_COUNTER {
            usage.next_epoch();
            self.follow(usage.epoch.sending());
        }
        if self.counter >= MAX_COUNTER {
            return Err(SealError::Spent); // there is no epoch left to go to, and a nonce must not come twice
        }
        self.counter += 1;
        self.blocks += blocks(end - BODY_AT);
        if self.chain.epoch == LAST_EPOCH && self.blocks + self.counter > usage.usage_limit {
            usage.epoch.use_up();
        }
        let number = u64::from(self.chain.epoch) << 48 | self.counter;
        packet[..V2_HEADER].copy_from_slice(header.bytes());
        packet[V2_HEADER..BODY_AT].copy_from_slice(&number.to_be_bytes());
        let (front, data) = packet.split_at_mut(BODY_AT);
        let (data, tag) = data.split_at_mut(end - BODY_AT);
        tag[..TAG_SIZE].copy_from_slice(&self.key.aead.seal(self.key.nonce(number), front, data));
        Ok(end + TAG_SIZE)
    }

    /// Go on to `epoch`, if it is a later one.
    #[inline]
    fn follow(&mut self, epoch: u32) {
        if self.chain.epoch < epoch {
            self.change(epoch);
        }
    }

    #[cold]
    fn change(&mut self, epoch: u32) {
        while self.chain.epoch < epoch {
            self.chain.advance();
        }
        self.key = self.chain.keyed().expect("the suite took a key before");
        self.counter = 0;
        self.blocks = 0;
    }
}

/// One epoch's key for receiving.
struct Receiver {
    epoch: u32,
    key: Keyed,
    window: ReplayWindow,
    blocks: u64,
}

impl Receiver {
    fn new(chain: &Chain, window: usize) -> Result<Self, KeyError> {
        Ok(Self { epoch: chain.epoch, key: chain.keyed()?, window: ReplayWindow::new(window), blocks: 0 })
    }
}

pub(super) struct Opening {
    chain: Chain,
    window: usize,
    current: Receiver,
    retiring: Option<Receiver>,
    future: VecDeque<Receiver>,
    usage: Arc<KeyUsage>,
}

impl Opening {
    pub(super) fn new(suite: Suite, first: &[u8], window: usize, usage: Arc<KeyUsage>) -> Result<Self, KeyError> {
        let chain = Chain::at(suite, first, usage.epoch.sending())?;
        let current = Receiver::new(&chain, window)?;
        let mut made = Self { chain, window, current, retiring: None, future: VecDeque::new(), usage };
        made.prepare_future();
        Ok(made)
    }

    #[inline]
    pub(super) fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, OpenError> {
        if body_at(packet)? != V2_HEADER {
            return Err(OpenError::Header);
        }
        if packet.len() <= BODY_AT + TAG_SIZE {
            return Err(OpenError::TooShort);
        }
        let data_end = packet.len() - TAG_SIZE;
        let (front, data) = packet.split_at_mut(BODY_AT);
        let (data, tag_bytes) = data.split_at_mut(data_end - BODY_AT);
        let (mut number, mut tag) = ([0; NUMBER], [0; TAG_SIZE]);
        number.copy_from_slice(&front[V2_HEADER..]);
        tag.copy_from_slice(tag_bytes);
        let number = u64::from_be_bytes(number);
        let (epoch, counter) = ((number >> 48) as u32, number & MAX_COUNTER);
        let receiver = if epoch == self.current.epoch { &mut self.current } else { self.other(epoch)? };
        receiver.window.check(counter)?;
        receiver.key.aead.open(receiver.key.nonce(number), front, data, tag)?;
        receiver.window.mark(counter);
        receiver.blocks += blocks(data.len());
        let used = receiver.blocks + counter;
        if epoch > self.current.epoch {
            self.follow(epoch);
        }
        if used > self.usage.usage_limit {
            // The peer overuses its key: move on, and it will follow.
            self.usage.next_epoch_with_peer();
        }
        Ok(BODY_AT..data_end)
    }

    /// The key of an epoch that is not the current one, if it is at hand.
    fn other(&mut self, epoch: u32) -> Result<&mut Receiver, OpenError> {
        if let Some(retiring) = self.retiring.as_mut().filter(|each| each.epoch == epoch) {
            return Ok(retiring);
        }
        let found = self.future.iter_mut().find(|each| each.epoch == epoch && epoch <= LAST_RECEIVED_EPOCH);
        found.ok_or(OpenError::UnknownEpoch)
    }

    /// An authentic packet of the future `epoch` came: that is the current one now, and the sender's at least.
    #[cold]
    fn follow(&mut self, epoch: u32) {
        while let Some(next) = self.future.pop_front() {
            if next.epoch == epoch {
                self.retiring = Some(std::mem::replace(&mut self.current, next));
                break;
            }
        }
        self.usage.received_epoch(epoch);
        self.prepare_future();
    }

    /// Have the keys of the next `FUTURE` epochs at hand, none beyond the last epoch.
    fn prepare_future(&mut self) {
        while self.chain.epoch < (self.current.epoch + FUTURE).min(LAST_EPOCH) {
            self.chain.advance();
            let next = Receiver::new(&self.chain, self.window).expect("the suite took a key before");
            self.future.push_back(next);
        }
    }

    pub(super) fn windows(&mut self) -> impl Iterator<Item = &mut ReplayWindow> {
        std::iter::once(&mut self.current).chain(&mut self.retiring).map(|each| &mut each.window)
    }
}

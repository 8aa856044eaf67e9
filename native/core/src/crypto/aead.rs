// SPDX-License-Identifier: BSD-2-Clause
//! One AEAD key, in place and with the tag apart. That no nonce is used twice is the caller's duty.
//!
//! ring is the fastest for the suites that are in use (doc/performance.md); AES-192-GCM, which it does not have and
//! nobody prefers, is the aes-gcm crate's.

use aes_gcm::aead::AeadInPlace;
use aes_gcm::aead::consts::U12;
use aes_gcm::{AesGcm, KeyInit};
use ring::aead::{self, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::crypto::suites::Suite;
use crate::crypto::wiped::Wiped;
use crate::errors::{KeyError, OpenError};

pub(crate) const TAG_SIZE: usize = 16;
pub(crate) const NONCE_SIZE: usize = 12;

type Aes192Gcm = AesGcm<aes::Aes192, U12>;

enum Key {
    Ring(Wiped<LessSafeKey>),
    Aes192(Box<Aes192Gcm>),
}

pub(crate) struct Aead(Key);

/// A key that tells nothing, to overwrite others with.
fn blank() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&aead::AES_256_GCM, &[0; 32]).expect("the key fits"))
}

impl Aead {
    pub(crate) fn new(suite: Suite, key: &[u8]) -> Result<Self, KeyError> {
        let misfit = || KeyError(format!("a key of {} bytes does not fit {suite:?}", key.len()));
        let algorithm = match suite {
            Suite::Aes128Gcm => &aead::AES_128_GCM,
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
            Suite::Aes192Gcm => {
                let made = Aes192Gcm::new_from_slice(key).map_err(|_| misfit())?;
                return Ok(Self(Key::Aes192(Box::new(made))));
            }
            _ => return Err(KeyError(format!("{suite:?} is not AEAD"))),
        };
        let made = UnboundKey::new(algorithm, key).map_err(|_| misfit())?;
        Ok(Self(Key::Ring(Wiped::new(LessSafeKey::new(made), blank))))
    }

    /// Encrypt `data` where it lies and return the tag.
    #[inline]
    pub(crate) fn seal(&self, nonce: [u8; NONCE_SIZE], ad: &[u8], data: &mut [u8]) -> [u8; TAG_SIZE] {
        let mut tag = [0; TAG_SIZE];
        // Both fail for more data than GCM can take, gigabytes beyond any buffer there is.
        match &self.0 {
            Key::Ring(key) => {
                let made = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(ad), data);
                tag.copy_from_slice(made.expect("a packet is short").as_ref());
            }
            Key::Aes192(key) => {
                let made = key.encrypt_in_place_detached(&nonce.into(), ad, data);
                tag.copy_from_slice(&made.expect("a packet is short"));
            }
        }
        tag
    }

    /// Decrypt `data` where it lies, if `tag` fits.
    #[inline]
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_SIZE],
        ad: &[u8],
        data: &mut [u8],
        tag: [u8; TAG_SIZE],
    ) -> Result<(), OpenError> {
        let authentic = match &self.0 {
            Key::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(ad), Tag::from(tag), data, 0..).is_ok()
            }
            Key::Aes192(key) => key.decrypt_in_place_detached(&nonce.into(), ad, data, &tag.into()).is_ok(),
        };
        if authentic { Ok(()) } else { Err(OpenError::Forged) }
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! One AEAD key, in place and with the tag apart. That no nonce is used twice is the caller's duty.

use ring::aead::{self, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::errors::{KeyError, OpenError};
use crate::suites::Suite;

pub(crate) const TAG_SIZE: usize = 16;
pub(crate) const NONCE_SIZE: usize = 12;

pub(crate) struct Aead(LessSafeKey);

impl Aead {
    pub(crate) fn new(suite: Suite, key: &[u8]) -> Result<Self, KeyError> {
        let algorithm = match suite {
            Suite::Aes128Gcm => &aead::AES_128_GCM,
            Suite::Aes256Gcm => &aead::AES_256_GCM,
            Suite::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        match UnboundKey::new(algorithm, key) {
            Ok(key) => Ok(Self(LessSafeKey::new(key))),
            Err(_) => Err(KeyError(format!("a key of {} bytes does not fit {suite:?}", key.len()))),
        }
    }

    /// Encrypt `data` where it lies and return the tag.
    #[inline]
    pub(crate) fn seal(&self, nonce: [u8; NONCE_SIZE], ad: &[u8], data: &mut [u8]) -> [u8; TAG_SIZE] {
        let mut tag = [0; TAG_SIZE];
        // It fails for more data than GCM can take, gigabytes beyond any buffer there is.
        let made = self.0.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(ad), data);
        tag.copy_from_slice(made.expect("a packet is short").as_ref());
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
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.0.open_in_place_separate_tag(nonce, Aad::from(ad), Tag::from(tag), data, 0..) {
            Ok(_) => Ok(()),
            Err(_) => Err(OpenError::Forged),
        }
    }
}

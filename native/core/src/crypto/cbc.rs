// SPDX-License-Identifier: BSD-2-Clause
//! AES in CBC mode, in place and without padding: that is the format's business.

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, InnerIvInit, KeyInit};
use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};

use crate::crypto::suites::Suite;
use crate::errors::KeyError;

pub(crate) const BLOCK: usize = 16;

/// A key for encrypting; the library wipes its schedule.
pub(crate) enum Encryptor {
    Aes128(Box<Aes128Enc>),
    Aes192(Box<Aes192Enc>),
    Aes256(Box<Aes256Enc>),
}

/// A key for decrypting.
pub(crate) enum Decryptor {
    Aes128(Box<Aes128Dec>),
    Aes192(Box<Aes192Dec>),
    Aes256(Box<Aes256Dec>),
}

fn misfit(suite: Suite, key: &[u8]) -> KeyError {
    KeyError(format!("a key of {} bytes does not fit {suite:?}", key.len()))
}

impl Encryptor {
    pub(crate) fn new(suite: Suite, key: &[u8]) -> Result<Self, KeyError> {
        let made = match suite {
            Suite::Aes128Cbc => Aes128Enc::new_from_slice(key).map(|key| Self::Aes128(Box::new(key))),
            Suite::Aes192Cbc => Aes192Enc::new_from_slice(key).map(|key| Self::Aes192(Box::new(key))),
            Suite::Aes256Cbc => Aes256Enc::new_from_slice(key).map(|key| Self::Aes256(Box::new(key))),
            _ => return Err(misfit(suite, key)),
        };
        made.map_err(|_| misfit(suite, key))
    }

    /// Encrypt `data`, whole blocks, where it lies.
    pub(crate) fn encrypt(&self, iv: &[u8; BLOCK], data: &mut [u8]) {
        let size = data.len();
        let done = match self {
            Self::Aes128(key) => {
                cbc::Encryptor::inner_iv_init(&**key, iv.into()).encrypt_padded_mut::<NoPadding>(data, size)
            }
            Self::Aes192(key) => {
                cbc::Encryptor::inner_iv_init(&**key, iv.into()).encrypt_padded_mut::<NoPadding>(data, size)
            }
            Self::Aes256(key) => {
                cbc::Encryptor::inner_iv_init(&**key, iv.into()).encrypt_padded_mut::<NoPadding>(data, size)
            }
        };
        done.expect("whole blocks");
    }
}

impl Decryptor {
    pub(crate) fn new(suite: Suite, key: &[u8]) -> Result<Self, KeyError> {
        let made = match suite {
            Suite::Aes128Cbc => Aes128Dec::new_from_slice(key).map(|key| Self::Aes128(Box::new(key))),
            Suite::Aes192Cbc => Aes192Dec::new_from_slice(key).map(|key| Self::Aes192(Box::new(key))),
            Suite::Aes256Cbc => Aes256Dec::new_from_slice(key).map(|key| Self::Aes256(Box::new(key))),
            _ => return Err(misfit(suite, key)),
        };
        made.map_err(|_| misfit(suite, key))
    }

    /// Decrypt `data`, whole blocks, where it lies.
    pub(crate) fn decrypt(&self, iv: &[u8; BLOCK], data: &mut [u8]) {
        let done = match self {
            Self::Aes128(key) => {
                cbc::Decryptor::inner_iv_init(&**key, iv.into()).decrypt_padded_mut::<NoPadding>(data).map(drop)
            }
            Self::Aes192(key) => {
                cbc::Decryptor::inner_iv_init(&**key, iv.into()).decrypt_padded_mut::<NoPadding>(data).map(drop)
            }
            Self::Aes256(key) => {
                cbc::Decryptor::inner_iv_init(&**key, iv.into()).decrypt_padded_mut::<NoPadding>(data).map(drop)
            }
        };
        done.expect("whole blocks");
    }
}

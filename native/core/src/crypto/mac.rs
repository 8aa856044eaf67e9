// SPDX-License-Identifier: BSD-2-Clause
//! HMAC (RFC 2104) with every digest that the reference offers; the key's two blocks are hashed once.

use hmac::digest::InvalidLength;
use hmac::{Hmac, Mac, SimpleHmac};

use crate::crypto::suites::Digest;
use crate::crypto::wiped::Wiped;
use crate::errors::{KeyError, OpenError};

/// One HMAC key.
pub(crate) trait Signer: Send {
    /// Bytes of a tag.
    fn size(&self) -> usize;
    /// Write the tag of `message` to `tag`, which has `size()` bytes.
    fn sign(&self, message: &[u8], tag: &mut [u8]);
    /// Refuse a `tag` that is not that of `message`, in the same time wherever it differs.
    fn verify(&self, message: &[u8], tag: &[u8]) -> Result<(), OpenError>;
}

struct Keyed<M>(Wiped<M>);

impl<M: Mac + Clone + Send> Signer for Keyed<M> {
    fn size(&self) -> usize {
        M::output_size()
    }

    fn sign(&self, message: &[u8], tag: &mut [u8]) {
        let mut mac = M::clone(&self.0);
        mac.update(message);
        tag.copy_from_slice(&mac.finalize().into_bytes());
    }

    fn verify(&self, message: &[u8], tag: &[u8]) -> Result<(), OpenError> {
        let mut mac = M::clone(&self.0);
        mac.update(message);
        mac.verify_slice(tag).map_err(|_| OpenError::Forged)
    }
}

fn keyed<M: Mac + hmac::digest::KeyInit + Clone + Send + 'static>(
    key: &[u8],
) -> Result<Box<dyn Signer>, InvalidLength> {
    let blank = || <M as Mac>::new(&Default::default());
    Ok(Box::new(Keyed(Wiped::new(<M as Mac>::new_from_slice(key)?, blank))))
}

/// The HMAC with `digest` under `key`, which is as long as the digest, as in OpenVPN.
pub(crate) fn signer(digest: Digest, key: &[u8]) -> Result<Box<dyn Signer>, KeyError> {
    if key.len() != digest.size() {
        return Err(KeyError(format!("an HMAC key for {digest:?} has {} bytes, not {}", digest.size(), key.len())));
    }
    let made = match digest {
        Digest::Sha1 => keyed::<Hmac<sha1::Sha1>>(key),
        Digest::Sha224 => keyed::<Hmac<sha2::Sha224>>(key),
        Digest::Sha256 => keyed::<Hmac<sha2::Sha256>>(key),
        Digest::Sha384 => keyed::<Hmac<sha2::Sha384>>(key),
        Digest::Sha512 => keyed::<Hmac<sha2::Sha512>>(key),
        Digest::Sha512T224 => keyed::<Hmac<sha2::Sha512_224>>(key),
        Digest::Sha512T256 => keyed::<Hmac<sha2::Sha512_256>>(key),
        Digest::Sha3T224 => keyed::<Hmac<sha3::Sha3_224>>(key),
        Digest::Sha3T256 => keyed::<Hmac<sha3::Sha3_256>>(key),
        Digest::Sha3T384 => keyed::<Hmac<sha3::Sha3_384>>(key),
        Digest::Sha3T512 => keyed::<Hmac<sha3::Sha3_512>>(key),
        Digest::Blake2b512 => keyed::<SimpleHmac<blake2::Blake2b512>>(key),
        Digest::Blake2s256 => keyed::<SimpleHmac<blake2::Blake2s256>>(key),
        Digest::Sm3 => keyed::<Hmac<sm3::Sm3>>(key),
        Digest::Md5 => keyed::<Hmac<md5::Md5>>(key),
        Digest::Ripemd160 => keyed::<Hmac<ripemd::Ripemd160>>(key),
    };
    made.map_err(|_| KeyError(format!("{digest:?} takes no key of {} bytes", key.len())))
}

/// HMAC-SHA-256 of `parts` in a row.
pub(crate) fn hmac_sha256(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // Not `new_from_slice`, which is fallible for other MACs: HMAC takes a key of a block's length as it is.
    let mut block = zeroize::Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key);
    let mut mac = <Hmac<sha2::Sha256> as Mac>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

// SPDX-License-Identifier: BSD-2-Clause
//! The cipher suites and digests that the native data plane has, by the names of the Python package's
//! `crypto.suites` and `crypto.digests`. Blocks of 64 bits (Blowfish, Triple DES) are left to the reference.

/// The most blocks plus packets that AES-GCM may protect under one key in one direction, 2^36 - 1
/// (draft-irtf-cfrg-aead-limits, section 5.1.1, with an advantage of 2^-57).
pub const GCM_USAGE_LIMIT: u64 = (1 << 36) - 1;

/// No limit: more than any count can reach.
pub const UNLIMITED: u64 = u64::MAX;

/// One suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-128-GCM
    Aes128Gcm,
    /// AES-192-GCM
    Aes192Gcm,
    /// AES-256-GCM
    Aes256Gcm,
    /// CHACHA20-POLY1305
    ChaCha20Poly1305,
    /// AES-128-CBC with an HMAC
    Aes128Cbc,
    /// AES-192-CBC with an HMAC
    Aes192Cbc,
    /// AES-256-CBC with an HMAC
    Aes256Cbc,
    /// An HMAC and no encryption
    Clear,
}

impl Suite {
    /// The suite that is called `name`, or none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "AES-128-GCM" => Self::Aes128Gcm,
            "AES-192-GCM" => Self::Aes192Gcm,
            "AES-256-GCM" => Self::Aes256Gcm,
            "CHACHA20-POLY1305" => Self::ChaCha20Poly1305,
            "AES-128-CBC" => Self::Aes128Cbc,
            "AES-192-CBC" => Self::Aes192Cbc,
            "AES-256-CBC" => Self::Aes256Cbc,
            "none" => Self::Clear,
            _ => return None,
        })
    }

    /// Bytes of the cipher's key.
    pub fn key_size(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Cbc => 16,
            Self::Aes192Gcm | Self::Aes192Cbc => 24,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 | Self::Aes256Cbc => 32,
            Self::Clear => 0,
        }
    }

    /// Whether it authenticates by itself; otherwise there is an HMAC beside it.
    pub fn is_aead(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes192Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305)
    }

    /// Whether it is CBC, with an HMAC beside it.
    pub fn is_cbc(self) -> bool {
        matches!(self, Self::Aes128Cbc | Self::Aes192Cbc | Self::Aes256Cbc)
    }

    /// The most blocks plus packets for one key in one direction.
    pub fn usage_limit(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes192Gcm | Self::Aes256Gcm => GCM_USAGE_LIMIT,
            _ => UNLIMITED,
        }
    }
}

/// What an HMAC is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // they are their names
pub enum Digest {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha512T224,
    Sha512T256,
    Sha3T224,
    Sha3T256,
    Sha3T384,
    Sha3T512,
    Blake2b512,
    Blake2s256,
    Sm3,
    Md5,
    Ripemd160,
}

impl Digest {
    /// The digest that is called `name`, or none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "SHA1" => Self::Sha1,
            "SHA224" => Self::Sha224,
            "SHA256" => Self::Sha256,
            "SHA384" => Self::Sha384,
            "SHA512" => Self::Sha512,
            "SHA512-224" => Self::Sha512T224,
            "SHA512-256" => Self::Sha512T256,
            "SHA3-224" => Self::Sha3T224,
            "SHA3-256" => Self::Sha3T256,
            "SHA3-384" => Self::Sha3T384,
            "SHA3-512" => Self::Sha3T512,
            "BLAKE2b512" => Self::Blake2b512,
            "BLAKE2s256" => Self::Blake2s256,
            "SM3" => Self::Sm3,
            "MD5" => Self::Md5,
            "RIPEMD160" => Self::Ripemd160,
            _ => return None,
        })
    }

    /// Bytes of a tag, and of a key.
    pub fn size(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 | Self::Ripemd160 => 20,
            Self::Sha224 | Self::Sha512T224 | Self::Sha3T224 => 28,
            Self::Sha256 | Self::Sha512T256 | Self::Sha3T256 | Self::Blake2s256 | Self::Sm3 => 32,
            Self::Sha384 | Self::Sha3T384 => 48,
            Self::Sha512 | Self::Sha3T512 | Self::Blake2b512 => 64,
        }
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! The cipher suites that the native data plane has, by the names of the Python package's `crypto.suites`.

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
    /// AES-256-GCM
    Aes256Gcm,
    /// CHACHA20-POLY1305
    ChaCha20Poly1305,
}

impl Suite {
    /// The suite that is called `name`, or none.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "AES-128-GCM" => Self::Aes128Gcm,
            "AES-256-GCM" => Self::Aes256Gcm,
            "CHACHA20-POLY1305" => Self::ChaCha20Poly1305,
            _ => return None,
        })
    }

    /// Bytes of the cipher's key.
    pub fn key_size(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// The most blocks plus packets for one key in one direction.
    pub fn usage_limit(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => GCM_USAGE_LIMIT,
            Self::ChaCha20Poly1305 => UNLIMITED,
        }
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! The data channel of OpenVPN, packet by packet: formats, replay windows, limits.
//!
//! It does no I/O, reads no clock and draws no randomness; a caller brings buffers and entropy. The readable
//! specification is the Python package's `dataplane` (`reference.py`, `keys.py`, `formats/`): what comes out
//! of both is compared at random. Nothing that comes from outside panics; it is refused with a typed error that
//! names the counter it belongs to.
#![forbid(unsafe_code)]

pub mod checksum;
pub mod coalesce;
pub mod crypto;
pub mod errors;
pub mod formats;
pub mod framing;
pub mod inner;
pub mod keys;
pub mod mss;
pub mod replay;
pub mod routes;
pub mod segment;
pub mod stream;
pub mod table;
#[cfg(test)]
mod testing;
pub mod usage;

pub use crypto::suites::{Digest, Suite};
pub use errors::{Drop, KeyError, OpenError, SealError};
pub use formats::{Opener, Sealer, make_key, make_key_at};
pub use keys::{DirectionKeys, Entropy, Format, KeySpec, Limits, NO_PEER_ID};
pub use usage::{KeyUsage, Start};

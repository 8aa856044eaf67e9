// SPDX-License-Identifier: BSD-2-Clause
//! The data channel of OpenVPN, packet by packet: formats, replay windows, limits.
//!
//! It does no I/O, reads no clock and draws no randomness; a caller brings buffers and entropy. The readable
//! specification is the Python package's `dataplane` (`reference.py`, `keys.py`, `formats/`): what comes out
//! of both is compared at random. Nothing that comes from outside panics; it is refused with a typed error that
//! names the counter it belongs to.
#![forbid(unsafe_code)]

mod aead;
mod cbc;
pub mod checksum;
pub mod coalesce;
pub mod errors;
pub mod formats;
pub mod keys;
mod mac;
pub mod mss;
pub mod replay;
pub mod segment;
pub mod suites;
pub mod usage;
mod wiped;

pub use errors::{Drop, KeyError, OpenError, SealError};
pub use formats::{Opener, Sealer, make_key, make_key_at};
pub use keys::{DirectionKeys, Entropy, Format, KeySpec, Limits, NO_PEER_ID};
pub use suites::{Digest, Suite};
pub use usage::{KeyUsage, Start};

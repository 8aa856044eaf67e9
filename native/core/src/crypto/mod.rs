// SPDX-License-Identifier: BSD-2-Clause
//! Primitives, each a thin layer over a library: what they make of packets is the business of `formats`.

pub(crate) mod aead;
pub(crate) mod cbc;
pub(crate) mod mac;
pub mod suites;
mod wiped;

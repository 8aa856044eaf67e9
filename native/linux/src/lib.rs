// SPDX-License-Identifier: BSD-2-Clause
//! Moves packets between a TUN device and sockets, on threads of its own and without Python.
//!
//! All of the unsafe code of the native data plane is in this crate's `sys`, each block with its reason.
#![deny(unsafe_code)]

mod backlog;
mod deadlines;
mod delivery;
mod directory;
mod engine;
mod events;
mod gate;
mod link;
mod outlet;
mod pace;
mod peer;
mod queue;
mod rx;
#[allow(unsafe_code)]
mod sys;
mod tun;
mod tx;

pub use engine::{Counters, Engine, Refusal};
pub use events::Event;
pub use peer::Rules;

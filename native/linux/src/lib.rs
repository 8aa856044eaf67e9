// SPDX-License-Identifier: BSD-2-Clause
//! Moves packets between a TUN device and sockets, on threads of its own and without Python.
//!
//! All of the unsafe code of the native data plane is in this crate, each block with its reason.

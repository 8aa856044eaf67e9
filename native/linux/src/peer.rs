// SPDX-License-Identifier: BSD-2-Clause
//! Rules of a peer, as `dataplane/interface.py` has them.

use std::time::Duration;

use miragevpn_core::Limits;
use miragevpn_core::framing::Framing;

/// Keep-alive and size rules; what is not there is switched off.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Send a ping after so long without sending anything.
    pub ping: Option<Duration>,
    /// Report the peer as silent after so long without an authentic packet.
    pub silence: Option<Duration>,
    /// Largest MSS let through in inner IPv4 packets; 0: any.
    pub mss4: u16,
    /// The same for IPv6.
    pub mss6: u16,
    /// Follow the peer to another address.
    pub floats: bool,
    /// What lies between keys and inner packets.
    pub framing: Framing,
    /// What concerns its keys.
    pub limits: Limits,
}

// SPDX-License-Identifier: BSD-2-Clause
//! What the workers tell the owner: a bounded queue with a bell.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::Bell;

/// Control packets that wait for the owner, and their bytes: an honest one has 1.2 KB, a datagram up to 64 KiB.
const MAX_CONTROL: usize = 1024;
const MAX_CONTROL_BYTES: usize = 4 << 20;

/// Messages about settings that wait for the owner: an honest peer sends one in ten seconds.
const MAX_OCC: usize = 64;

/// The events of the Python package's `dataplane/interface.py`, and the end of a worker.
#[derive(Debug)]
pub enum Event {
    /// A whole packet that is not data; who sent it, if the link is not connected.
    Control {
        /// Where it came from.
        link: u64,
        /// Who sent it.
        from: Option<SocketAddr>,
        /// The packet.
        packet: Vec<u8>,
    },
    /// The key must be replaced soon.
    KeyExhausted {
        /// Whose.
        peer: u32,
        /// Which.
        key_id: u8,
    },
    /// The first packet under the key was authenticated.
    KeyInUse {
        /// Whose.
        peer: u32,
        /// Which.
        key_id: u8,
    },
    /// Nothing valid came from the peer for too long.
    PeerSilent(u32),
    /// The peer said on the data channel that it leaves.
    PeerExited(u32),
    /// The peer said something about its settings.
    Occ {
        /// Who.
        peer: u32,
        /// What follows the magic number, no more than the owner looks at.
        message: Vec<u8>,
        /// Bytes of the packet that came, as it came.
        size: usize,
    },
    /// The peer sends compressed packets, which are dropped; said once.
    Compressed(u32),
    /// The peer is at another address now.
    Floated {
        /// Who.
        peer: u32,
        /// Where.
        to: SocketAddr,
    },
    /// A socket is of no more use.
    LinkFailed {
        /// Which.
        link: u64,
        /// Why, for the log.
        reason: String,
    },
    /// The TUN is of no more use.
    TunFailed(String),
    /// The TUN does not do what it said it could, and goes on without; for the log.
    TunRefused(String),
    /// A worker met a bug and ended: nothing is moved any more.
    Broken(String),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Event>,
    control: usize,
    control_bytes: usize,
    occ: usize,
}

pub(crate) struct Events {
    queue: Mutex<Queue>,
    bell: Bell,
}

impl Events {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { queue: Mutex::new(Queue::default()), bell: Bell::new()? })
    }

    /// Tells the owner. A control packet too many is lost, as the network loses some: the control channel repeats
    /// it; a message about settings too many stays without an answer. All other events are bounded by the number of peers, keys and links.
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.lock();
        if let Event::Control { packet, .. } = &event {
            if queue.control == MAX_CONTROL || queue.control_bytes + packet.len() > MAX_CONTROL_BYTES {
                return;
            }
            queue.control += 1;
            queue.control_bytes += packet.len();
        }
        if let Event::Occ { .. } = &event {
            if queue.occ == MAX_OCC {
                return;
            }
            queue.occ += 1;
        }
        queue.items.push_back(event);
        if queue.items.len() == 1 {
            self.bell.ring();
        }
    }

    /// The peer is somewhere else; of several moves that were not heard of yet the last one counts.
    pub(crate) fn moved(&self, peer: u32, to: SocketAddr) {
        let mut queue = self.lock();
        queue.items.retain(|event| !matches!(event, Event::Floated { peer: other, .. } if *other == peer));
        drop(queue);
        self.push(Event::Floated { peer, to });
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        let mut queue = self.lock();
        self.bell.hush();
        queue.control = 0;
        queue.control_bytes = 0;
        queue.occ = 0;
        queue.items.drain(..).collect()
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_packets_are_bounded_and_others_are_not_lost() {
        let events = Events::new().unwrap();
        for _ in 0..2 * MAX_CONTROL {
            events.push(Event::Control { link: 1, from: None, packet: vec![0] });
        }
        events.push(Event::PeerExited(1));
        let taken = events.take();
        assert_eq!(taken.len(), MAX_CONTROL + 1);
        assert!(matches!(taken.last(), Some(Event::PeerExited(1))));
        assert!(events.take().is_empty());
        for _ in 0..2 * MAX_CONTROL_BYTES / 65000 {
            events.push(Event::Control { link: 1, from: None, packet: vec![0; 65000] });
        }
        assert_eq!(events.take().len(), MAX_CONTROL_BYTES / 65000);
    }

    #[test]
    fn messages_about_settings_are_bounded_by_themselves() {
        let events = Events::new().unwrap();
        for _ in 0..2 {
            for _ in 0..2 * MAX_OCC {
                events.push(Event::Occ { peer: 1, message: vec![0; 512], size: 600 });
            }
            events.push(Event::Control { link: 1, from: None, packet: vec![0] });
            assert_eq!(events.take().len(), MAX_OCC + 1);
        }
    }

    #[test]
    fn only_the_last_move_is_told() {
        let events = Events::new().unwrap();
        for port in 1..100 {
            events.moved(7, SocketAddr::from(([10, 0, 0, 1], port)));
        }
        assert!(matches!(events.take()[..], [Event::Floated { peer: 7, to }] if to.port() == 99));
    }
}

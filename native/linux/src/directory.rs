// SPDX-License-Identifier: BSD-2-Clause
//! By what a packet finds its peer.
//!
//! A link with one peer gives it whatever comes on that link. Otherwise DATA_V2 names its peer, and DATA_V1 is known by
//! link and endpoint. What it costs that one peer comes, changes or goes does not grow with the number of the others.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use miragevpn_core::routes::Owners;
use miragevpn_core::table::Table;

/// All but the peers themselves, of which it knows the numbers.
#[derive(Default)]
pub(crate) struct Directory {
    /// Links with exactly one peer.
    sole: Table<u64, u32>,
    on_link: Table<u64, HashSet<u32>>,
    by_endpoint: HashMap<(u64, SocketAddr), u32>,
    unrestricted: BTreeSet<u32>,
    pub(crate) inner: Owners,
}

impl Directory {
    /// A peer comes; at the same link and endpoint it takes over from an earlier one.
    pub(crate) fn add(&mut self, handle: u32, link: u64, endpoint: SocketAddr, restricted: bool) {
        self.by_endpoint.insert((link, endpoint), handle);
        self.on_link.entry(link).or_default().insert(handle);
        self.count(link);
        self.restrict(handle, restricted);
    }

    /// The peer that was last at `endpoint` of `link` goes.
    pub(crate) fn remove(&mut self, handle: u32, link: u64, endpoint: SocketAddr) {
        self.leave(handle, link, endpoint);
        if let Some(peers) = self.on_link.get_mut(&link) {
            peers.remove(&handle);
        }
        self.count(link);
        self.inner.give(handle, Vec::new(), Vec::new());
        self.unrestricted.remove(&handle);
    }

    /// It is at `to` now, where nobody was.
    pub(crate) fn moved(&mut self, handle: u32, link: u64, from: SocketAddr, to: SocketAddr) {
        self.leave(handle, link, from);
        self.by_endpoint.insert((link, to), handle);
    }

    fn leave(&mut self, handle: u32, link: u64, endpoint: SocketAddr) {
        if self.by_endpoint.get(&(link, endpoint)) == Some(&handle) {
            self.by_endpoint.remove(&(link, endpoint));
        }
    }

    fn count(&mut self, link: u64) {
        self.sole.remove(&link);
        let Some(peers) = self.on_link.get(&link) else {
            return;
        };
        match (peers.len(), peers.iter().next()) {
            (1, Some(&handle)) => {
                self.sole.insert(link, handle);
            }
            (0, _) => {
                self.on_link.remove(&link);
            }
            _ => {}
        }
    }

    /// Whether the peer sends from and receives for its own addresses only.
    pub(crate) fn restrict(&mut self, handle: u32, restricted: bool) {
        if restricted {
            self.unrestricted.remove(&handle);
        } else {
            self.unrestricted.insert(handle);
        }
    }

    /// Who is alone on the link.
    #[inline]
    pub(crate) fn sole(&self, link: u64) -> Option<u32> {
        self.sole.get(&link).copied()
    }

    /// Who is there.
    #[inline]
    pub(crate) fn at(&self, link: u64, endpoint: SocketAddr) -> Option<u32> {
        self.by_endpoint.get(&(link, endpoint)).copied()
    }

    /// Who gets every packet from the TUN: the newest of those who may.
    pub(crate) fn everything(&self) -> Option<u32> {
        self.unrestricted.last().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_peer_that_goes_leaves_nothing_and_takes_nothing_of_others() {
        let mut all = Directory::default();
        all.add(1, 7, endpoint(1), false);
        assert_eq!((all.sole(7), all.at(7, endpoint(1)), all.everything()), (Some(1), Some(1), Some(1)));
        all.add(2, 7, endpoint(2), false);
        all.add(3, 7, endpoint(1), true); // takes over
        assert_eq!((all.sole(7), all.at(7, endpoint(1)), all.everything()), (None, Some(3), Some(2)));
        all.remove(1, 7, endpoint(1));
        assert_eq!((all.sole(7), all.at(7, endpoint(1)), all.everything()), (None, Some(3), Some(2)));
        all.moved(2, 7, endpoint(2), endpoint(5));
        assert_eq!((all.at(7, endpoint(2)), all.at(7, endpoint(5))), (None, Some(2)));
        all.remove(2, 7, endpoint(5));
        assert_eq!((all.sole(7), all.at(7, endpoint(5)), all.everything()), (Some(3), None, None));
        all.restrict(3, false);
        assert_eq!(all.everything(), Some(3));
        all.remove(3, 7, endpoint(1));
        assert_eq!((all.sole(7), all.everything()), (None, None));
        assert!(all.by_endpoint.is_empty() && all.on_link.is_empty());
    }
}

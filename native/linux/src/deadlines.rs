// SPDX-License-Identifier: BSD-2-Clause
//! The next deadline of many peers, at a cost that does not grow with their number; `base/deadlines.py` in Rust.
//!
//! A heap with lazy deletion: an entry counts only while it is its peer's present deadline.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use miragevpn_core::table::Table;

/// Stale entries that are put up with whatever the number of peers.
const SLACK: usize = 64;

/// At most one deadline for each peer.
#[derive(Default)]
pub(crate) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    present: Table<u32, Instant>,
}

impl Deadlines {
    /// The deadline of `peer` is `when` from now on; none: it has none.
    pub(crate) fn set(&mut self, peer: u32, when: Option<Instant>) {
        let Some(when) = when else {
            self.present.remove(&peer);
            return;
        };
        if self.present.insert(peer, when) == Some(when) {
            return;
        }
        self.heap.push(Reverse((when, peer)));
        if self.heap.len() > 2 * self.present.len() + SLACK {
            self.heap = self.present.iter().map(|(&peer, &when)| Reverse((when, peer))).collect();
        }
    }

    /// The earliest.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        while let Some(&Reverse((when, peer))) = self.heap.peek() {
            if self.present.get(&peer) == Some(&when) {
                return Some(when);
            }
            self.heap.pop();
        }
        None
    }

    /// Whose deadline has come, earliest first; they have none until it is set again.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<u32> {
        let mut due = Vec::new();
        while self.next().is_some_and(|when| when <= now) {
            if let Some(Reverse((_, peer))) = self.heap.pop() {
                self.present.remove(&peer);
                due.push(peer);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn earliest_first_each_once_and_the_heap_stays_small() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let mut deadlines = Deadlines::default();
        for (peer, seconds) in [(1, 3), (2, 1), (3, 2), (4, 1)] {
            deadlines.set(peer, at(seconds));
        }
        deadlines.set(4, None);
        assert_eq!(deadlines.next(), at(1));
        assert_eq!(deadlines.take_due(now + Duration::from_secs(2)), [2, 3]);
        assert_eq!(deadlines.next(), at(3));
        for seconds in 4..1000 {
            deadlines.set(1, at(seconds));
            assert_eq!(deadlines.next(), at(seconds));
        }
        for seconds in (1000..2000).rev() {
            deadlines.set(1, at(seconds));
            assert!(deadlines.heap.len() <= 2 + SLACK);
        }
        assert_eq!(deadlines.take_due(now + Duration::from_secs(3000)), [1]);
        assert_eq!(deadlines.next(), None);
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! How many packets may wait at the TUN. The kernel counts packets, of which one has 40 bytes, another one 64 KiB.
//!
//! As many as make [`BYTES`] of the size that comes just now: a sender of large ones fills whatever room there is, and
//! everybody else waits behind it; of small ones a burst is to find room (a sender of QUIC makes one of 45). It becomes
//! longer only where a turn found it half full, and shorter only where nothing is in it: the kernel would drop that.

use std::time::{Duration, Instant};

/// Four milliseconds of 4 Gbit/s.
const BYTES: usize = 2 * 1024 * 1024;
const SHORTEST: usize = 32;
/// What the kernel gives a TUN by itself is 500.
const LONGEST: usize = 512;
/// Packets that the size is taken from, and how often at most.
const SAMPLE: usize = 64;
const PERIOD: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Gauge {
    packets: usize,
    bytes: usize,
    since: Instant,
}

impl Gauge {
    pub(crate) fn new(now: Instant) -> Self {
        Self { packets: 0, bytes: 0, since: now }
    }

    /// Takes note of a packet.
    pub(crate) fn note(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes;
    }

    /// The length that suits what came since the last answer; None if that is not to be told yet.
    pub(crate) fn length(&mut self, now: Instant) -> Option<usize> {
        if self.packets < SAMPLE || now.saturating_duration_since(self.since) < PERIOD {
            return None;
        }
        let length = BYTES / (self.bytes / self.packets).max(1);
        *self = Self::new(now);
        Some(length.clamp(SHORTEST, LONGEST))
    }
}

/// The length to set in place of `present`, if one is, after a turn that found `found` packets, and `emptied` the queue.
///
/// A small difference is none: everybody is told of a change who watches interfaces.
pub(crate) fn change(present: usize, wanted: usize, found: usize, emptied: bool) -> Option<usize> {
    let longer = wanted > 2 * present && 2 * found >= present;
    let shorter = present > 2 * wanted && emptied && found <= wanted;
    (longer || shorter).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(packets: usize, size: usize, time: Duration) -> Option<usize> {
        let begin = Instant::now();
        let mut gauge = Gauge::new(begin);
        (0..packets).for_each(|_| gauge.note(size));
        gauge.length(begin + time)
    }

    #[test]
    fn the_larger_the_fewer() {
        assert_eq!(after(SAMPLE, 65_000, PERIOD), Some(SHORTEST));
        assert_eq!(after(SAMPLE, 20_000, PERIOD), Some(104));
        assert_eq!(after(SAMPLE, 6_000, PERIOD), Some(349));
        assert_eq!(after(SAMPLE, 0, PERIOD), Some(LONGEST));
    }

    #[test]
    fn a_few_packets_or_a_moment_say_nothing() {
        assert_eq!(after(SAMPLE - 1, 65_000, PERIOD), None);
        assert_eq!(after(SAMPLE, 65_000, PERIOD / 2), None);
    }

    #[test]
    fn each_answer_is_about_what_came_since_the_last_one() {
        let begin = Instant::now();
        let mut gauge = Gauge::new(begin);
        (0..1000).for_each(|_| gauge.note(65_000));
        assert_eq!(gauge.length(begin + PERIOD), Some(SHORTEST));
        (0..SAMPLE).for_each(|_| gauge.note(100));
        assert_eq!(gauge.length(begin + PERIOD), None);
        assert_eq!(gauge.length(begin + PERIOD * 2), Some(LONGEST));
    }

    #[test]
    fn it_grows_when_it_is_full_and_shrinks_when_it_is_empty() {
        assert_eq!(change(32, 512, 16, true), Some(512));
        assert_eq!(change(32, 512, 15, true), None);
        assert_eq!(change(512, 32, 8, true), Some(32));
        assert_eq!(change(512, 32, 8, false), None);
        assert_eq!(change(512, 32, 100, true), None); // as many may come again before the change
        for wanted in [32, 16, 64] {
            assert_eq!(change(32, wanted, 32, true), None);
        }
        assert_eq!(change(0, 32, 0, true), Some(32));
    }
}

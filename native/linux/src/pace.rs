// SPDX-License-Identifier: BSD-2-Clause
//! How often a worker looks for packets: at once while few come, then at intervals, so that each look finds several.
//!
//! A wake-up costs as much as the packets of a whole turn, and what goes out together travels as one row. A network
//! card moderates its interrupts for the same reason. Whoever sends one packet and waits for the answer never notices.
//! After a turn that moved much it does not sleep until it has looked for a moment, since the next packets come before a
//! core that went to sleep is awake again; nor where somebody else wants the core, from whom only waking takes it back.

use std::time::{Duration, Instant};

/// Between the beginnings of two turns, when more than [`SAVED`] came in a row. With the timers' own slack of 50
/// microseconds some 5000 turns a second are left; at 250,000 packets a second 50 of them wait for each.
const INTERVAL: Duration = Duration::from_micros(150);
/// Turns that may follow each other at once after a rest.
const SAVED: u32 = 4;

/// Bytes of a turn that are much: more than one of the largest packets. At full intervals that is 3 Gbit/s; of bursts
/// with less between them, each is paid for with one look at the most.
const MUCH: usize = 68 * 1024;
/// How long to look after that.
const LOOK: Duration = Duration::from_micros(50);
/// Somebody who keeps the core for so long when it is offered wants it for himself,
const KEPT: Duration = Duration::from_micros(500);
/// and it is not offered again for so long: without it a worker moves nothing, and what arrives is lost.
const WARY: Duration = Duration::from_secs(1);

/// What a worker did when it had its turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Bytes that it found.
    pub(crate) bytes: usize,
    /// It took as much as it may in one turn; there is more.
    pub(crate) behind: bool,
    /// How long there is nothing to do but wait for more; none: without end.
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Pace {
    due: Instant,   // when the next turn would come if none had been saved
    looks: Instant, // from then on
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: saved(now), looks: now }
    }

    /// How long to rest after `turn`: before waiting for packets, for then those are there that came meanwhile.
    pub(crate) fn rest(&mut self, turn: &Turn, now: Instant) -> Duration {
        if turn.behind {
            return Duration::ZERO;
        }
        self.due = self.due.max(saved(now)) + INTERVAL;
        self.due.saturating_duration_since(now)
    }

    /// How long to look for more after `turn`, offering the core to others meanwhile, before going to sleep.
    pub(crate) fn look(&self, turn: &Turn, now: Instant) -> Duration {
        if turn.bytes > MUCH && now >= self.looks { LOOK } else { Duration::ZERO }
    }

    /// The core was offered to others at `offered`, and is here again.
    pub(crate) fn yielded(&mut self, offered: Instant, now: Instant) {
        if now.saturating_duration_since(offered) > KEPT {
            self.looks = now + WARY;
        }
    }
}

/// What is due at `now` after a rest.
fn saved(now: Instant) -> Instant {
    now.checked_sub(INTERVAL * SAVED).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_now_and_then_come_at_once() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..100 {
            assert_eq!(pace.rest(&Turn::default(), now), Duration::ZERO);
            now += INTERVAL;
        }
    }

    #[test]
    fn turns_without_end_come_at_intervals() {
        let begin = Instant::now();
        let (mut now, mut pace) = (begin, Pace::new(begin));
        for _ in 0..100 {
            now += pace.rest(&Turn::default(), now);
        }
        assert_eq!(now - begin, INTERVAL * (100 - SAVED));
        now += INTERVAL * 10; // a rest, after which some are saved, but no more than that
        let rests: Vec<_> = (0..6).map(|_| pace.rest(&Turn::default(), now)).collect();
        assert_eq!(rests[..4], [Duration::ZERO; 4]);
        assert_eq!(rests[4..], [INTERVAL, INTERVAL * 2]);
    }
    #[test]
    fn a_turn_that_left_something_is_followed_at_once() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..100 {
            assert_eq!(pace.rest(&Turn { behind: true, ..Turn::default() }, now), Duration::ZERO);
        }
    }

    #[test]
    fn only_after_much_it_looks_before_it_sleeps() {
        let now = Instant::now();
        let pace = Pace::new(now);
        for (bytes, look) in [(0, Duration::ZERO), (65536 + 10, Duration::ZERO), (2 * 65536, LOOK)] {
            assert_eq!(pace.look(&Turn { bytes, ..Turn::default() }, now), look);
        }
    }

    #[test]
    fn where_others_want_the_core_it_does_not_look() {
        let (mut now, much) = (Instant::now(), Turn { bytes: 2 * MUCH, ..Turn::default() });
        let mut pace = Pace::new(now);
        pace.yielded(now, now + KEPT); // somebody who soon has enough
        assert_eq!(pace.look(&much, now), LOOK);
        let offered = now;
        now += KEPT * 2;
        pace.yielded(offered, now);
        assert_eq!(pace.look(&much, now), Duration::ZERO);
        assert_eq!(pace.look(&much, now + WARY), LOOK);
    }
}

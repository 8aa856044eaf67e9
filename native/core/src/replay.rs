// SPDX-License-Identifier: BSD-2-Clause
//! A sliding window over packet ids, used in two steps: `check` before a packet is decrypted, so that a replay costs
//! no cryptography, and `mark` after its tag was verified. Who cannot authenticate a packet cannot move a window.

use crate::errors::OpenError;

/// The largest window that OpenVPN takes; 8 KiB of bitmap.
pub const MAX_WINDOW: usize = 65536;

/// Calls of `age` until an id that was not exceeded meanwhile is too old.
pub const AGES: usize = 4;

/// The last `size` ids below and including the highest one seen; 0 is never a valid id.
///
/// A ring of 64-bit words over the ids modulo its length (RFC 6479), which has one word more than `size` needs,
/// so that moving on only ever clears words that are behind the window. Time comes in by `age` alone.
pub struct ReplayWindow {
    size: u64,
    highest: u64,
    /// Ids up to this one are too late.
    floor: u64,
    /// The highest id at each of the last calls of `age`.
    marks: [u64; AGES],
    ring: Box<[u64]>,
}

impl ReplayWindow {
    /// A window over `size` ids; `size` is brought into 1 to `MAX_WINDOW`.
    pub fn new(size: usize) -> Self {
        let size = size.clamp(1, MAX_WINDOW);
        let words = (size.div_ceil(64) + 1).next_power_of_two();
        Self { size: size as u64, highest: 0, floor: 0, marks: [0; AGES], ring: vec![0; words].into_boxed_slice() }
    }

    /// A quarter of the time for late packets passed: what was the highest id four calls ago is too old.
    pub fn age(&mut self) {
        self.floor = self.marks[0];
        self.marks.rotate_left(1);
        self.marks[AGES - 1] = self.highest;
    }

    /// Refuse `id` if it is 0, was marked before, or is too old to tell.
    #[inline]
    pub fn check(&self, id: u64) -> Result<(), OpenError> {
        if id > self.highest {
            return Ok(());
        }
        // The floor is 0 at least, which refuses the id 0.
        if id <= self.floor || self.highest - id >= self.size || self.ring[self.word(id)] >> (id % 64) & 1 == 1 {
            return Err(OpenError::Replayed);
        }
        Ok(())
    }

    /// Remember `id`, which passed `check` and whose packet is authentic.
    #[inline]
    pub fn mark(&mut self, id: u64) {
        if id > self.highest {
            let words = self.ring.len() as u64;
            let ahead = (id / 64 - self.highest / 64).min(words);
            for each in 0..ahead {
                let word = self.word(id - each * 64);
                self.ring[word] = 0;
            }
            self.highest = id;
        }
        let word = self.word(id);
        self.ring[word] |= 1 << (id % 64);
    }

    fn word(&self, id: u64) -> usize {
        (id / 64) as usize & (self.ring.len() - 1)
    }
}

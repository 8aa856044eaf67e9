// SPDX-License-Identifier: BSD-2-Clause
//! Tables whose keys are ours: numbers of links and peers, addresses that we gave away. Several look-ups are made for
//! each packet, and the standard library's hash, which keeps its order secret from whoever chooses the keys, costs
//! 20 ns each. Nobody else may choose a key that is put in here; to look for one costs a stranger's packet no more.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with such keys.
pub type Table<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Multiplication by an odd number without pattern (2^64 divided by the golden ratio), for each word of the key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix(u64);

impl Mix {
    #[inline]
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for Mix {
    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.add(word.into());
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    #[inline]
    fn write_u128(&mut self, words: u128) {
        self.add((words >> 64) as u64);
        self.add(words as u64);
    }

    #[inline]
    fn write_isize(&mut self, word: isize) {
        self.add(word as u64); // which of an enum's variants it is
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.add(byte.into());
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32) // the table takes its place from the low bits, and the high ones are mixed best
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;
    use crate::inner::Address;

    /// Keys as they are given out, one after the other, and the places (of 1024) that they come to.
    fn places(keys: impl Iterator<Item = Address>) -> usize {
        let build = BuildHasherDefault::<Mix>::default();
        keys.map(|key| build.hash_one(key) % 1024).collect::<HashSet<_>>().len()
    }

    #[test]
    fn neighbours_do_not_come_to_one_place() {
        // 1024 keys thrown at random into 1024 places come to 647 of them.
        for step in [1, 4, 256, 65536] {
            assert!(places((0..1024).map(|n| Address::V4(0x0A08_0000 + n * step))) > 550, "step {step}");
        }
        for shift in [0, 16, 64, 80] {
            assert!(places((0..1024u128).map(|n| Address::V6((0xFD00 << 112) + (n << shift)))) > 550, "shift {shift}");
        }
    }
}

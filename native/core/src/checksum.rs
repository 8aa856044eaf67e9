// SPDX-License-Identifier: BSD-2-Clause
//! The Internet checksum (RFC 1071) and how it changes with one word (RFC 1624).
//!
//! Sums are kept unfolded in 64 bits and in the machine's own byte order, which the one's complement sum does not
//! mind as long as the words are taken at even offsets; only [`fold`] turns them into a number.

/// Bytes that are taken at once.
const BLOCK: usize = 32;

/// Sums of the 64-bit words of blocks, side by side so that none waits for another. Carries stay in the upper halves:
/// a 64-bit word is four of 16 bits, since 2^16, 2^32 and 2^64 leave 1 when divided by 2^16 - 1.
#[derive(Default)]
struct Lanes([u128; BLOCK / 8]);

impl Lanes {
    #[inline]
    fn add(&mut self, block: &[u8]) {
        for (lane, word) in self.0.iter_mut().zip(block.chunks_exact(8)) {
            *lane = lane.wrapping_add(u128::from(long(word))); // 2^64 of them would fit
        }
    }

    fn total(&self) -> u64 {
        let total: u128 = self.0.iter().sum();
        halves(total as u64) + (total >> 64) as u64
    }
}

#[inline]
fn long(word: &[u8]) -> u64 {
    u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]])
}

fn halves(long: u64) -> u64 {
    (long & 0xFFFF_FFFF) + (long >> 32)
}

/// The sum of what is less than a block.
fn rest(data: &[u8]) -> u64 {
    let mut words = data.chunks_exact(8);
    let mut sum: u64 = words.by_ref().map(|word| halves(long(word))).sum();
    let mut data = words.remainder();
    if let Some((word, behind)) = data.split_first_chunk::<4>() {
        sum += u64::from(u32::from_ne_bytes(*word));
        data = behind;
    }
    if let Some((word, behind)) = data.split_first_chunk::<2>() {
        sum += u64::from(u16::from_ne_bytes(*word));
        data = behind;
    }
    data.first().map_or(sum, |&last| sum + u64::from(u16::from_ne_bytes([last, 0])))
}

/// Adds the 16-bit words of `data` (an odd last byte is padded with zero) to the unfolded sum `sum`.
///
/// At most 64 KiB are ever summed, which adds less than 2^36.
#[must_use]
pub fn add(sum: u64, data: &[u8]) -> u64 {
    if data.len() < BLOCK {
        return sum + rest(data);
    }
    let mut lanes = Lanes::default();
    let mut blocks = data.chunks_exact(BLOCK);
    for block in &mut blocks {
        lanes.add(block);
    }
    sum + lanes.total() + rest(blocks.remainder())
}

/// Copies `data` to `to` and adds it to `sum` on the way.
///
/// # Panics
/// If they are not of one length.
#[must_use]
pub fn add_copied(sum: u64, data: &[u8], to: &mut [u8]) -> u64 {
    assert_eq!(data.len(), to.len());
    let mut lanes = Lanes::default();
    let (mut blocks, mut places) = (data.chunks_exact(BLOCK), to.chunks_exact_mut(BLOCK));
    for (block, place) in (&mut blocks).zip(&mut places) {
        place.copy_from_slice(block);
        lanes.add(block);
    }
    places.into_remainder().copy_from_slice(blocks.remainder());
    sum + lanes.total() + rest(blocks.remainder())
}

/// Adds one 16-bit word.
#[must_use]
pub fn add_word(sum: u64, word: u16) -> u64 {
    sum + u64::from(word.to_be())
}

/// The sum in 16 bits, as a number: not complemented.
#[must_use]
pub fn fold(sum: u64) -> u16 {
    let mut sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = (sum & 0xFFFF) + (sum >> 16);
    u16::from_be(sum as u16)
}

/// The checksum to write: the folded sum's complement.
#[must_use]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The unfolded sum of TCP's and UDP's pseudo header: addresses (4 or 16 bytes each), protocol, length.
#[must_use]
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    // The length has 16 bits for all that a 64 KiB packet can hold.
    add_word(add_word(add(0, addresses), u16::from(protocol)), length as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, section 1, as written there: word by word, with the carry put back each time.
    fn naive(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn equals_the_naive_sum_at_every_length() {
        let data: Vec<u8> = (0..3000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in 0..data.len() {
            assert_eq!(fold(add(0, &data[..length])), naive(&data[..length]), "{length} bytes");
        }
        assert_eq!(fold(add(0, &[0xFF; 65536])), 0xFFFF);
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(fold(add(0, &[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7])), 0xDDF2);
    }

    #[test]
    fn copying_on_the_way_changes_neither() {
        let data: Vec<u8> = (0..300u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in 0..data.len() {
            let mut copy = vec![0; length];
            assert_eq!(add_copied(7, &data[..length], &mut copy), add(7, &data[..length]), "{length} bytes");
            assert_eq!(copy, data[..length]);
        }
    }

    #[test]
    fn words_and_slices_add_alike() {
        assert_eq!(fold(add_word(add_word(0, 0x1234), 0xABCD)), fold(add(0, &[0x12, 0x34, 0xAB, 0xCD])));
    }
}

// SPDX-License-Identifier: BSD-2-Clause
//! The Internet checksum (RFC 1071) and how it changes with one word (RFC 1624).
//!
//! Sums are kept unfolded in 64 bits and in the machine's own byte order, which the one's complement sum does not
//! mind as long as the words are taken at even offsets; only [`fold`] turns them into a number.

/// Adds the 16-bit words of `data` (an odd last byte is padded with zero) to the unfolded sum `sum`.
///
/// At most 64 KiB are ever summed, in halves of 32 bits: no carry is lost before 2^32 of those.
#[must_use]
pub fn add(sum: u64, data: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total = sum + lanes.iter().sum::<u64>();
    for part in blocks.remainder().chunks(4) {
        let mut word = [0u8; 4];
        word[..part.len()].copy_from_slice(part);
        total += u64::from(u32::from_ne_bytes(word));
    }
    total
}

/// Copies `data` to `to`, as long as it, and adds it to `sum` on the way.
#[must_use]
pub fn add_copied(sum: u64, data: &[u8], to: &mut [u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let whole = data.len() - data.len() % 32;
    let (blocks, rest) = data.split_at(whole);
    let (to_blocks, to_rest) = to.split_at_mut(whole);
    for (block, place) in blocks.chunks_exact(32).zip(to_blocks.chunks_exact_mut(32)) {
        place.copy_from_slice(block);
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    to_rest.copy_from_slice(rest);
    add(sum + lanes.iter().sum::<u64>(), rest)
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

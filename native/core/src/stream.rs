// SPDX-License-Identifier: BSD-2-Clause
//! Packets on a TCP stream: `u16 BE length | packet`, the length counting what follows it; `dataplane/framing.py` in
//! Rust, but that the packets before an impossible length are still given out.

use core::ops::Range;

/// Length of a frame, in front of it.
pub const FRAME_HEADER: usize = 2;
/// The longest frame taken or sent.
pub const MAX_FRAME: usize = 16384;

/// What is read from a stream at once, and what may be left of a frame: at first, and where much comes.
const AT_FIRST: usize = 4 * 1024;
const LARGEST: usize = 256 * 1024 + MAX_FRAME + FRAME_HEADER;

/// A length that no frame has: the next one cannot be found any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impossible(pub usize);

/// The bytes of a stream that were read and not given out as packets yet.
///
/// A turn: read into `room`, say how much by `took`, ask `cut` until there is none, use the packets, then `rest`.
#[derive(Debug)]
pub struct Stream {
    bytes: Vec<u8>,
    filled: usize,
    at: usize, // up to here it was given out
}

impl Default for Stream {
    fn default() -> Self {
        Self { bytes: vec![0; AT_FIRST], filled: 0, at: 0 }
    }
}

impl Stream {
    /// Where to read to; never empty after `rest`.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// So many bytes were read.
    pub fn took(&mut self, count: usize) {
        self.filled = self.bytes.len().min(self.filled + count);
    }

    /// Where in `packets` the next whole packet lies; None: it is not there yet.
    ///
    /// # Errors
    /// [`Impossible`], again and again.
    pub fn cut(&mut self) -> Result<Option<Range<usize>>, Impossible> {
        let rest = &self.bytes[self.at..self.filled];
        let Some((&[high, low], rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let size = usize::from(u16::from_be_bytes([high, low]));
        if size == 0 || size > MAX_FRAME {
            return Err(Impossible(size));
        }
        if rest.len() < size {
            return Ok(None);
        }
        let begin = self.at + FRAME_HEADER;
        self.at = begin + size;
        Ok(Some(begin..self.at))
    }

    /// What `cut` speaks of; whoever opens packets does so in place.
    pub fn packets(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Forgets what was given out; makes more room where all of it was needed.
    pub fn rest(&mut self) {
        let full = self.filled == self.bytes.len();
        self.bytes.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        if full {
            self.bytes.resize(LARGEST.min(4 * self.bytes.len()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_to_its_bound_and_always_has_room() {
        let mut stream = Stream::default();
        for _ in 0..20 {
            let size = stream.room().len();
            assert!(size > 0);
            stream.room().fill(0x3F); // one frame of 0x3F3F bytes after the other
            stream.took(size);
            while let Ok(Some(at)) = stream.cut() {
                assert_eq!(at.len(), 0x3F3F);
            }
            stream.rest();
        }
        assert_eq!(stream.bytes.len(), LARGEST);
    }
}

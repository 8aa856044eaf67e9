// SPDX-License-Identifier: BSD-2-Clause
//! What a key has done, seen by both of its directions and by whoever asks; and the limits at which it should be
//! replaced (reported once) or is not used again (spent). The numbers are those of the reference's `keys.py`.
//!
//! The two directions may live on two threads: each writes counts of its own, on a cache line of its own. The limits
//! are looked at when a count reaches its checkpoint, and every look sets both checkpoints so near that not even the
//! largest packets could pass a limit unseen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::keys::Limits;
use crate::suites::UNLIMITED;

/// Packet ids never wrap, for a nonce must not come twice.
pub const LAST_PACKET_ID: u64 = 0xFFFF_FFFF;
/// From here on the key should be replaced.
pub const RENEW_PACKET_ID: u64 = 0xFF00_0000;
/// So many failed tags ask for another key, ...
pub const RENEW_FAILED_TAGS: u64 = 1 << 35;
/// ... and so many end this one.
pub const MAX_FAILED_TAGS: u64 = 1 << 36;
pub(crate) const BLOCK: u64 = 16;
const LARGEST_PACKET: u64 = 65536;

#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Direction {
    pub(crate) packets: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) check_at: AtomicU64,
}

/// Counts, limits and state of one key.
pub struct KeyUsage {
    pub(crate) sent: Direction,
    pub(crate) received: Direction,
    pub(crate) failed_tags: AtomicU64,
    usage_limit: u64,
    renew_bytes: u64,
    reneg_bytes: AtomicU64,
    reneg_packets: AtomicU64,
    spent: AtomicBool,
    exhausted: AtomicBool,
    exhausted_told: AtomicBool,
    in_use_told: AtomicBool,
}

impl KeyUsage {
    pub(crate) fn new(usage_limit: u64, renew_bytes: u64, limits: &Limits) -> Self {
        let usage = Self {
            sent: Direction::default(),
            received: Direction::default(),
            failed_tags: AtomicU64::new(0),
            usage_limit,
            renew_bytes,
            reneg_bytes: AtomicU64::new(UNLIMITED),
            reneg_packets: AtomicU64::new(UNLIMITED),
            spent: AtomicBool::new(false),
            exhausted: AtomicBool::new(false),
            exhausted_told: AtomicBool::new(false),
            in_use_told: AtomicBool::new(false),
        };
        usage.limit(limits);
        usage
    }

    /// Take over the volume limits of `limits`.
    pub fn limit(&self, limits: &Limits) {
        let or_none = |limit: u64| if limit == 0 { UNLIMITED } else { limit };
        self.reneg_bytes.store(or_none(limits.reneg_bytes).min(or_none(self.renew_bytes)), Relaxed);
        self.reneg_packets.store(or_none(limits.reneg_packets), Relaxed);
        self.check_soon();
    }

    /// Packets and bytes of payload that were sealed.
    pub fn sent(&self) -> (u64, u64) {
        (self.sent.packets.load(Relaxed), self.sent.bytes.load(Relaxed))
    }

    /// Packets and bytes of payload that were opened.
    pub fn received(&self) -> (u64, u64) {
        (self.received.packets.load(Relaxed), self.received.bytes.load(Relaxed))
    }

    /// Whether a hard limit is reached: nothing is sealed or opened any more.
    #[inline]
    pub fn spent(&self) -> bool {
        self.spent.load(Relaxed)
    }

    /// True once: the key should be replaced.
    pub fn take_exhausted(&self) -> bool {
        self.exhausted.load(Relaxed) && !self.exhausted_told.swap(true, Relaxed)
    }

    /// True once: the first packet was authenticated, the peer has this key and uses it.
    pub fn take_in_use(&self) -> bool {
        self.received.packets.load(Relaxed) > 0
            && !self.in_use_told.load(Relaxed)
            && !self.in_use_told.swap(true, Relaxed)
    }

    /// Let the next packet of either direction look at the limits.
    pub(crate) fn check_soon(&self) {
        self.sent.check_at.store(0, Relaxed);
        self.received.check_at.store(0, Relaxed);
    }

    /// Compare the counts with the limits.
    ///
    /// Blocks are not counted one by one: a packet of n bytes has at most n/16 + 1, so that
    /// bytes/16 + 2 * packets is never less than blocks + packets.
    pub(crate) fn look(&self) {
        let (packets_sent, bytes_sent) = self.sent();
        let (packets_received, bytes_received) = self.received();
        let failed_tags = self.failed_tags.load(Relaxed);
        let usage = (bytes_sent / BLOCK + 2 * packets_sent).max(bytes_received / BLOCK + 2 * packets_received);
        let spent = packets_sent >= LAST_PACKET_ID || usage >= self.usage_limit || failed_tags > MAX_FAILED_TAGS;
        let usage_left = (self.usage_limit - self.usage_limit.div_ceil(8)).saturating_sub(usage); // 7/8 of the limit
        let (bytes_left, packets_left) = self.volume_left();
        let id_left = RENEW_PACKET_ID.saturating_sub(packets_sent);
        let least =
            packets_left.min(id_left).min(bytes_left / LARGEST_PACKET).min(usage_left / (LARGEST_PACKET / BLOCK + 2));
        self.checkpoints(least);
        let renew = bytes_left == 0 || usage_left == 0 || packets_left == 0 || id_left == 0;
        self.found(spent, renew || failed_tags > RENEW_FAILED_TAGS);
    }

    /// Bytes and packets that ``reneg-bytes`` and ``reneg-pkts`` leave, both directions added up.
    pub(crate) fn volume_left(&self) -> (u64, u64) {
        let (packets_sent, bytes_sent) = self.sent();
        let (packets_received, bytes_received) = self.received();
        (
            self.reneg_bytes.load(Relaxed).saturating_sub(bytes_sent).saturating_sub(bytes_received),
            self.reneg_packets.load(Relaxed).saturating_sub(packets_sent).saturating_sub(packets_received),
        )
    }

    /// Half of what is left for each direction: together they reach the limit at the earliest at the next look.
    pub(crate) fn checkpoints(&self, packets_left: u64) {
        let step = (packets_left / 2).max(1);
        self.sent.check_at.store(self.sent.packets.load(Relaxed) + step, Relaxed);
        self.received.check_at.store(self.received.packets.load(Relaxed) + step, Relaxed);
    }

    /// Remember what a look found.
    pub(crate) fn found(&self, spent: bool, exhausted: bool) {
        if spent {
            self.spent.store(true, Relaxed);
        }
        if spent || exhausted {
            self.exhausted.store(true, Relaxed);
        }
    }
}

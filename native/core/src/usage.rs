// SPDX-License-Identifier: BSD-2-Clause
//! What a key has done, seen by both of its directions and by whoever asks; and the limits at which it should be
//! replaced (reported once) or is not used again (spent). The numbers are those of the reference's `keys.py`.
//!
//! The two directions may live on two threads: each writes counts of its own, on a cache line of its own. The limits
//! are looked at when a count reaches its checkpoint, and every look sets both checkpoints so near that not even the
//! largest packets could pass a limit unseen.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::crypto::suites::UNLIMITED;
use crate::keys::Limits;

/// Packet ids never wrap, for a nonce must not come twice.
pub const LAST_PACKET_ID: u64 = 0xFFFF_FFFF;
/// From here on the key should be replaced.
pub const RENEW_PACKET_ID: u64 = 0xFF00_0000;
/// So many failed tags ask for another key, ...
pub const RENEW_FAILED_TAGS: u64 = 1 << 35;
/// ... and so many end this one.
pub const MAX_FAILED_TAGS: u64 = 1 << 36;
/// Epochs have 16 bits, ...
pub const LAST_EPOCH: u32 = 0xFFFF;
/// ... and from this one on the key should be replaced.
pub const RENEW_EPOCH: u32 = 0xF000;
pub(crate) const BLOCK: u64 = 16;
const LARGEST_PACKET: u64 = 65536;
const LONGEST_STEP: u64 = 1 << 24;

/// One direction's counts, each written by one thread.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct Direction {
    packets: AtomicU64,
    bytes: AtomicU64,
    check_at: AtomicU64,
}

impl Direction {
    /// Set the counts to what its only writer made them; true if it is time to look at the limits.
    #[inline]
    pub(crate) fn count(&self, packets: u64, bytes: u64) -> bool {
        self.packets.store(packets, Relaxed);
        self.bytes.store(bytes, Relaxed);
        packets >= self.check_at.load(Relaxed)
    }

    fn counts(&self) -> (u64, u64) {
        (self.packets.load(Relaxed), self.bytes.load(Relaxed))
    }
}

/// Which epochs a key's directions are in: the sender is told by this where to go, and goes with its next packet.
pub(crate) struct EpochUsage {
    used: bool,
    sending: AtomicU32,
    receiving: AtomicU32,
    used_up: AtomicBool,
}

impl EpochUsage {
    /// The epoch that the next packet is sent in.
    #[inline]
    pub(crate) fn sending(&self) -> u32 {
        self.sending.load(Relaxed)
    }

    /// The last epoch has done its work.
    pub(crate) fn use_up(&self) {
        self.used_up.store(true, Relaxed);
    }
}

/// Where the life of a key begins: at nothing, but for tests of its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Packets that were sent.
    pub packets_sent: u64,
    /// Packets that failed authentication.
    pub failed_tags: u64,
    /// Blocks plus packets, instead of the suite's limit.
    pub usage_limit: Option<u64>,
    /// The epoch (epoch format).
    pub epoch: u32,
}

/// Counts, limits and state of one key.
pub struct KeyUsage {
    pub(crate) sent: Direction,
    pub(crate) received: Direction,
    failed_tags: AtomicU64,
    pub(crate) usage_limit: u64,
    reneg_bytes: AtomicU64,
    reneg_packets: AtomicU64,
    pub(crate) epoch: EpochUsage,
    spent: AtomicBool,
    exhausted: AtomicBool,
    exhausted_told: AtomicBool,
    in_use_told: AtomicBool,
}

impl KeyUsage {
    pub(crate) fn new(usage_limit: u64, epochs: bool, limits: &Limits, start: &Start) -> Self {
        let usage = Self {
            sent: Direction { packets: AtomicU64::new(start.packets_sent), ..Direction::default() },
            received: Direction::default(),
            failed_tags: AtomicU64::new(start.failed_tags),
            usage_limit: start.usage_limit.unwrap_or(usage_limit),
            reneg_bytes: AtomicU64::new(UNLIMITED),
            reneg_packets: AtomicU64::new(UNLIMITED),
            epoch: EpochUsage {
                used: epochs,
                sending: AtomicU32::new(start.epoch.max(1)),
                receiving: AtomicU32::new(start.epoch.max(1)),
                used_up: AtomicBool::new(false),
            },
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
        self.reneg_bytes.store(or_none(limits.reneg_bytes), Relaxed);
        self.reneg_packets.store(or_none(limits.reneg_packets), Relaxed);
        self.sent.check_at.store(0, Relaxed);
        self.received.check_at.store(0, Relaxed);
    }

    /// Packets and bytes of payload that were sealed.
    pub fn sent(&self) -> (u64, u64) {
        self.sent.counts()
    }

    /// Packets and bytes of payload that were opened.
    pub fn received(&self) -> (u64, u64) {
        self.received.counts()
    }

    /// The epoch that the next packet is sent in (epoch format).
    pub fn send_epoch(&self) -> u32 {
        self.epoch.sending()
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
    #[inline]
    pub fn take_in_use(&self) -> bool {
        !self.in_use_told.load(Relaxed)
            && self.received.packets.load(Relaxed) > 0
            && !self.in_use_told.swap(true, Relaxed)
    }

    /// Count a packet that is not authentic; too many of them wear the key out.
    #[cold]
    pub(crate) fn forged(&self) {
        if self.failed_tags.fetch_add(1, Relaxed) >= RENEW_FAILED_TAGS {
            self.look();
        }
    }

    /// Send in the next epoch from now on; after the last one a look finds the key spent.
    pub(crate) fn next_epoch(&self) {
        self.sent.check_at.store(0, Relaxed);
        let sending = self.epoch.sending();
        if sending < LAST_EPOCH {
            self.epoch.sending.fetch_max(sending + 1, Relaxed);
        }
    }

    /// Go on to the next epoch, unless the sender is ahead of the peer already.
    pub(crate) fn next_epoch_with_peer(&self) {
        if self.epoch.sending() == self.epoch.receiving.load(Relaxed) {
            self.next_epoch();
        }
    }

    /// The peer went on to `epoch`; the sender follows.
    pub(crate) fn received_epoch(&self, epoch: u32) {
        self.epoch.receiving.store(epoch, Relaxed);
        self.epoch.sending.fetch_max(epoch, Relaxed);
        self.failed_tags.store(0, Relaxed);
        self.received.check_at.store(0, Relaxed);
    }

    /// Compare the counts with the limits.
    #[cold]
    pub(crate) fn look(&self) {
        if self.epoch.used { self.look_epochs() } else { self.look_ids() }
    }

    /// Blocks are not counted one by one: a packet of n bytes has at most n/16 + 1, so that
    /// bytes/16 + 2 * packets is never less than blocks + packets.
    fn look_ids(&self) {
        let ((packets_sent, bytes_sent), (packets_received, bytes_received)) = (self.sent(), self.received());
        let failed_tags = self.failed_tags.load(Relaxed);
        let usage = (bytes_sent / BLOCK + 2 * packets_sent).max(bytes_received / BLOCK + 2 * packets_received);
        let spent = packets_sent >= LAST_PACKET_ID || usage >= self.usage_limit || failed_tags > MAX_FAILED_TAGS;
        let usage_left = (self.usage_limit - self.usage_limit.div_ceil(8)).saturating_sub(usage); // 7/8 of the limit
        let (bytes_left, packets_left) = self.volume_left();
        let ids_left = RENEW_PACKET_ID.saturating_sub(packets_sent);
        let usual = usage_left / (LARGEST_PACKET / BLOCK + 2);
        self.checkpoints(packets_left.min(ids_left).min(bytes_left / LARGEST_PACKET).min(usual));
        let renew = bytes_left == 0 || usage_left == 0 || packets_left == 0 || ids_left == 0;
        self.found(spent, renew || failed_tags > RENEW_FAILED_TAGS);
    }

    /// Epochs take the place of packet ids.
    fn look_epochs(&self) {
        let failed_tags = self.failed_tags.load(Relaxed);
        if failed_tags > RENEW_FAILED_TAGS {
            self.next_epoch_with_peer();
        }
        let spent = self.epoch.used_up.load(Relaxed) || failed_tags > MAX_FAILED_TAGS;
        let (bytes_left, packets_left) = self.volume_left();
        self.checkpoints(packets_left.min(bytes_left / LARGEST_PACKET).min(LONGEST_STEP));
        self.found(spent, bytes_left == 0 || packets_left == 0 || self.epoch.sending() >= RENEW_EPOCH);
    }

    /// Bytes and packets that ``reneg-bytes`` and ``reneg-pkts`` leave, both directions added up.
    fn volume_left(&self) -> (u64, u64) {
        let ((packets_sent, bytes_sent), (packets_received, bytes_received)) = (self.sent(), self.received());
        (
            self.reneg_bytes.load(Relaxed).saturating_sub(bytes_sent).saturating_sub(bytes_received),
            self.reneg_packets.load(Relaxed).saturating_sub(packets_sent).saturating_sub(packets_received),
        )
    }

    /// Half of what is left for each direction: together they reach the limit at the earliest at the next look.
    fn checkpoints(&self, packets_left: u64) {
        let step = (packets_left / 2).max(1);
        for direction in [&self.sent, &self.received] {
            direction.check_at.store(direction.packets.load(Relaxed) + step, Relaxed);
        }
    }

    fn found(&self, spent: bool, exhausted: bool) {
        if spent {
            self.spent.store(true, Relaxed);
        }
        if spent || exhausted {
            self.exhausted.store(true, Relaxed);
        }
    }
}

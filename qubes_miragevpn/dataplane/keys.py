# SPDX-License-Identifier: BSD-2-Clause
"""One key slot of a peer, whatever its format: packet ids, replay window, and what may be done with one key.

How a packet looks is the business of the subclasses in `formats`, one for each format; a slot is made as one of them,
so that no packet ever asks which.

The limits, and what happens at them (soft: `KeySlot.look` says that the key should be replaced; hard: `KeySlot.spent`,
it is not used again):

- Packet id, 32 bits: soft at 0xFF000000, hard at 2^32 - 1. Ids never wrap, for a nonce must not come twice. The
  16,777,216 ids in between last for minutes even at 100,000 packets a second.
- AES-GCM blocks + packets in either direction: hard at 2^36 - 1 (`crypto.suites`), soft at 7/8 of that.
- Failed tags: soft at 2^35, hard at 2^36. ChaCha20-Poly1305 has the tighter bound: v tries against packets of up to l
  blocks succeed with p <= v * (l + 1) / 2^103 (draft-irtf-cfrg-aead-limits, section 5.2.2); with p = 2^-57 and packets
  of 16 KiB, l = 2^10, that is v <= 2^36.
- 64-bit blocks: soft after 64 MB (`crypto.suites`).
- ``reneg-bytes``, ``reneg-pkts``: soft as configured, both directions added up, as OpenVPN does.

The packet path only counts packets and bytes. The sum is looked at when a count reaches `check_sent_at` or
`check_received_at`, and every look sets these so near that not even the largest packets could pass a limit unseen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.crypto.replay import AGES, ControlReplay, ReplayWindow
from qubes_miragevpn.crypto.suites import Suite
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, DataKeys, PeerLimits

DATA_V1 = 6
DATA_V2 = 9
V1_HEADER = 1  # bytes: opcode and key id
V2_HEADER = 4  # the same, and the peer id
LAST_PACKET_ID = 0xFFFFFFFF
RENEW_PACKET_ID = 0xFF000000
RENEW_FAILED_TAGS = 1 << 35
MAX_FAILED_TAGS = 1 << 36
_BLOCK = 16
_LARGEST_PACKET = 65536
_UNLIMITED = 1 << 64


class Unreadable(PeerError):
    """A packet that says nothing of an attempt to forge: it is not looked at any further."""


class TooShort(Unreadable):
    """A packet that cannot hold what its format demands."""

    def __init__(self) -> None:
        super().__init__("packet is too short")


class KeySlot(ABC):
    """Keys, counts and limits of `key_id`; the fields of the packet path are plain attributes on purpose."""

    __slots__ = (
        "_age_every",
        "_suite",
        "age_at",
        "bytes_received",
        "bytes_sent",
        "check_received_at",
        "check_sent_at",
        "exhaustion_reported",
        "failed_tags",
        "header",
        "in_use",
        "key_id",
        "packets_received",
        "packets_sent",
        "reneg_bytes",
        "reneg_packets",
        "spent",
        "usage_limit",
        "window",
    )

    def __init__(
        self, key_id: int, suite: Suite, keys: DataKeys, peer_id: int, limits: PeerLimits,
        entropy: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        """The arguments are alike for all formats; `keys` and `entropy` are for those that need them."""
        self.key_id = key_id
        self._suite = suite
        self.usage_limit = suite.usage_limit or _UNLIMITED
        self.window = ReplayWindow(limits.replay_window)
        self.packets_sent = 0  # also the last packet id: ids start at 1
        self.bytes_sent = 0
        self.packets_received = 0
        self.bytes_received = 0
        self.failed_tags = 0
        self.in_use = False  # a packet under this key was authenticated
        self.spent = False  # a hard limit is reached
        self.exhaustion_reported = False
        self.header = b""
        self.address(peer_id)
        self.limit(limits)

    @abstractmethod
    def seal(self, plaintext: bytes) -> bytes:
        """Return `plaintext` as a packet for the wire, and count it."""

    @abstractmethod
    def open(self, packet: bytes, body_at: int) -> bytes:
        """Return the plaintext of `packet`, whose header ends at `body_at`; mark and count it.

        Raises `Unreadable`, `Replayed`, or another `PeerError` if it is not authentic; then nothing is remembered.
        """

    def address(self, peer_id: int) -> None:
        """Put `peer_id` into the header of what is sent: DATA_V2, or DATA_V1 for `NO_PEER_ID`."""
        if peer_id == NO_PEER_ID:
            self.header = bytes([DATA_V1 << 3 | self.key_id])
        else:
            self.header = (DATA_V2 << 27 | self.key_id << 24 | peer_id).to_bytes(4, "big")

    def limit(self, limits: PeerLimits) -> None:
        """Take over the volume limits of `limits`."""
        self.reneg_bytes = min(limits.reneg_bytes or _UNLIMITED, self._suite.renew_bytes or _UNLIMITED)
        self.reneg_packets = limits.reneg_pkts or _UNLIMITED
        self.check_sent_at = self.check_received_at = 0
        self._age_every = limits.replay_time / AGES
        self.age_at = 0.0 if limits.replay_time else float("inf")

    def age(self, now: float) -> None:
        """Make the packets too late that are, each time that `age_at` has come."""
        for _ in range(min(int((now - self.age_at) / self._age_every) + 1, AGES + 1)):
            for window in self._windows():
                window.age()
        self.age_at = now + self._age_every

    def _windows(self) -> Sequence[ReplayWindow | ControlReplay]:
        """What refuses replays here."""
        return (self.window,)

    def look(self) -> bool:
        """Compare the counts with the limits: sets `spent`, returns whether the key should be replaced.

        Blocks are not counted one by one: a packet of n bytes has at most n/16 + 1, so that
        bytes/16 + 2 * packets is never less than blocks + packets.
        """
        usage = max(
            self.bytes_sent // _BLOCK + 2 * self.packets_sent,
            self.bytes_received // _BLOCK + 2 * self.packets_received,
        )
        self.spent = (
            self.packets_sent >= LAST_PACKET_ID or usage >= self.usage_limit or self.failed_tags > MAX_FAILED_TAGS
        )
        usage_left = self.usage_limit * 7 // 8 - usage
        bytes_left = self.reneg_bytes - self.bytes_sent - self.bytes_received
        packets_left = min(
            self.reneg_packets - self.packets_sent - self.packets_received,
            RENEW_PACKET_ID - self.packets_sent,
            bytes_left // _LARGEST_PACKET if bytes_left > 0 else 0,
            usage_left // (_LARGEST_PACKET // _BLOCK + 2) if usage_left > 0 else 0,
        )
        # Half of what is left for each direction: together they reach the limit at the earliest at the next look.
        step = max(1, packets_left // 2)
        self.check_sent_at = self.packets_sent + step
        self.check_received_at = self.packets_received + step
        return (
            self.spent
            or min(bytes_left, usage_left, self.reneg_packets - self.packets_sent - self.packets_received) <= 0
            or self.packets_sent >= RENEW_PACKET_ID
            or self.failed_tags > RENEW_FAILED_TAGS
        )

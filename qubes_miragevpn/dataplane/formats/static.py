# SPDX-License-Identifier: BSD-2-Clause
"""The format of the static key mode: no header at all, and packet ids that go with a time.

Big endian (OpenVPN's crypto.c and packet_id.c, "long form")::

    HMAC | IV, one block | CBC(packet id 4 | time 4 | data, padded)        HMAC over IV and ciphertext

The key lives as long as its file, and ids begin anew with every start, so the sender's time of starting goes with
them: an older numbering than the newest seen is a replay. As in all of CBC, replay is looked for last.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.crypto.replay import ControlReplay
from qubes_miragevpn.crypto.suites import Suite
from qubes_miragevpn.dataplane.formats.cbc import PACKET_ID_SIZE, CbcKey
from qubes_miragevpn.dataplane.interface import DataKeys, PeerLimits
from qubes_miragevpn.dataplane.keys import TooShort

NUMBER_SIZE = PACKET_ID_SIZE + 4  # packet id, time


class StaticKey(CbcKey):
    """The keys of a static key file for one CBC suite."""

    __slots__ = ("_replay", "_since")

    def __init__(
        self, key_id: int, suite: Suite, keys: DataKeys, peer_id: int, limits: PeerLimits,
        entropy: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        super().__init__(key_id, suite, keys, peer_id, limits, entropy)
        self._since = keys.since.to_bytes(4, "big")
        self._replay = ControlReplay(limits.replay_window, keys.seen)

    def _windows(self) -> tuple[ControlReplay]:
        return (self._replay,)

    def address(self, peer_id: int) -> None:
        """There is no header to put a number into."""
        self.header = b""

    def open(self, packet: bytes, body_at: int) -> bytes:
        """Return the plaintext of `packet`."""
        covered_at = body_at + self._tag_size
        body = packet[covered_at:]
        if not body:
            raise TooShort
        self._verify(packet[body_at:covered_at], body)
        numbered = self._uncovered(body)
        if len(numbered) <= NUMBER_SIZE:
            raise TooShort
        number, time = int.from_bytes(numbered[:4], "big"), int.from_bytes(numbered[4:NUMBER_SIZE], "big")
        self._replay.check(time, number)
        self._replay.mark(time, number)
        self.packets_received += 1
        self.bytes_received += len(numbered) - NUMBER_SIZE
        return numbered[NUMBER_SIZE:]

    def _numbered(self, plaintext: bytes) -> bytes:
        self.packets_sent += 1
        self.bytes_sent += len(plaintext)
        return self.packets_sent.to_bytes(PACKET_ID_SIZE, "big") + self._since + plaintext

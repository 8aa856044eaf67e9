# SPDX-License-Identifier: BSD-2-Clause
"""Replay protection: sliding windows over packet ids.

Two kinds, as in OpenVPN (packet_id.c): the data channel numbers packets with 32 bits per key, tls-auth and tls-crypt
number control packets with (time, id) for as long as the static key lives.

Both are used in two steps, because an id counts only once its packet is authentic: `check` before the packet is
decrypted (so that a replay costs no cryptography), `mark` after its tag was verified. Somebody who cannot
authenticate a packet therefore cannot move a window.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import MisuseError, PeerError

MAX_WINDOW = 65536  # the largest ``replay-window`` that OpenVPN takes; 8 KiB of bitmap
AGES = 4  # calls of `ReplayWindow.age` until an id that was not exceeded meanwhile is too old
CONTROL_WINDOW = 64  # control packets in flight are at most 12; the rest is room for retransmissions out of order


class Replayed(PeerError):
    """A packet id that was seen before, or that is too old to tell."""


class ReplayWindow:
    """The last `size` ids below and including the highest one seen; 0 is never a valid id.

    `_seen` is a bitmap: bit n is set when id `_highest` - n was marked. Time comes in by `age` alone: who
    calls that four times as often as packets may be late has ids refused that are older.
    """

    __slots__ = ("_floor", "_highest", "_marks", "_mask", "_seen", "_size")

    def __init__(self, size: int, floor: int = 0) -> None:
        """Ids up to `floor` are refused."""
        if not 1 <= size <= MAX_WINDOW:
            raise MisuseError(f"a replay window holds 1 to {MAX_WINDOW} ids, not {size}")
        self._size = size
        self._mask = (1 << size) - 1
        self._highest = floor
        self._seen = 0
        self._floor = floor  # ids up to this one are too late
        self._marks = (floor,) * AGES  # the highest id at each of the last calls of `age`

    def age(self) -> None:
        """A quarter of the time for late packets passed: what was the highest id four calls ago is too old."""
        self._floor, self._marks = self._marks[0], (*self._marks[1:], self._highest)

    def check(self, packet_id: int) -> None:
        """Raise `Replayed` if `packet_id` is 0, was marked before, or is too old to tell."""
        behind = self._highest - packet_id
        if behind < 0:
            return
        if packet_id == 0:
            raise Replayed("packet id 0 is invalid")
        if packet_id <= self._floor:
            raise Replayed("packet is too late (replay-window)")
        if behind >= self._size:
            raise Replayed("packet id is older than the replay window")
        if self._seen >> behind & 1:
            raise Replayed("packet is a replay")

    def mark(self, packet_id: int) -> None:
        """Remember `packet_id`, which passed `check` and whose packet is authentic."""
        ahead = packet_id - self._highest
        if ahead <= 0:
            self._seen |= 1 << -ahead & self._mask
            return
        # A leap beyond the window forgets all of it; the test also keeps the shift small.
        self._seen = (self._seen << ahead | 1) & self._mask if ahead < self._size else 1
        self._highest = packet_id


class Numbering:
    """The newest time of a peer's numberings and the highest id under it, for longer than a window lives."""

    __slots__ = ("number", "time")

    def __init__(self, time: int = 0, number: int = 0) -> None:
        self.time = time
        self.number = number


class ControlReplay:
    """Replay window over (time, id) of one direction of a control channel, or of packets under a static key.

    `time` is the sender's clock (u32, seconds) when its numbering began. A packet of an older numbering than the
    newest seen is refused, one of a newer numbering begins a fresh window.
    """

    __slots__ = ("_seen", "_size", "_time", "_window")

    def __init__(self, size: int = CONTROL_WINDOW, seen: Numbering | None = None) -> None:
        """Ids that are not newer than what `seen` says are refused from the start; it is kept up to date."""
        self._size = size
        self._seen = Numbering() if seen is None else seen
        self._time = self._seen.time
        self._window = ReplayWindow(size, self._seen.number)

    def age(self) -> None:
        """As `ReplayWindow.age`, for the numbering that counts."""
        self._window.age()

    def check(self, time: int, packet_id: int) -> None:
        """Raise `Replayed` if (`time`, `packet_id`) goes back in time, is a replay, or is too old to tell."""
        if packet_id == 0:
            raise Replayed("packet id 0 is invalid")
        if time < self._time:
            raise Replayed("control packet's time goes backwards")
        if time == self._time:
            self._window.check(packet_id)

    def mark(self, time: int, packet_id: int) -> None:
        """Remember (`time`, `packet_id`), which passed `check` and whose packet is authentic."""
        if time > self._time:
            self._time = time
            self._window = ReplayWindow(self._size)
            self._seen.time, self._seen.number = time, 0
        self._window.mark(packet_id)
        if packet_id > self._seen.number:
            self._seen.number = packet_id

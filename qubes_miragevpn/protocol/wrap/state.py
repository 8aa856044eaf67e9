# SPDX-License-Identifier: BSD-2-Clause
"""The moving part of control-channel protection: our packet counter and the peer's replay window.

A session has one of these; its keys come from `protocol.wrap.keys`, and from `protocol.wrap.dynamic` for
renegotiations where both sides agreed on that. Every transmission, a retransmission too, is sealed anew under a fresh
packet id. The window counts within the time that the sender states (the moment its counter began): a later time starts
a new window, an earlier one is refused.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.replay import ControlReplay, Numbering
from qubes_miragevpn.protocol.wire.packet import Head, read_head
from qubes_miragevpn.protocol.wrap.dynamic import dynamic_keys
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp, WrapKeys

_LAST_ID = 0xFFFFFFFF


class _Line:
    """One protection with its counter and its window."""

    def __init__(self, keys: WrapKeys, time: int, first_id: int, seen: Numbering | None = None) -> None:
        self.keys = keys
        self.time = time
        self._next_id = first_id
        self._replay = ControlReplay(seen=seen)

    def seal(self, head: Head, body: bytes) -> bytes:
        if self._next_id > _LAST_ID:
            raise PeerError("control packet ids are used up", Consequence.END_SESSION)
        stamp = Stamp(self._next_id, self.time)
        self._next_id += 1
        return self.keys.seal(head, stamp, body)

    def admit(self, stamp: Stamp) -> None:
        self._replay.check(stamp.time, stamp.packet_id)
        self._replay.mark(stamp.time, stamp.packet_id)


class WrapState:
    """Seals and opens the control packets of one session."""

    def __init__(
        self, keys: WrapKeys, *, started: int, first_id: int | None = None, seen: Numbering | None = None
    ) -> None:
        """`started` is the Unix time at which the counter begins, `first_id` the first packet id (None: as usual).

        What `seen` holds of earlier sessions is refused; None: this session knows of no other.
        """
        self._first = _Line(keys, started & 0xFFFFFFFF, keys.first_id if first_id is None else first_id, seen)
        self._later = self._first  # of key ids other than 0
        self.reset = keys.reset
        self.wrapped_size = keys.wrapped_size

    def protect_renegotiations(self, exported: Secret, *, server: bool) -> None:
        """Use dynamic tls-crypt for key ids other than 0 from now on; `exported` under `dynamic.LABEL`."""
        if self._later is self._first:
            keys = dynamic_keys(exported, self._first.keys.base, server=server)
            self._later = _Line(keys, self._first.time, 1)

    def overhead(self, key_id: int) -> int:
        """Bytes that are added to head and body."""
        return self._line(key_id).keys.overhead

    def seal(self, head: Head, body: bytes) -> bytes:
        """Return the packet for the wire; raises `PeerError` (end of session) when the counter is used up."""
        return self._line(head.key_id).seal(head, body)

    def open(self, packet: bytes) -> Opened:
        """Verify `packet` and take it apart; raises `PeerError`. Whether it is a replay is asked by `admit`."""
        return self._line(read_head(packet).key_id).keys.open(packet)

    def admit(self, opened: Opened) -> None:
        """Judge a verified packet of this session for replay and remember it; raises `PeerError`.

        The key is shared by all sessions: a packet of another one, replayed here, must not reach this point, or
        it would move the window beyond the packets of ours.
        """
        if opened.stamp is not None:
            self._line(opened.head.key_id).admit(opened.stamp)

    def _line(self, key_id: int) -> _Line:
        return self._later if key_id else self._first

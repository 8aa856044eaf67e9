# SPDX-License-Identifier: BSD-2-Clause
"""The moving part of control-channel protection: our packet counter and the peer's replay window.

A session has one of these; its keys come from `protocol.wrap.keys`. Every transmission, a retransmission too, is
sealed anew under a fresh packet id. The window counts within the time that the sender states (the moment its
counter began): a later time starts a new window, an earlier one is refused.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.crypto.replay import ControlReplay
from qubes_miragevpn.protocol.wire.packet import Head
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp, WrapKeys

_LAST_ID = 0xFFFFFFFF


class WrapState:
    """Seals and opens the control packets of one session."""

    def __init__(self, keys: WrapKeys, *, started: int, first_id: int | None = None) -> None:
        """`started` is the Unix time at which the counter begins, `first_id` the first packet id (None: as usual)."""
        self._keys = keys
        self._time = started & 0xFFFFFFFF
        self._next_id = keys.first_id if first_id is None else first_id
        self._replay = ControlReplay()
        self.overhead = keys.overhead
        self.reset = keys.reset
        self.wrapped_size = keys.wrapped_size

    def seal(self, head: Head, body: bytes) -> bytes:
        """Return the packet for the wire; raises `PeerError` (end of session) when the counter is used up."""
        if self._next_id > _LAST_ID:
            raise PeerError("control packet ids are used up", Consequence.END_SESSION)
        stamp = Stamp(self._next_id, self._time)
        self._next_id += 1
        return self._keys.seal(head, stamp, body)

    def open(self, packet: bytes) -> Opened:
        """Verify `packet` and take it apart; raises `PeerError`. Whether it is a replay is asked by `admit`."""
        return self._keys.open(packet)

    def admit(self, opened: Opened) -> None:
        """Judge a verified packet of this session for replay and remember it; raises `PeerError`.

        The key is shared by all sessions: a packet of another one, replayed here, must not reach this point, or
        it would move the window beyond the packets of ours.
        """
        if opened.stamp is not None:
            self._replay.check(opened.stamp.time, opened.stamp.packet_id)
            self._replay.mark(opened.stamp.time, opened.stamp.packet_id)

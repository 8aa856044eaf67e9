# SPDX-License-Identifier: BSD-2-Clause
"""What a session has to say, as packets: TLS bytes cut to size, acknowledgements with them or alone, sealed."""

from __future__ import annotations

from qubes_miragevpn.protocol.control.keyslot import KeySlot
from qubes_miragevpn.protocol.control.reliability import ACKS_ON_CONTROL
from qubes_miragevpn.protocol.wire.packet import HEAD_SIZE, MAX_ACKS, SID_SIZE, Body, Head, Opcode
from qubes_miragevpn.protocol.wrap.state import WrapState

_OUTER = {False: 40 + 8, True: 40 + 20 + 2}
"""IPv6 and UDP headers, or IPv6, TCP and length prefix: ``max-packet-size`` counts them in."""
_MIN_ROOM = 64
"""TLS bytes that a packet carries at the least, even if that makes it longer than ``max-packet-size``."""
_BODY_ROOM = 1 + 4 * ACKS_ON_CONTROL + SID_SIZE + 4  # acknowledgements, session id, message id


class Packing:
    """For the slots of one session."""

    def __init__(self, wrap: WrapState, own_sid: bytes, largest: int, *, stream: bool) -> None:
        """`largest` is ``max-packet-size``."""
        self.owes_key = False  # the server asked for our wrapped key once more
        self._wrap = wrap
        self._own_sid = own_sid
        self._largest = largest - _OUTER[stream]

    def queue(self, slot: KeySlot, output: bytes) -> None:
        """Have `output`, bytes of TLS, sent in packets of the slot."""
        if output and self.owes_key:
            self.owes_key = False
            room = max(self._room(slot) - self._wrap.wrapped_size, 0)
            slot.reliability.queue(Opcode.CONTROL_WKC, output[:room])
            output = output[room:]
        room = self._room(slot)
        for start in range(0, len(output), room):
            slot.reliability.queue(Opcode.CONTROL, output[start : start + room])

    def _room(self, slot: KeySlot) -> int:
        overhead = HEAD_SIZE + self._wrap.overhead(slot.key_id) + _BODY_ROOM
        return max(self._largest - overhead, _MIN_ROOM)

    def due(self, slot: KeySlot, peer_sid: bytes | None, now: float) -> list[bytes]:
        """What the slot wants on the wire: new packets, retransmissions, bare acknowledgements."""
        packets = []
        for outgoing in slot.reliability.due(now):
            acks = slot.reliability.take_acks(ACKS_ON_CONTROL) if peer_sid is not None else ()
            body = Body(acks, peer_sid if acks else None, outgoing.message_id, outgoing.payload)
            packets.append(self._sealed(slot, outgoing.opcode, body))
        while slot.reliability.must_ack and peer_sid is not None:
            acks = slot.reliability.take_acks(MAX_ACKS)
            packets.append(self._sealed(slot, Opcode.ACK, Body(acks, peer_sid, None)))
        return packets

    def _sealed(self, slot: KeySlot, opcode: Opcode, body: Body) -> bytes:
        return self._wrap.seal(Head(opcode, slot.key_id, self._own_sid), body.encode())

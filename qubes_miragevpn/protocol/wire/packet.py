# SPDX-License-Identifier: BSD-2-Clause
"""Control packets: opcode byte, session id, acknowledgements, message id, payload.

A packet is ``head | body`` before protection is put around it (`protocol.wrap`):

    head   opcode << 3 | key_id  (1) | sender's session id (8)
    body   n (1) | n * acknowledged message id (4) | receiver's session id (8, iff n > 0)
           | message id (4, absent in ACK_V1) | TLS bytes

Source: wire-protocol draft, "Packet types" and "Control channel packets"; limits from OpenVPN's reliable.h.
Opcodes 1 and 2 (key method 1) and all unknown ones are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.protocol.wire.reader import Reader


class Opcode(IntEnum):
    """The packet types that we speak."""

    SOFT_RESET = 3
    CONTROL = 4
    ACK = 5
    DATA_V1 = 6
    HARD_RESET_CLIENT = 7
    HARD_RESET_SERVER = 8
    DATA_V2 = 9
    HARD_RESET_CLIENT_V3 = 10  # tls-crypt-v2: with the wrapped client key at its end
    CONTROL_WKC = 11  # the same for the packet after it, when the server asked for that


CLIENT_RESETS = frozenset({Opcode.HARD_RESET_CLIENT, Opcode.HARD_RESET_CLIENT_V3})
RESETS = CLIENT_RESETS | {Opcode.SOFT_RESET, Opcode.HARD_RESET_SERVER}
CONTROL_OPCODES = RESETS | {Opcode.CONTROL, Opcode.CONTROL_WKC, Opcode.ACK}
WITH_WRAPPED_KEY = frozenset({Opcode.HARD_RESET_CLIENT_V3, Opcode.CONTROL_WKC})

SID_SIZE = 8
HEAD_SIZE = 1 + SID_SIZE
MAX_ACKS = 8
"""More acknowledgements in one packet are malformed (RELIABLE_ACK_SIZE)."""
MAX_CONTROL_PACKET = 2048
"""Nothing longer is looked at: the largest ``max-packet-size`` that OpenVPN can be set to."""


@dataclass(frozen=True)
class Head:
    """What stands in clear in front of every control packet."""

    opcode: Opcode
    key_id: int
    sid: bytes  # the sender's session id

    def encode(self) -> bytes:
        return bytes((self.opcode << 3 | self.key_id,)) + self.sid


@dataclass(frozen=True)
class Body:
    """What protection covers. `remote_sid` is there iff `acks` are; `message_id` is None in ACK_V1 only."""

    acks: tuple[int, ...]
    remote_sid: bytes | None
    message_id: int | None
    payload: bytes = b""

    def encode(self) -> bytes:
        parts = [bytes((len(self.acks),)), *(ack.to_bytes(4, "big") for ack in self.acks)]
        if self.remote_sid is not None:
            parts.append(self.remote_sid)
        if self.message_id is not None:
            parts.append(self.message_id.to_bytes(4, "big"))
        return b"".join((*parts, self.payload))


def read_head(packet: bytes) -> Head:
    """Read the first nine bytes; raises `PeerError` for anything that is not a control packet of ours."""
    if len(packet) > MAX_CONTROL_PACKET:
        raise PeerError(f"control packet of {len(packet)} bytes")
    reader = Reader(packet, "control packet")
    first = reader.u8()
    try:
        opcode = Opcode(first >> 3)
    except ValueError:
        raise PeerError(f"opcode {first >> 3} is not spoken here") from None
    if opcode not in CONTROL_OPCODES:
        raise PeerError(f"{opcode.name} is not a control packet")
    return Head(opcode, first & 7, reader.take(SID_SIZE))


def read_body(opcode: Opcode, body: bytes) -> Body:
    """Read what follows the head, after protection was checked and removed."""
    reader = Reader(body, opcode.name)
    count = reader.u8()
    if count > MAX_ACKS:
        raise PeerError(f"{opcode.name}: {count} acknowledgements")
    acks = tuple(reader.u32() for _ in range(count))
    remote_sid = reader.take(SID_SIZE) if count else None
    if opcode is Opcode.ACK:
        if not count:
            raise PeerError("ACK_V1 without acknowledgements")
        return Body(acks, remote_sid, None)
    message_id = reader.u32()
    return Body(acks, remote_sid, message_id, reader.rest())

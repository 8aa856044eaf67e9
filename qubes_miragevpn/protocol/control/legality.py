# SPDX-License-Identifier: BSD-2-Clause
"""Which control packet is legal when: a table. What is absent is rejected, and a test walks all of it.

The state is that of the key slot which the packet's key id names; `VACANT` means that no slot has that key id, and
only the key id of the next renegotiation may then begin one.
"""

from __future__ import annotations

from enum import Enum

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.protocol.wire.packet import CLIENT_RESETS, RESETS, Body, Head, Opcode


class Role(Enum):
    """Which side of the TLS session we are."""

    CLIENT = "client"
    SERVER = "server"


class Phase(Enum):
    """Where a key slot stands."""

    VACANT = "vacant"
    AWAIT_RESET = "await reset"  # our reset is out, the peer's is not in
    HANDSHAKING = "handshaking"  # TLS
    EXCHANGING = "exchanging"  # TLS is up, key method 2 under way
    ESTABLISHED = "established"  # both sides have the key material


_OPEN = (Phase.HANDSHAKING, Phase.EXCHANGING, Phase.ESTABLISHED)
_ANY = (Phase.AWAIT_RESET, *_OPEN)

LEGAL: frozenset[tuple[Role, Opcode, Phase]] = frozenset(
    # A repeated reset is legal in every later phase: it is acknowledged again and goes no further.
    [(Role.CLIENT, Opcode.HARD_RESET_SERVER, phase) for phase in _ANY]
    + [(Role.SERVER, opcode, phase) for opcode in CLIENT_RESETS for phase in _ANY]
    # A client that was asked for its wrapped key sends its first TLS bytes this way, and repeats them so.
    + [(Role.SERVER, Opcode.CONTROL_WKC, phase) for phase in _ANY]
    + [(role, Opcode.SOFT_RESET, phase) for role in Role for phase in (Phase.VACANT, *_ANY)]
    # TLS bytes may overtake the reset they follow: the reorder buffer holds them.
    + [(role, Opcode.CONTROL, phase) for role in Role for phase in _ANY]
    + [(role, Opcode.ACK, phase) for role in Role for phase in _ANY]
)


def require_legal(role: Role, opcode: Opcode, phase: Phase) -> None:
    """Raise `PeerError` (drop) unless `opcode` may arrive at `role` in `phase`."""
    if (role, opcode, phase) not in LEGAL:
        raise PeerError(f"{opcode.name} is not legal for a {role.value} whose key slot is {phase.value}")


def require_ours(head: Head, body: Body, *, own_sid: bytes, peer_sid: bytes | None) -> None:
    """Raise `PeerError` (drop) unless its ids fit its kind and this session (`peer_sid` None: it has none yet)."""
    if head.opcode in RESETS:
        if body.message_id != 0:
            raise PeerError(f"{head.opcode.name} with a message id other than 0")
        if (head.opcode is Opcode.SOFT_RESET) != (head.key_id != 0):
            raise PeerError(f"{head.opcode.name} with key id {head.key_id}")
    if head.opcode is Opcode.CONTROL_WKC and (head.key_id, body.message_id) != (0, 1):
        raise PeerError(f"CONTROL_WKC as message {body.message_id} under key id {head.key_id}")
    if peer_sid is None:
        if head.opcode not in RESETS or head.opcode is Opcode.SOFT_RESET:
            raise PeerError(f"{head.opcode.name} before the peer's hard reset")
    elif head.sid != peer_sid:
        raise PeerError("packet of another session")
    if body.remote_sid is not None and body.remote_sid != own_sid:
        raise PeerError("acknowledgement for another session")

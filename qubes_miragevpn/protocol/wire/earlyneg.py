# SPDX-License-Identifier: BSD-2-Clause
"""Early negotiation: what is agreed on in the first two packets of a tls-crypt-v2 session.

The client says that it takes part by the packet id of its first packet, whose highest byte ends in F; the server
answers in the payload of its reset, a row of ``type 2 | length 2 | value``. One type is known: 1, flags (2), of which
bit 0 asks the client to append its wrapped key to its next packet as well, so that the server need not keep
anything before it knows the client's address. Source: OpenVPN ssl_pkt.h; ssl.c parse_early_negotiation_tlvs. Unknown
types and flags are skipped, what is cut short is refused.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.protocol.wire.reader import Reader

FIRST_PACKET_ID = 0x0F000001
_MARK = 0x0F000000
_TYPE_FLAGS = 1
_FLAGS_SIZE = 2
_RESEND_WKC = 1


def announced(packet_id: int) -> bool:
    """Whether the packet id of a client's reset says that it takes part."""
    return packet_id & _MARK == _MARK


def ask_wrapped_key() -> bytes:
    """The payload of a server's reset that asks for the wrapped key once more."""
    return b"".join(value.to_bytes(2, "big") for value in (_TYPE_FLAGS, _FLAGS_SIZE, _RESEND_WKC))


def wrapped_key_wanted(payload: bytes) -> bool:
    """Read the payload of a server's reset: does it ask for the wrapped key? Raises `PeerError` (drop)."""
    reader = Reader(payload, "early negotiation")
    wanted = False
    while reader.left:
        kind, size = reader.u16(), reader.u16()
        value = reader.take(size)
        if kind != _TYPE_FLAGS:
            continue
        if size != _FLAGS_SIZE:
            raise PeerError(f"early negotiation: flags of {size} bytes")
        wanted = wanted or bool(int.from_bytes(value, "big") & _RESEND_WKC)
    return wanted

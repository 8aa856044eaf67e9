# SPDX-License-Identifier: BSD-2-Clause
"""What lies in a packet, natively and by the reference: compression framing, IP, keep-alives, farewells."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane import ip
from qubes_miragevpn.dataplane.inband import OCC_EXIT, OCC_MAGIC, PING
from qubes_miragevpn.dataplane.payload.compression import Compressed, Framing
from tests.unit.dataplane.native.twins import _native
from tests.unit.dataplane.packets import ip_packet

pytestmark = pytest.mark.needs_native

FRAMINGS = {
    Compression.LZO: "byte",
    Compression.STUB_LZO: "byte",
    Compression.STUB: "swapped",
    Compression.LZ4: "swapped",
    Compression.LZ4_V2: "v2",
    Compression.STUB_V2: "v2",
}


def by_reference(framing: Framing, framed: bytes) -> bytes | str:
    try:
        return framing.unwrap(framed)
    except Compressed:
        return "compressed"
    except PeerError:
        return "other"


def natively(kind: str, framed: bytes) -> bytes | str:
    try:
        return _native.unframe(kind, framed)
    except _native.Refused as refused:
        return str(refused.args[0])


@pytest.mark.parametrize("compression", FRAMINGS, ids=lambda each: each.name)
def test_framing(compression: Compression) -> None:
    framing, kind = Framing(compression, decompress=False), FRAMINGS[compression]
    chance = random.Random(kind)
    for size in (*range(1, 70), 1400, 1500):
        for first in (b"", b"\x50", b"\x45", b"\xfa"):
            inner = (first + chance.randbytes(size))[:size]
            framed = framing.wrap(inner)
            assert _native.frame(kind, inner) == framed
            assert natively(kind, framed) == inner
    marks = b"\xfa\xfb\x66\x69\x50\x00\x01\x02"
    for _ in range(600):
        framed = bytes(chance.choices(marks, k=2)) + chance.randbytes(chance.randrange(6))
        for cut in (framed, framed[:1], framed[:2], framed[:3]):
            assert natively(kind, cut) == by_reference(framing, cut), cut.hex()


def kind_of(payload: bytes) -> str | tuple[bytes, bytes]:
    try:
        return ip.addresses(payload)
    except PeerError:
        pass
    if payload == PING:
        return "ping"
    if not payload.startswith(OCC_MAGIC):
        return "unknown"
    return "exit" if payload.startswith(OCC_EXIT) else "occ"


def test_what_a_payload_is() -> None:
    chance = random.Random(1)
    good = [
        ip_packet("10.8.0.2", "198.51.100.7"),
        ip_packet("10.8.0.2", "198.51.100.7", b""),
        ip_packet("fd00::2", "2001:db8::1"),
        ip_packet("fd00::2", "2001:db8::1", b""),
        PING, OCC_MAGIC, OCC_EXIT, OCC_EXIT + b"more", OCC_MAGIC + b"\0",
    ]  # fmt: skip
    assert {str(type(_native.classify(each))) for each in good} == {"<class 'tuple'>", "<class 'str'>"}
    for _ in range(3000):
        payload = bytearray(chance.choice(good))
        match chance.randrange(4):
            case 0:
                payload[chance.randrange(min(len(payload), 8))] = chance.randrange(256)
            case 1:
                del payload[chance.randrange(len(payload)) :]
            case 2:
                payload += chance.randbytes(chance.randrange(3))
            case _:
                payload[0] = 0x40 + chance.randrange(48)
        assert _native.classify(bytes(payload)) == kind_of(bytes(payload)), payload.hex()

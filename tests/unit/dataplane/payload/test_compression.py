# SPDX-License-Identifier: BSD-2-Clause
"""Compression framing: bytes of each kind, what is let in, bombs, a library that is not there."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane.inband import PING
from qubes_miragevpn.dataplane.interface import CompressedDropped, KeyInUse, PayloadRules, PeerLimits
from qubes_miragevpn.dataplane.payload.compression import MAX_INNER, Compressed, Framing
from tests.unit.dataplane.packets import THERE, client, far_end, ip_packet, wire

KINDS = [kind for kind in Compression if kind is not Compression.NONE]
INNER = ip_packet("10.8.0.2", "198.51.100.7", b"some payload")
Compressor = Callable[[bytes], bytes]


def lz4(data: bytes) -> bytes:
    block = pytest.importorskip("lz4.block")
    made: bytes = block.compress(data, store_size=False)
    return made


def lzo(data: bytes) -> bytes:
    module = pytest.importorskip("lzo")
    made: bytes = module.compress(data, 1, False)
    return made


@pytest.mark.parametrize(
    ("kind", "framed"),
    [
        (Compression.STUB_LZO, b"\xfaabcd"), (Compression.LZO, b"\xfaabcd"), (Compression.STUB, b"\xfbbcda"),
        (Compression.LZ4, b"\xfbbcda"), (Compression.STUB_V2, b"abcd"), (Compression.LZ4_V2, b"abcd"),
    ],
)  # fmt: skip
def test_frames_as_openvpn_has_them(kind: Compression, framed: bytes) -> None:
    framing = Framing(kind, decompress=False)
    assert framing.wrap(b"abcd") == framed
    assert framing.unwrap(framed) == b"abcd"


@pytest.mark.parametrize("kind", [Compression.STUB_V2, Compression.LZ4_V2])
def test_second_version_escapes_its_own_mark(kind: Compression) -> None:
    framing = Framing(kind, decompress=False)
    assert framing.wrap(b"\x50abc") == b"\x50\x00\x50abc"
    assert framing.unwrap(b"\x50\x00\x50abc") == b"\x50abc"


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_of_anything(kind: Compression) -> None:
    framing, rng = Framing(kind, decompress=True), random.Random(3)
    for size in [*range(1, 40), 1500, 9000]:
        data = rng.randbytes(size)
        assert framing.unwrap(framing.wrap(data)) == data


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_frames(kind: Compression) -> None:
    """Every first byte, alone and with something behind: taken, or refused with the one error."""
    framing = Framing(kind, decompress=True)
    for first in range(256):
        for rest in (b"", b"x", b"xyz", bytes(40)):
            with contextlib.suppress(PeerError):
                framing.unwrap(bytes([first]) + rest)


COMPRESSED = {
    Compression.LZO: lambda data: b"\x66" + lzo(data),
    Compression.LZ4: lambda data: b"\x69" + lz4(data)[1:] + lz4(data)[:1],
    Compression.LZ4_V2: lambda data: b"\x50\x01" + lz4(data),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_decompression_where_it_is_allowed(kind: Compression) -> None:
    text = b"again and " * 100
    frame = COMPRESSED[kind](text)
    assert Framing(kind, decompress=True).unwrap(frame) == text
    with pytest.raises(Compressed, match="allow-compression"):
        Framing(kind, decompress=False).unwrap(frame)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_bombs_and_broken_data(kind: Compression) -> None:
    framing, rng = Framing(kind, decompress=True), random.Random(5)
    assert len(framing.unwrap(COMPRESSED[kind](bytes(MAX_INNER)))) == MAX_INNER
    for size in (MAX_INNER + 1, 10 * MAX_INNER, 1 << 24):
        with pytest.raises(PeerError):
            framing.unwrap(COMPRESSED[kind](bytes(size)))
    good = COMPRESSED[kind](rng.randbytes(50) * 9)
    for _ in range(2000):
        bent = bytearray(good)
        bent[rng.randrange(1, len(bent))] = rng.randrange(256)
        with contextlib.suppress(PeerError):
            assert len(framing.unwrap(bytes(bent[: rng.randrange(2, len(bent) + 1)]))) <= MAX_INNER


@pytest.mark.parametrize(("kind", "name"), [(Compression.LZO, "lzo"), (Compression.LZ4, "lz4")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, kind: Compression, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    mark = b"\x66" if kind is Compression.LZO else b"\x69"
    with pytest.raises(Compressed, match=f"python3-{name}"):
        Framing(kind, decompress=True).unwrap(mark + b"xyz")


@pytest.mark.parametrize("kind", [Compression.STUB, Compression.STUB_LZO, Compression.STUB_V2])
def test_stubs_take_nothing_compressed(kind: Compression) -> None:
    mark = {Compression.STUB: b"\x69", Compression.STUB_LZO: b"\x66", Compression.STUB_V2: b"\x50\x01"}[kind]
    with pytest.raises(Compressed):
        Framing(kind, decompress=True).unwrap(mark + b"xyz")


# --- in the data channel


def limits(kind: Compression, **more: Any) -> PeerLimits:
    return PeerLimits(payload=PayloadRules(kind, **more))


@pytest.mark.parametrize("kind", KINDS)
def test_packets_and_pings_go_through_the_channel(kind: Compression) -> None:
    here, there = client(limits=limits(kind)), far_end(limits=limits(kind))
    assert there.receive(1, THERE, wire(here, INNER), 100.0) == INNER
    here.send_inner(1, PING, 100.0)
    assert there.receive(1, THERE, here.outbox[0][2], 100.0) is None
    counters = there.counters(1)
    assert (counters.packets_in, counters.bytes_in, counters.dropped_other) == (1, len(INNER), 0)


def test_compressed_packets_are_dropped_counted_and_told_once() -> None:
    here, there = client(), far_end(limits=limits(Compression.LZO))
    for _ in range(5):
        here.send_inner(1, b"\x66whatever", 100.0)
        assert there.receive(1, THERE, here.outbox.pop()[2], 100.0) is None
    assert there.counters(1).dropped_compressed == 5
    assert there.events == [KeyInUse(1, 0), CompressedDropped(1, "'allow-compression' does not let it in")]


def test_ends_that_differ_do_not_let_rubbish_through() -> None:
    here, there = client(limits=limits(Compression.STUB)), far_end(limits=limits(Compression.LZO))
    assert there.receive(1, THERE, wire(here, INNER), 100.0) is None
    assert there.counters(1).dropped_other == 1


def test_decompressed_packets_are_looked_at_like_others() -> None:
    here, there = client(), far_end(limits=limits(Compression.LZ4_V2, decompress=True))
    for data, arrives in ((INNER, True), (bytes(100), False)):
        here.send_inner(1, b"\x50\x01" + lz4(data), 100.0)
        assert (there.receive(1, THERE, here.outbox.pop()[2], 100.0) == data) is arrives

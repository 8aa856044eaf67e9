# SPDX-License-Identifier: BSD-2-Clause
"""Compression framing (OpenVPN's compstub.c, lzo.c, comp-lz4.c): a byte that says whether a packet is compressed.

Nothing is ever compressed on the way out (VORACLE: the length of what is compressed tells its content). Framings::

    comp-lzo *, compress lzo      FA data                            66 LZO(data)
    compress [stub], lz4          FB data[1:] data[0]                69 LZ4[1:] LZ4[0]
    compress stub-v2, lz4-v2      data, or 50 00 data if data        50 01 LZ4(data)
                                  itself begins with 50

A compressed packet is refused with `Compressed`, unless the operator lets them in and the library is there; then it may
not grow beyond `MAX_INNER`. The framings named "stub" know no compressed packets.
"""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane.framing import MAX_FRAME

MAX_INNER = MAX_FRAME
"""Bytes that a compressed packet may grow to: nothing longer can have been sent."""

_PLAIN, _PLAIN_SWAPPED, _LZO, _LZ4_SWAPPED = b"\xfa", b"\xfb", b"\x66", b"\x69"
_V2, _V2_PLAIN, _V2_LZ4 = 0x50, 0, 1

Decompressor = Callable[[bytes], bytes]


class Compressed(PeerError):
    """A compressed packet that is not taken; the reason says why."""


def _refusal(reason: str) -> Decompressor:
    def refuse(_: bytes) -> bytes:
        raise Compressed(reason)

    return refuse


def _lzo() -> Decompressor:
    try:
        import lzo
    except ImportError:
        return _refusal("python3-lzo (python-lzo) is not installed")

    def decompress(data: bytes) -> bytes:
        try:
            plain: bytes = lzo.decompress(data, False, MAX_INNER)
        except lzo.error:
            raise PeerError("LZO data is broken, or too long") from None
        return plain

    return decompress


def _lz4() -> Decompressor:
    try:
        from lz4 import block
    except ImportError:
        return _refusal("python3-lz4 (lz4) is not installed")

    def decompress(data: bytes) -> bytes:
        try:
            plain: bytes = block.decompress(data, uncompressed_size=MAX_INNER)
        except (block.LZ4BlockError, ValueError):
            raise PeerError("LZ4 data is broken, or too long") from None
        return plain

    return decompress


_LIBRARIES: dict[Compression, Callable[[], Decompressor]] = {
    Compression.LZO: _lzo,
    Compression.LZ4: _lz4,
    Compression.LZ4_V2: _lz4,
}


class Framing:
    """The framing `kind`. `decompress`: compressed packets are taken, if it has them and the library is there."""

    __slots__ = ("_decompress", "unwrap", "wrap")

    def __init__(self, kind: Compression, *, decompress: bool) -> None:
        library = _LIBRARIES.get(kind, lambda: _refusal("the framing is a stub"))
        self._decompress = library() if decompress else _refusal("'allow-compression' does not let it in")
        self.wrap: Callable[[bytes], bytes]
        self.unwrap: Callable[[bytes], bytes]
        if kind in (Compression.LZO, Compression.STUB_LZO):
            self.wrap, self.unwrap = _wrap_byte, self._unwrap_byte
        elif kind in (Compression.STUB, Compression.LZ4):
            self.wrap, self.unwrap = _wrap_swapped, self._unwrap_swapped
        else:
            self.wrap, self.unwrap = _wrap_v2, self._unwrap_v2

    def _unwrap_byte(self, framed: bytes) -> bytes:
        mark = framed[:1]
        if mark == _PLAIN:
            return framed[1:]
        if mark == _LZO:
            return self._decompress(framed[1:])
        raise PeerError("unknown byte of compression framing")

    def _unwrap_swapped(self, framed: bytes) -> bytes:
        mark, data = framed[:1], framed[-1:] + framed[1:-1]
        if len(framed) < 2:
            raise PeerError("nothing but a byte of compression framing")
        if mark == _PLAIN_SWAPPED:
            return data
        if mark == _LZ4_SWAPPED:
            return self._decompress(data)
        raise PeerError("unknown byte of compression framing")

    def _unwrap_v2(self, framed: bytes) -> bytes:
        if framed[:1] != bytes((_V2,)):
            return framed
        kind = framed[1] if len(framed) > 1 else -1
        if kind == _V2_PLAIN:
            return framed[2:]
        if kind == _V2_LZ4:
            return self._decompress(framed[2:])
        raise PeerError("unknown byte of compression framing")


def _wrap_byte(data: bytes) -> bytes:
    return _PLAIN + data


def _wrap_swapped(data: bytes) -> bytes:
    return _PLAIN_SWAPPED + data[1:] + data[:1]


def _wrap_v2(data: bytes) -> bytes:
    return bytes((_V2, _V2_PLAIN)) + data if data[0] == _V2 else data

# SPDX-License-Identifier: BSD-2-Clause
"""``fragment``: what is too long for one packet goes out in several (OpenVPN's fragment.c, fragment.h).

Every payload begins with a header, u32 big endian, bits from the lowest::

    0-1  type: 0 whole, 1 not last, 2 last      2-9  sequence id     10-14  fragment id     15-28  size >> 2 (last only)

All fragments but the last have the size that the last one's header tells; a payload is as many of them, in order. The
first fragment that comes of a sequence id opens a buffer; another size opens it anew.

Bounded: `MAX_BUFFERS` sequences at once, `MAX_FRAGMENTS` each, dropped after `LIFETIME` seconds without news,
together no longer than `MAX_PAYLOAD`. What is malformed raises `PeerError` and leaves everything else alone; fragments
that come twice or out of order are no error, since the network may do that.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.dataplane.framing import MAX_FRAME

HEADER_SIZE = 4
MAX_BUFFERS = 25
MAX_FRAGMENTS = 32
LIFETIME = 10.0
MAX_PAYLOAD = MAX_FRAME + 64  # the largest inner packet, and its framing; 25 buffers of that are 400 KiB
_WHOLE, _NOT_LAST, _LAST = 0, 1, 2
_SEQUENCES = 256
_UNIT = 4  # sizes are multiples of it


class _Buffer:
    """The fragments of one payload; `count` is known once the last one came."""

    __slots__ = ("count", "heard", "parts", "size")

    def __init__(self, size: int, now: float) -> None:
        self.size = size
        self.parts: dict[int, bytes] = {}
        self.count = 0
        self.heard = now


class Fragmenter:
    """Both directions of one peer. `largest`: bytes of payload in one packet, this header not counted."""

    __slots__ = ("_buffers", "_largest", "_sequence")

    def __init__(self, largest: int, first_sequence: int) -> None:
        """`first_sequence` should be random, so that a peer does not mix us up with what we were before a restart."""
        self._largest = max(largest - largest % _UNIT, _UNIT)
        self._sequence = first_sequence % _SEQUENCES
        self._buffers: dict[int, _Buffer] = {}

    def split(self, payload: bytes) -> list[bytes]:
        """Return `payload` as it goes out: whole, or in fragments of much the same size; [] if it needs too many."""
        if len(payload) <= self._largest:
            return [bytes(HEADER_SIZE) + payload]
        size = self._even_size(len(payload))
        parts = [payload[at : at + size] for at in range(0, len(payload), size)]
        if len(parts) > MAX_FRAGMENTS:
            return []
        self._sequence = sequence = (self._sequence + 1) % _SEQUENCES
        heads = [_NOT_LAST | sequence << 2 | number << 10 for number in range(len(parts))]
        heads[-1] = _LAST | sequence << 2 | (len(parts) - 1) << 10 | size // _UNIT << 15
        return [head.to_bytes(HEADER_SIZE, "big") + part for head, part in zip(heads, parts, strict=True)]

    def _even_size(self, length: int) -> int:
        """The smallest size of fragments that does not make them more; OpenVPN's own rule differs by some bytes."""
        count = -(-length // self._largest)
        size = -(-length // count)
        return min(self._largest, size + -size % _UNIT)

    def join(self, framed: bytes, now: float) -> bytes | None:
        """Take what came; return a whole payload, or None while fragments are missing. Raises `PeerError`."""
        if len(framed) <= HEADER_SIZE:
            raise PeerError("a fragment without content")
        head, data = int.from_bytes(framed[:HEADER_SIZE], "big"), framed[HEADER_SIZE:]
        kind, sequence, number = head & 3, head >> 2 & 0xFF, head >> 10 & 0x1F
        if kind == _WHOLE:
            if sequence or number:
                raise PeerError("a whole packet with a fragment's numbers")
            return data
        if kind not in (_NOT_LAST, _LAST):
            raise PeerError("unknown type of fragment")
        size = len(data) if kind == _NOT_LAST else (head >> 15 & 0x3FFF) * _UNIT
        if not size or size % _UNIT or len(data) > size or number * size + len(data) > MAX_PAYLOAD:
            raise PeerError("a fragment whose size cannot be")
        buffer = self._buffer(sequence, size, now)
        buffer.parts[number] = data
        buffer.heard = now
        if kind == _LAST:
            buffer.count = number + 1
        if not buffer.count or any(each not in buffer.parts for each in range(buffer.count)):
            return None
        del self._buffers[sequence]
        return b"".join(buffer.parts[each] for each in range(buffer.count))

    def _buffer(self, sequence: int, size: int, now: float) -> _Buffer:
        """The buffer of `sequence`, opened anew if it is too old or of another size."""
        found = self._buffers.get(sequence)
        if found is not None and found.size == size and now < found.heard + LIFETIME:
            return found
        self._buffers.pop(sequence, None)
        if len(self._buffers) >= MAX_BUFFERS:
            del self._buffers[min(self._buffers, key=lambda each: self._buffers[each].heard)]
        self._buffers[sequence] = made = _Buffer(size, now)
        return made

# SPDX-License-Identifier: BSD-2-Clause
"""Packets on a TCP stream: ``u16 BE length | packet``, the length counting what follows it.

OpenVPN's framing has no magic to find the next packet by, so a length that cannot be is the end of the stream: zero
(there is no empty packet) and anything above `MAX_FRAME` are refused. What is kept between two reads is always less
than one frame.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import Consequence, MisuseError, PeerError

LENGTH_SIZE = 2
# Largest packet taken or sent: a jumbo frame of 9000 bytes inside, with every overhead, and room. OpenVPN's own
# limit follows from its tun-mtu (1768 bytes for the default one).
MAX_FRAME = 16384


def frame(packet: bytes) -> bytes:
    """Return `packet` with its length in front."""
    if not 0 < len(packet) <= MAX_FRAME:
        raise MisuseError(f"a frame holds 1 to {MAX_FRAME} bytes, not {len(packet)}")
    return len(packet).to_bytes(LENGTH_SIZE, "big") + packet


class FrameReader:
    """Cuts the bytes of a stream into packets."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""  # the beginning of a frame: less than LENGTH_SIZE + MAX_FRAME bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the packets that `chunk` completes, in order.

        Raises `PeerError` (the stream is lost) for an impossible length; packets before it are lost with it.
        """
        if self._rest:
            chunk = self._rest + chunk
        packets = []
        at, end = 0, len(chunk)
        while end - at >= LENGTH_SIZE:
            size = chunk[at] << 8 | chunk[at + 1]
            if not 0 < size <= MAX_FRAME:
                raise PeerError(f"frame of {size} bytes on a TCP stream", Consequence.END_SESSION)
            after = at + LENGTH_SIZE + size
            if after > end:
                break
            packets.append(chunk[at + LENGTH_SIZE : after])
            at = after
        self._rest = chunk[at:]
        return packets

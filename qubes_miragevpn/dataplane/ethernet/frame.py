# SPDX-License-Identifier: BSD-2-Clause
"""What a tunnel of Ethernet frames (``dev tap``) asks of a data plane: only MSS clamping looks into a frame.

    destination 6 | source 6 | type 2 | payload

A frame is carried as it is, whatever it holds; one with a VLAN tag is never looked into. Too short a one is refused.
"""

from __future__ import annotations

from qubes_miragevpn.dataplane.mss import clamp

HEADER = 14
_VERSIONS = {b"\x08\x00": 4, b"\x86\xdd": 6}  # the type of a frame, and what its payload must begin with


def is_frame(frame: bytes) -> bool:
    """Whether there is a whole header."""
    return len(frame) >= HEADER


def clamp_frame(frame: bytes, limit4: int, limit6: int) -> bytes:
    """`frame` with the TCP MSS option of the IP packet in it at most what `mss.clamp` lets through."""
    version = _VERSIONS.get(frame[12:HEADER])
    if version is None or len(frame) == HEADER or frame[HEADER] >> 4 != version:
        return frame
    return frame[:HEADER] + clamp(frame[HEADER:], limit4, limit6)

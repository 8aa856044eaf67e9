# SPDX-License-Identifier: BSD-2-Clause
"""Just enough of IPv4 (RFC 791) and IPv6 (RFC 8200) to tell where an inner packet comes from and goes to.

Addresses are packed bytes, 4 or 16 of them, so that one dictionary serves both families. Nothing is parsed beyond the
fixed header: extension headers, options and payload are the business of whoever receives the packet. A packet whose
header does not fit its length is refused; jumbograms (RFC 2675) are, too.
"""

from __future__ import annotations

from qubes_miragevpn.base.errors import PeerError

IPV4_HEADER = 20
IPV6_HEADER = 40


def addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Return source and destination of `packet`, a whole and well-formed IP packet.

    Raises `PeerError` if version, header length and total length do not agree with the bytes that are there.
    """
    size = len(packet)
    if size >= IPV4_HEADER and packet[0] >> 4 == 4:
        header = (packet[0] & 0x0F) * 4
        if header >= IPV4_HEADER and header <= size == packet[2] << 8 | packet[3]:
            return packet[12:16], packet[16:20]
        raise PeerError("inner IPv4 header does not fit the packet")
    if size >= IPV6_HEADER and packet[0] >> 4 == 6:
        if size == IPV6_HEADER + (packet[4] << 8 | packet[5]):
            return packet[8:24], packet[24:40]
        raise PeerError("inner IPv6 header does not fit the packet")
    raise PeerError("inner packet is not IP")

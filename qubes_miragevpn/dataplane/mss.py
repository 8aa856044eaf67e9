# SPDX-License-Identifier: BSD-2-Clause
"""Lowering the MSS that TCP announces inside the tunnel (OpenVPN's ``mssfix``, mss.c).

A SYN carries the largest segment its sender wants to get; lowered to what fits the tunnel, no segment ever has to be
fragmented outside. Only whole packets are touched, never fragments, never behind IPv6 extension headers, and only when
every length on the way is consistent. A hostile SYN comes out as it went in: whoever receives it has to cope anyway.
"""

from __future__ import annotations

from qubes_miragevpn.dataplane.ip import IPV4_HEADER, IPV6_HEADER

TCP = 6
_TCP_HEADER = 20
_CHECKSUM_AT = 16
_FLAGS_AT = 13
_SYN = 0x02
_OPTION_END, _OPTION_NOP, _OPTION_MSS = 0, 1, 2
_MSS_SIZE = 4


def clamp(packet: bytes, limit4: int, limit6: int) -> bytes:
    """Return IP `packet` with its TCP MSS option at most `limit4` (IPv4) or `limit6` (IPv6); a limit of 0: as it is."""
    if packet[0] >> 4 == 4:
        if len(packet) < IPV4_HEADER + _TCP_HEADER or packet[9] != TCP:
            return packet
        tcp, limit = (packet[0] & 0x0F) * 4, limit4
        if tcp < IPV4_HEADER or (packet[6] << 8 | packet[7]) & 0x3FFF:  # "more fragments" and the fragment's offset
            return packet
    else:
        if len(packet) < IPV6_HEADER + _TCP_HEADER or packet[6] != TCP:
            return packet
        tcp, limit = IPV6_HEADER, limit6
    if len(packet) < tcp + _TCP_HEADER or not packet[tcp + _FLAGS_AT] & _SYN or not limit:
        return packet
    return _rewrite(packet, tcp, limit)


def _rewrite(packet: bytes, tcp: int, limit: int) -> bytes:
    """Walk the options of the SYN at `tcp`, lower every MSS above `limit`."""
    end = tcp + (packet[tcp + 12] >> 4) * 4
    if end > len(packet):
        return packet
    at, lowered = tcp + _TCP_HEADER, bytearray(packet)
    while at < end and packet[at] != _OPTION_END:
        if packet[at] == _OPTION_NOP:
            at += 1
            continue
        size = packet[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return packet  # the option says it is shorter than itself, or leaves the header
        if packet[at] == _OPTION_MSS and size == _MSS_SIZE:
            _lower(lowered, tcp, at + 2, limit)
        at += size
    return bytes(lowered)


def _lower(packet: bytearray, tcp: int, at: int, limit: int) -> None:
    """Lower the u16 at `at` to `limit` and mend the TCP checksum (RFC 1624: HC' = ~(~HC + ~m + m'))."""
    old = packet[at] << 8 | packet[at + 1]
    if old <= limit:
        return
    packet[at], packet[at + 1] = limit >> 8, limit & 0xFF
    new = limit
    if (at - tcp) % 2:
        # Behind an odd number of NOPs the value lies across two words of the sum: its bytes count swapped.
        old, new = _swapped(old), _swapped(new)
    checksum = packet[tcp + _CHECKSUM_AT] << 8 | packet[tcp + _CHECKSUM_AT + 1]
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~total & 0xFFFF
    packet[tcp + _CHECKSUM_AT], packet[tcp + _CHECKSUM_AT + 1] = checksum >> 8, checksum & 0xFF


def _swapped(word: int) -> int:
    return (word & 0xFF) << 8 | word >> 8

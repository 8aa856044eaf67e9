# SPDX-License-Identifier: BSD-2-Clause
"""What a session's configuration means for its peer in the data plane: keep-alive, MSS, volume.

The arithmetic of ``mssfix`` and ``fragment`` is that of OpenVPN's mss.c, with the sizes of `protocol.sizes`.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from qubes_miragevpn.config.model import Common, Compression, Family, Proto, Remote, SizeOf, SocksProxy
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.interface import PayloadRules, PeerLimits, SockAddr
from qubes_miragevpn.protocol.sizes import (
    COMPRESSION_BYTE,
    FRAGMENT_HEADER_SIZE,
    IPV4_TCP_HEADERS,
    PACKET_ID_SIZE,
    Carrier,
)

SOCKS4_HEADER, SOCKS6_HEADER = 10, 22  # reserved 2, fragment 1, type 1, address, port 2
LEAST_MSS = 88
"""What ``mssfix`` asks for at the least, as Linux (TCP_MIN_MSS): a size below the overhead must not switch it off."""
_IPV6_MORE = 20  # bytes by which an IPv6 header is longer than one of IPv4


def within_proxy(common: Common, remote: Remote) -> Common:
    """`common` with room for the header that a SOCKS proxy's relay has in front of every datagram (RFC 1928, 7)."""
    if not isinstance(remote.proxy, SocksProxy) or remote.proto is not Proto.UDP:
        return common
    size = SOCKS6_HEADER if remote.family is Family.IPV6 else SOCKS4_HEADER
    inner = not common.mssfix or common.mssfix_of is SizeOf.INNER
    return replace(
        common,
        mssfix=common.mssfix if inner else max(common.mssfix - size, 1),
        fragment=max(common.fragment - size, 1) if common.fragment else 0,
    )


def peer_limits(
    common: Common,
    proto: Proto,
    endpoint: SockAddr,
    *,
    cipher: str,
    ping: float,
    silence: float,
    peer_id: bool = True,
    epoch: bool = False,
    compression: Compression | None = None,
    floats: bool = False,
) -> PeerLimits:
    """Limits for a peer that is reached at `endpoint` over `proto`; `compression` is what the server pushed.

    `floats`: whoever has a peer id is followed, as a server does; with ``float`` it is the profile's wish.
    """
    framing = common.compression if compression is None else compression
    carrier = carrier_of(common, proto, cipher, framing, peer_id=peer_id, epoch=epoch)
    outer = _outer_headers(endpoint, proto)
    mss = _mss(common, carrier, outer)
    return PeerLimits(
        ping=ping,
        silence=silence,
        replay_window=common.replay_window,
        replay_time=common.replay_time if proto is Proto.UDP else 0.0,
        mss4=max(mss, LEAST_MSS) if common.mssfix else 0,
        mss6=max(mss - _IPV6_MORE, LEAST_MSS) if common.mssfix else 0,
        reneg_bytes=common.timers.reneg_bytes,
        reneg_pkts=common.timers.reneg_pkts,
        payload=PayloadRules(framing, common.decompress, _fragment(common, carrier, outer)),
        ethernet=common.ethernet,
        floats=(floats and peer_id) or (common.floats and proto is Proto.UDP),
    )


def carrier_of(
    common: Common, proto: Proto, cipher: str, framing: Compression, *, peer_id: bool, epoch: bool, static: bool = False
) -> Carrier:
    """What a data channel is made of."""
    return Carrier(
        SUITES[cipher],
        "" if SUITES[cipher].mode is Mode.AEAD else common.digest,
        stream=proto is Proto.TCP,
        peer_id=peer_id,
        compression_byte=framing in COMPRESSION_BYTE,
        fragment=bool(common.fragment) and proto is Proto.UDP,
        epoch=epoch,
        static=static,
        ethernet=common.ethernet,
    )


def _outer_headers(endpoint: SockAddr, proto: Proto) -> int:
    address = ip_address(endpoint[0].partition("%")[0])
    ip_header = 20 if address.version == 4 or getattr(address, "ipv4_mapped", None) else 40
    return ip_header + (8 if proto is Proto.UDP else 20)


def _mss(common: Common, carrier: Carrier, outer: int) -> int:
    """The largest MSS for inner IPv4, if there is to be one."""
    if common.mssfix_of is SizeOf.INNER:
        return common.mssfix - IPV4_TCP_HEADERS
    size = common.mssfix - (outer if common.mssfix_of is SizeOf.OUTER else 0)
    return carrier.payload_room(size) - carrier.payload_overhead() - IPV4_TCP_HEADERS


def _fragment(common: Common, carrier: Carrier, outer: int) -> int:
    """The most bytes of framed payload in one fragment; 0: there are no fragments."""
    if not carrier.fragment:
        return 0
    size = common.fragment - (outer if common.fragment_of is SizeOf.OUTER else 0)
    room = carrier.payload_room(size) - FRAGMENT_HEADER_SIZE
    return max(room - (PACKET_ID_SIZE if carrier.suite.mode is Mode.CBC else 0), 1)

# SPDX-License-Identifier: BSD-2-Clause
"""What a session's configuration means for its peer in the data plane: keep-alive, MSS, volume.

MSS arithmetic is that of ``mssfix N mtu`` in OpenVPN's mss.c: the outer packet, IP header included, stays within N.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from qubes_miragevpn.config.model import Common, Compression, Family, Proto, Remote, SocksProxy
from qubes_miragevpn.dataplane.interface import PayloadRules, PeerLimits, SockAddr

_DATA_V2_OVERHEAD = 4 + 4 + 16  # opcode and peer id, packet id, tag
_OUTER = {Proto.UDP: 8, Proto.TCP: 20 + 2}  # transport header; TCP adds the length prefix
SOCKS4_HEADER, SOCKS6_HEADER = 10, 22  # reserved 2, fragment 1, type 1, address, port 2
_INNER4 = 20 + 20
_INNER6 = 40 + 20


def within_proxy(common: Common, remote: Remote) -> Common:
    """`common` with room for the header that a SOCKS proxy's relay has in front of every datagram (RFC 1928, 7)."""
    if not isinstance(remote.proxy, SocksProxy) or remote.proto is not Proto.UDP or not common.mssfix:
        return common
    size = SOCKS6_HEADER if remote.family is Family.IPV6 else SOCKS4_HEADER
    return replace(common, mssfix=max(common.mssfix - size, 1))


def peer_limits(
    common: Common,
    proto: Proto,
    endpoint: SockAddr,
    *,
    ping: float,
    silence: float,
    compression: Compression | None = None,
) -> PeerLimits:
    """Limits for a peer that is reached at `endpoint` over `proto`; `compression` is what the server pushed."""
    address = ip_address(endpoint[0].partition("%")[0])
    outer = (20 if address.version == 4 or getattr(address, "ipv4_mapped", None) else 40) + _OUTER[proto]
    room = common.mssfix - outer - _DATA_V2_OVERHEAD
    return PeerLimits(
        ping=ping,
        silence=silence,
        replay_window=common.replay_window,
        mss4=max(room - _INNER4, 0) if common.mssfix else 0,
        mss6=max(room - _INNER6, 0) if common.mssfix else 0,
        reneg_bytes=common.timers.reneg_bytes,
        reneg_pkts=common.timers.reneg_pkts,
        payload=PayloadRules(common.compression if compression is None else compression, common.decompress),
    )

# SPDX-License-Identifier: BSD-2-Clause
"""A server's welcome for one peer, its equal: the passive end of a tunnel between two (``tls-server`` without a mode).

Nothing is pushed and nothing leased: the tunnel is what both files say. Whoever was authenticated last is the other
end. Source: OpenVPN's manual, "--tls-server"; ssl_ncp.c p2p_mode_ncp.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.config.model import PointServer, Proto, ServerConfig
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, PeerLimits
from qubes_miragevpn.protocol.control.negotiation import PointAgreement, point_agreement, point_cipher
from qubes_miragevpn.protocol.limits import peer_limits
from qubes_miragevpn.protocol.serving.peer import Peer
from qubes_miragevpn.protocol.serving.registry import Registry
from qubes_miragevpn.protocol.version import IV_VER
from qubes_miragevpn.protocol.wire import peerinfo
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2


class OtherEnd:
    """See `serving.welcome.Welcome`."""

    most = 1

    def __init__(self, config: PointServer) -> None:
        self._config = config
        self._agreed = PointAgreement()

    def reconfigured(self, config: ServerConfig) -> None:
        """Both ends' files say all of it; neither changes alone."""

    def meet(self, peer: Peer, hello: KeyMethod2) -> None:
        """Work out what the other end works out as well."""
        common = self._config.common
        peer.can = peerinfo.parse(hello.peer_info)
        peer.cipher = point_cipher(peer.can, hello.options, common, server=True)
        self._agreed = point_agreement(peer.can, peer.session.tls_of(0).export)
        peer.ekm, peer.dynamic_tls_crypt = self._agreed.ekm, self._agreed.dynamic_tls_crypt

    def replaced(self, peer: Peer, peers: Registry) -> list[Peer]:
        """There is one other end."""
        return peers.admitted

    def prepare(self, peer: Peer, peers: Registry) -> str:
        """Both files say all there is."""
        return ""

    def displaced(self, peer: Peer) -> list[Peer]:
        """Nobody has anything."""
        return []

    def admit(self, peer: Peer) -> None:
        """Whoever is authenticated is the other end."""

    def dismiss(self, peer: Peer) -> None:
        """Nothing was given to it."""

    def introduce(self, peer: Peer) -> str:
        """What we can do, by which the other end works out the same."""
        return peerinfo.build_point(IV_VER, self._config.common.data_ciphers)

    def unasked(self, peer: Peer) -> bool:
        """Nobody asks for a push."""
        return True

    def tell(self, peer: Peer) -> list[str]:
        """Nothing is pushed."""
        return []

    def farewell(self, peer: Peer) -> str:
        """As both agreed to say it."""
        return "EXIT" if self._agreed.cc_exit else ""

    def addresses(self, peer: Peer) -> tuple[IPv4Address | IPv6Address, ...] | None:
        """All packets are for the other end, and it may send from any address."""
        return None

    def limits(self, peer: Peer) -> tuple[int, PeerLimits]:
        """Keep-alive as the file says; over UDP it may move, unless the file says where it is."""
        common, proto = self._config.common, peer.proto
        peer_id = NO_PEER_ID if self._agreed.peer_id is None else self._agreed.peer_id
        return peer_id, peer_limits(
            common,
            proto,
            peer.endpoint,
            cipher=peer.cipher,
            ping=common.timers.ping,
            silence=common.timers.ping_exit or common.timers.ping_restart,
            peer_id=self._agreed.peer_id is not None,
            floats=proto is Proto.UDP and not self._config.only,
        )

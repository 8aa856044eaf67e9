# SPDX-License-Identifier: BSD-2-Clause
"""On what a client and its peer have agreed: the settings of the tunnel, the cipher, how keys are derived.

A server decides by its push (`by_push`). Between two equals, where nobody pushes, the tunnel is what the file says, and
both work out the rest alike from what each said of itself (`between_two`; OpenVPN ssl_ncp.c p2p_mode_ncp).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientConfig, PulledOptions, Remote
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, PeerLimits, SockAddr
from qubes_miragevpn.protocol.control.negotiation import client_cipher, digest_mismatch, point_agreement, point_cipher
from qubes_miragevpn.protocol.limits import peer_limits, within_proxy
from qubes_miragevpn.protocol.wire import peerinfo

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Terms:
    """What counts while the tunnel works; `problem` is what the operator should know about them ("" nothing)."""

    pulled: PulledOptions
    cipher: str
    problem: str = ""

    @property
    def peer_id(self) -> int:
        """What our packets bear."""
        return NO_PEER_ID if self.pulled.peer_id is None else self.pulled.peer_id

    def ping_exits(self, config: ClientConfig) -> bool:
        """Whether silence of the peer is the end."""
        return bool(self._exit_after(config))

    def _exit_after(self, config: ClientConfig) -> float:
        timers = config.common.timers
        return timers.ping_exit if self.pulled.ping_exit is None else self.pulled.ping_exit

    def limits(self, config: ClientConfig, remote: Remote, endpoint: SockAddr) -> PeerLimits:
        """Keep-alive by what was pushed, else by the profile; an exit timeout outranks a restart timeout."""
        pulled, timers = self.pulled, config.common.timers
        restart_after = timers.ping_restart if pulled.ping_restart is None else pulled.ping_restart
        return peer_limits(
            within_proxy(config.common, remote),
            remote.proto,
            endpoint,
            cipher=self.cipher,
            peer_id=pulled.peer_id is not None,
            epoch=pulled.epoch,
            ping=timers.ping if pulled.ping is None else pulled.ping,
            silence=self._exit_after(config) or restart_after,
            compression=pulled.compression,
        )


def by_push(options: tuple[str, ...], config: ClientConfig, remote: Address | None, server_options: str) -> Terms:
    """What the server pushed; raises `PeerError` (end of session) if that cannot be."""
    pulled = parse_push(options, config, remote)
    cipher = client_cipher(pulled.cipher, server_options, config.common)
    if pulled.epoch and (pulled.peer_id is None or SUITES[cipher].mode is not Mode.AEAD):
        raise PeerError("the server pushed 'aead-epoch' without a peer id or without AEAD", Consequence.END_SESSION)
    return Terms(pulled, cipher, digest_mismatch(cipher, server_options, config.common))


def between_two(
    tunnel: tuple[str, ...],
    config: ClientConfig,
    remote: Address | None,
    options: str,
    peer_info: str,
    export: Callable[[bytes, int], Secret],
) -> Terms:
    """What both ends make of the other's `options` string and `peer_info`; `export` is the TLS session's exporter.

    Raises `PeerError` (end of session) without a common cipher, or if `tunnel`, the file's own lines, is none.
    """
    peer = peerinfo.parse(peer_info)
    cipher = point_cipher(peer, options, config.common, server=False)
    agreed = point_agreement(peer, export)
    pulled = replace(
        parse_push(tunnel, config, remote),
        cipher=cipher,
        peer_id=agreed.peer_id,
        key_derivation_ekm=agreed.ekm,
        cc_exit=agreed.cc_exit,
        dynamic_tls_crypt=agreed.dynamic_tls_crypt,
    )
    return Terms(pulled, cipher, digest_mismatch(cipher, options, config.common))

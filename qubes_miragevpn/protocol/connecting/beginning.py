# SPDX-License-Identifier: BSD-2-Clause
"""How a client begins a session over a transport that is open: its keys, its TLS end, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable

from qubes_miragevpn.config.model import ClientConfig, Family, Proto
from qubes_miragevpn.crypto.replay import Numbering
from qubes_miragevpn.dataplane.interface import SockAddr
from qubes_miragevpn.protocol.control.endpoints import Endpoints
from qubes_miragevpn.protocol.control.legality import Role
from qubes_miragevpn.protocol.control.tls import library_version
from qubes_miragevpn.protocol.happenings import Introduction
from qubes_miragevpn.protocol.login import Login
from qubes_miragevpn.protocol.remotes import Try
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.version import IV_VER
from qubes_miragevpn.protocol.wire import occ, peerinfo
from qubes_miragevpn.protocol.wire.packet import SID_SIZE
from qubes_miragevpn.protocol.wrap.clientkey import client_keys
from qubes_miragevpn.protocol.wrap.state import WrapState

Machine = Callable[[], tuple[tuple[str, str], ...]]


class Beginning:
    """What the sessions of one client have in common; raises `ConfigError` for unusable keys."""

    def __init__(
        self,
        config: ClientConfig,
        login: Login,
        *,
        entropy: Callable[[int], bytes],
        unix_time: Callable[[], int],
        machine: Machine,
        seen: Numbering | None,
        warn: Callable[[str], None],
        pulls: bool,
    ) -> None:
        """As of `Client`; `pulls`: the other end is a server, and not an equal."""
        self._config = config
        self._login = login
        self._entropy = entropy
        self._unix_time = unix_time
        self._machine = machine
        self._seen = seen
        self._pulls = pulls
        self._endpoints = Endpoints(config.common, server=False, warn=warn)
        self._wrap_keys = client_keys(config.common.wrap)

    def session(self, step: Try, endpoint: SockAddr) -> Session:
        """A new session with the remote of `step`, which is reached at `endpoint`."""
        remote = step.remote
        config = self._config.at(remote)
        keys = self._wrap_keys if remote.common is None else client_keys(config.common.wrap)
        family = Family.IPV6 if len(endpoint) == 4 else Family.IPV4
        options = occ.build(config.common, remote.proto, family, server=False)
        info = self._peer_info(config)
        return Session(
            Role.CLIENT,
            config.common,
            own_sid=self._entropy(SID_SIZE),
            wrap=WrapState(keys, started=self._unix_time(), seen=self._seen),
            tls=self._endpoints.new,
            entropy=self._entropy,
            introduction=lambda: self._introduce(options, info),
            stream=remote.proto is Proto.TCP,
            unasked=not self._pulls,
        )

    def _peer_info(self, config: ClientConfig) -> str:
        common = config.common
        told = (("IV_SSL", library_version()), *self._machine(), *config.peer_info) if config.push_peer_info else ()
        if not self._pulls:
            return peerinfo.build_point(IV_VER, common.data_ciphers, told)
        largest = max(common.tun_mtu_max, common.tun_mtu)
        return peerinfo.build(IV_VER, common.data_ciphers, largest, told)

    def _introduce(self, options: str, info: str) -> Introduction:
        said = self._login.introduce()
        return Introduction(options, info, said.username, said.password)

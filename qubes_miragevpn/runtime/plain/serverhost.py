# SPDX-License-Identifier: BSD-2-Clause
"""A plain machine as the host of a server, or of the waiting end of a tunnel between two."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.config.model import Credentials, PointServer, ServerConfig, TunnelSettings
from qubes_miragevpn.config.pushed import parse_push
from qubes_miragevpn.runtime.netlink.netconf import Netconf, NetRoute
from qubes_miragevpn.runtime.plain.interface import configure, without_missing_ipv6
from qubes_miragevpn.runtime.plain.nat import Nat
from qubes_miragevpn.runtime.plain.plainhost import Habits, PlainHost
from qubes_miragevpn.runtime.tun import Tun, open_tun

_log = logging.getLogger("miragevpn.host")


class ServerHost:
    """A server's TUN with the first address of its networks."""

    def __init__(self, config: ServerConfig, open_device: Callable[[str], Tun] = open_tun) -> None:
        self._config = config
        self._open_device = open_device
        self._net = Netconf()
        self._tun: Tun | None = None
        self._nat: Nat | None = None

    async def up(self) -> tuple[int, str]:
        """Open and configure it; return its descriptor and name."""
        dev = self._config.common.dev
        self._tun = self._open_device(f"{dev}%d" if dev in ("tun", "tap") else dev)
        name = self._tun.name
        if self._config.bridge is not None:
            # Addresses, and what port of which bridge it is, stay as they are: a TAP that outlives us has them already.
            await self._net.set_link(name, mtu=self._config.common.tun_mtu, txqueuelen=self._tun.queue, up=True)
        else:
            await self._address(name, self._tun.queue)
        by = name if self._config.bridge is None else None  # then by the bridge, which is where the gateway is
        for route in self._config.routes:
            await self._net.replace_route(NetRoute(route.network, dev=by, via=route.gateway, metric=route.metric))
        if self._config.nat is not None:
            self._nat = Nat(name, self._translated())
            await self._nat.up(self._config.nat or await self._uplink())
        return self._tun.fd, self._tun.name

    async def _address(self, name: str, queue: int) -> None:
        """Give the interface the server's address of each network."""
        config, network = self._config, self._config.network
        subnet = config.topology == "subnet"
        address = address6 = far_end = None
        if network is not None and config.address is not None:
            address = IPv4Interface((config.address, network.prefixlen if subnet else 32))
            far_end = None if subnet else network.network_address + 2  # nobody's; as openvpn has it
        if config.network6 is not None and config.address6 is not None:
            address6 = IPv6Interface((config.address6, config.network6.prefixlen))
        settings = TunnelSettings(ipv4=address, ipv4_peer=far_end, ipv6=address6, mtu=config.common.tun_mtu)
        await configure(self._net, name, without_missing_ipv6(settings, name), queue)
        if network is not None and not subnet:
            await self._net.replace_route(NetRoute(network, dev=name))

    def _translated(self) -> list[IPv4Network | IPv6Network]:
        """The networks of the tunnel, and those behind clients."""
        own = (self._config.network, self._config.network6, *(route.network for route in self._config.routes))
        return [network for network in own if network is not None]

    async def _uplink(self) -> str:
        family = socket.AF_INET6 if self._config.network is None else socket.AF_INET
        for route in await self._net.default_routes(family):
            if route.dev is not None:
                return route.dev
        raise SystemRefused("nat: this machine has no default route", "name the interface: 'nat eth0'")

    async def close(self) -> None:
        """Undo everything. Twice is fine."""
        tun, self._tun = self._tun, None
        if tun is not None:
            try:
                if self._nat is not None:
                    await self._nat.close()
                await self._net.undo()
            finally:
                tun.close()
        await self._net.close()


class PointHost:
    """The TUN, routes and resolvers that the file of a tunnel between two asks for, there from the beginning."""

    def __init__(self, config: PointServer, open_device: Callable[[str], Tun] = open_tun) -> None:
        self._config = config
        self._host = PlainHost(config.common.dev, _nobody, Habits.of(config.client), open_device=open_device)

    async def up(self) -> tuple[int, str]:
        """Open and configure it; return its descriptor and name. Raises `PeerError` if the file makes no tunnel."""
        remote = self._config.only[0] if self._config.only else None
        settings = parse_push(self._config.tunnel, self._config.client, remote)
        for line in settings.dropped:
            _log.warning("not used: %s", line)
        if remote is not None:
            await self._host.before_transport(remote)
        fd = await self._host.up(settings.tunnel)
        return fd, self._host.interface

    async def close(self) -> None:
        """Undo everything. Twice is fine."""
        await self._host.close()


async def _nobody(again: str) -> Credentials | None:
    """Whoever waits logs in nowhere."""
    return None

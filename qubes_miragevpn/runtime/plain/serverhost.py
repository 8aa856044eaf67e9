# SPDX-License-Identifier: BSD-2-Clause
"""A plain machine as the host of a server: the TUN with the first address of the server's network."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Interface

from qubes_miragevpn.config.model import ServerConfig, TunnelSettings
from qubes_miragevpn.runtime.netlink.netconf import Netconf
from qubes_miragevpn.runtime.plain.interface import configure
from qubes_miragevpn.runtime.tun import Tun, open_tun


class ServerHost:
    """A server's TUN with the first address of its network."""

    def __init__(self, config: ServerConfig, open_device: Callable[[str], Tun] = open_tun) -> None:
        self._config = config
        self._open_device = open_device
        self._net = Netconf()
        self._tun: Tun | None = None

    async def up(self) -> tuple[int, str]:
        """Open and configure it; return its descriptor and name."""
        dev, network = self._config.common.dev, self._config.network
        self._tun = self._open_device("tun%d" if dev == "tun" else dev)
        address = IPv4Interface((network.network_address + 1, network.prefixlen))
        await configure(self._net, self._tun.name, TunnelSettings(ipv4=address, mtu=self._config.common.tun_mtu))
        return self._tun.fd, self._tun.name

    async def close(self) -> None:
        """Undo everything. Twice is fine."""
        tun, self._tun = self._tun, None
        if tun is not None:
            try:
                await self._net.undo()
            finally:
                tun.close()
        await self._net.close()

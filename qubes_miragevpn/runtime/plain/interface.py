# SPDX-License-Identifier: BSD-2-Clause
"""The tunnel's interface on a plain machine: addresses, MTU, queue."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from qubes_miragevpn.config.model import TunnelSettings
from qubes_miragevpn.runtime.netlink.netconf import NetAddress, Netconf

_log = logging.getLogger("miragevpn.host")


async def configure(net: Netconf, name: str, settings: TunnelSettings, queue: int) -> None:
    """Give the TUN MTU, room for `queue` packets, addresses, and nothing else than these, and bring it up."""
    wanted = []
    if settings.ipv4 is not None:
        wanted.append(NetAddress(name, settings.ipv4, settings.ipv4_peer))
    if settings.ipv6 is not None:
        wanted.append(NetAddress(name, settings.ipv6))
    await net.set_link(name, mtu=settings.mtu, txqueuelen=queue)
    for address in await net.addresses(name):
        if address not in wanted and not address.interface.ip.is_link_local:
            await net.remove_address(address)
    await net.set_link(name, up=True)
    for address in wanted:
        await net.replace_address(address)


def without_missing_ipv6(settings: TunnelSettings, name: str) -> TunnelSettings:
    """Leave IPv6 out on a machine that has none: nothing can leave by it there."""
    try:
        off = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text(encoding="ascii").strip() == "1"
    except OSError:
        off = True
    if not off:
        return settings
    if settings.ipv6 is not None:
        _log.warning("IPv6 is switched off on this machine: the tunnel's address %s is not used", settings.ipv6.ip)
    routes = tuple(route for route in settings.routes if route.network.version == 4)
    return replace(settings, ipv6=None, gateway6=None, routes=routes, block_ipv6=False)

# SPDX-License-Identifier: BSD-2-Clause
"""Keeping the way out where only marked sockets look: barrier three.

Qubes' setup-ip puts ``GATEWAY dev eth0 scope link`` and ``default via GATEWAY dev eth0 onlink`` into the main table
whenever the uplink comes or changes. The keeper puts the default into the uplink table, and deletes from main whatever
leads elsewhere than downstream, at start and whenever it reappears: default routes, the gateway, the networks on the
links of the uplink and of any other interface (TunnelCrack's LocalNet). The policy rules do not look at those
anyway, so the moment between opens nothing. Where Qubes makes no default route (service ``disable-default-route``,
which the early step sets), the gateway is asked of qubesdb, or is the one that the host route leads to.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from qubes_miragevpn.qube.firewall.routing import DEFAULT4, DEFAULT6
from qubes_miragevpn.qube.firewall.table import TUN_NAME, VIF_NAME
from qubes_miragevpn.qube.settings import UPLINK_TABLE, WORST_METRIC
from qubes_miragevpn.runtime.netlink.netconf import Netconf, NetconfError, NetLink, NetRoute, RouteType

Address = IPv4Address | IPv6Address
LOOKS = 5  # at an interface that is taken away and put back at this very moment; the next change has us look again
Signature = tuple[int, tuple[tuple[int, str], ...]]
"""What makes an uplink the same one: the interface's number and its gateways."""

NO_UPLINK: Signature = (0, ())
_RTPROT_KERNEL = 2
_LINK_LOCAL = IPv6Network("fe80::/10")

_log = logging.getLogger("miragevpn.uplink")


def another(before: Signature, now: Signature) -> bool:
    """True if there is an uplink and connections begun by the one `before` are no use; IPv6 may come after IPv4."""
    return now != NO_UPLINK and not (before[0] == now[0] and set(before[1]) <= set(now[1]))


def leads_out(route: NetRoute) -> bool:
    """True if a packet could leave by this route of the main table otherwise than downstream or into a tunnel.

    The kernel's own link-local network, which nothing is forwarded to, stays.
    """
    if route.type != RouteType.UNICAST:
        return False
    if isinstance(route.network, IPv6Network) and (route.network.is_multicast or route.network.subnet_of(_LINK_LOCAL)):
        return False
    return route.dev is None or not (VIF_NAME.match(route.dev) or TUN_NAME.match(route.dev) or route.dev == "lo")


def is_host(network: IPv4Network | IPv6Network) -> bool:
    """True for a single address."""
    return network.prefixlen == network.max_prefixlen


class Uplink:
    """The one interface that leads to the network; `gateway` asks qubesdb (version -> address or None)."""

    def __init__(self, name: str, netconf: Netconf, gateway: Callable[[int], Awaitable[Address | None]]) -> None:
        self.name = name
        self._netconf = netconf
        self._gateway = gateway
        self._pinned: dict[Address, set[str]] = {}  # a server's address, and the tunnels that need it
        self._pinning = asyncio.Lock()  # several tunnels come and go at once
        self._known: tuple[int, tuple[Address, ...]] = (0, ())  # gateways of the interface of that number

    async def keep(self) -> Signature:
        """Leave nothing in main that leads out; return what the uplink is now."""
        link, routes = await self._look()
        for route in routes:
            if not leads_out(route):
                continue
            if link is not None and route.dev == self.name:
                if route.network.prefixlen == 0 and route.via is not None:
                    await self._adopt(route.via)
                elif is_host(route.network) and route.via is None and route.proto != _RTPROT_KERNEL:
                    self._note(link.index, route.network.network_address)
            _log.info("the route to %s by %s is taken out of the main table", route.network, route.dev)
            await self._netconf.delete_route(route)
        if link is None:
            return NO_UPLINK
        found = await self._defaults()
        if not found and link.up:
            for gateway in await self._gateways(link.index):
                await self._adopt(gateway)
            found = await self._defaults()
        if found:
            self._known = (link.index, tuple(route.via for route in found if route.via is not None))
        gateways = sorted((route.network.version, str(route.via)) for route in found)
        return (link.index, tuple(gateways)) if gateways else NO_UPLINK

    async def _look(self) -> tuple[NetLink | None, list[NetRoute]]:
        """The interface, as it is after the routes that are returned were there; both are of one and the same."""
        link = await self._netconf.link(self.name)
        for _ in range(LOOKS):
            before = link
            routes = await self._netconf.routes()
            link = await self._netconf.link(self.name)
            if (before and before.index) == (link and link.index):
                break
        return link, routes

    def _note(self, index: int, gateway: Address) -> None:
        """Remember a gateway whose route is about to be taken out of main: nothing would show it again."""
        others = self._known[1] if self._known[0] == index else ()
        self._known = (index, (*(each for each in others if each.version != gateway.version), gateway))

    async def _gateways(self, index: int) -> list[Address]:
        """Of an uplink without a default route: what dom0 says, or what routes showed since it is there."""
        told = [await self._gateway(version) for version in (4, 6)]
        found = [gateway for gateway in told if gateway is not None]
        return found or list(self._known[1] if self._known[0] == index else ())

    async def _adopt(self, via: Address) -> None:
        network = DEFAULT4 if via.version == 4 else DEFAULT6
        route = NetRoute(network, dev=self.name, via=via, table=UPLINK_TABLE, onlink=True)
        for old in await self._defaults():
            if old.network == network and old.key != route.key:
                await self._netconf.delete_route(old)
        await self._netconf.replace_route(route)

    async def _defaults(self) -> list[NetRoute]:
        routes = await self._netconf.routes(UPLINK_TABLE)
        return [
            route
            for route in routes
            if route.network.prefixlen == 0
            and route.type == RouteType.UNICAST
            and route.dev == self.name
            and route.via is not None
            and route.metric != WORST_METRIC
        ]

    @property
    def pinned(self) -> frozenset[Address]:
        """The servers' addresses."""
        return frozenset(self._pinned)

    async def pin(self, address: Address, owner: str) -> None:
        """Give marked sockets, and nobody else, a route to `address` while the tunnel `owner` needs it.

        Raises `OSError` without an uplink.

        ``via GATEWAY dev eth0 onlink``: a route without the gateway would ask by ARP for the server itself, which
        does not work behind every kind of netvm.
        """
        async with self._pinning:
            for default in await self._defaults():
                if default.network.version == address.version:
                    await self._netconf.replace_route(replace(default, network=ip_network(address), metric=None))
                    self._pinned.setdefault(address, set()).add(owner)
                    return
        raise OSError(errno.ENETUNREACH, f"no IPv{address.version} uplink: {self.name} has no gateway")

    async def unpin(self, owner: str) -> None:
        """Take away the routes of `pin` that no tunnel but `owner` needs."""
        async with self._pinning:
            for address in sorted(self._pinned, key=str):
                owners = self._pinned[address]
                owners.discard(owner)
                if owners:
                    continue
                del self._pinned[address]
                try:
                    await self._netconf.delete_route(NetRoute(ip_network(address), table=UPLINK_TABLE))
                except NetconfError as error:
                    _log.debug("%s", error)

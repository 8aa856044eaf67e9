# SPDX-License-Identifier: BSD-2-Clause
"""A plain Linux machine as the host of a client's tunnel.

Routes go to the main table, resolvers to systemd-resolved or resolv.conf. Every change is journalled, in memory and on
disk, and undone by `close`, or at the next start if there was no `close`. While the tunnel is down the machine uses
its own routes, in the clear, as with any VPN client: unless `persist-tun` keeps the tunnel's routes, which then lead
nowhere until it works again. The fail-closed host is the qube's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import ClientConfig, Credentials, Detour, Family, TunnelSettings
from qubes_miragevpn.runtime import resolver
from qubes_miragevpn.runtime.netlink.netconf import NetAddress, Netconf, NetRoute
from qubes_miragevpn.runtime.plain import resolvconf
from qubes_miragevpn.runtime.plain.interface import configure, without_missing_ipv6
from qubes_miragevpn.runtime.plain.journal import Journal
from qubes_miragevpn.runtime.plain.naming import Naming
from qubes_miragevpn.runtime.plain.plainroutes import tunnel_routes
from qubes_miragevpn.runtime.plain.uplink import Way
from qubes_miragevpn.runtime.tun import Tun, open_tun

_log = logging.getLogger("miragevpn.host")

Ask = Callable[[str], Awaitable[Credentials | None]]
AskForProxy = Callable[[str, str], Awaitable[Credentials | None]]
AskChallenge = Callable[[str, bool], Awaitable[Secret | None]]


@dataclass(frozen=True)
class Habits:
    """How a profile wants its machine treated."""

    keep_credentials: bool = True
    keep_routes: bool = False  # ``persist-tun``: while the tunnel reconnects, its routes lead nowhere
    addresses: bool = True  # set by us; False: ``ifconfig-noexec``
    routes: bool = True  # ``route-noexec``

    @classmethod
    def of(cls, config: ClientConfig) -> Habits:
        """Those of a profile."""
        return cls(not config.auth_nocache, config.persist_tun, not config.ifconfig_noexec, not config.route_noexec)

    @property
    def idle(self) -> bool:
        """Whether nothing on the machine is changed but an interface that is there already."""
        return not self.addresses and not self.routes


class PlainHost:
    """`TunnelHost` of a plain client. `dev` is the configuration's: "tun" takes the first free number."""

    mark = 0

    def __init__(
        self,
        dev: str,
        ask: Ask,
        habits: Habits | None = None,
        *,
        ask_for_proxy: AskForProxy | None = None,
        ask_challenge: AskChallenge | None = None,
        open_device: Callable[[str], Tun] = open_tun,
        state: Path | None = None,
        resolv_conf: Path | None = None,
    ) -> None:
        self._dev = dev
        self._ask = ask
        self._ask_for_proxy = ask_for_proxy
        self._ask_challenge = ask_challenge
        self._open_device = open_device
        self._habits = habits or Habits()
        self._kept: Credentials | None = None
        self._net: Netconf | None = None
        self._tun: Tun | None = None
        self._routes: list[NetRoute] = []  # ours, that are in force
        self.remote: IPv4Address | IPv6Address | None = None
        self._way: NetRoute | None = None  # to the server, without the tunnel
        self._found: dict[tuple[str, Family], list[IPv4Address | IPv6Address]] = {}
        self._journal = Journal(state)
        self._naming = Naming(self._journal, resolv_conf or resolvconf.RESOLV_CONF)

    @property
    def interface(self) -> str:
        """What the kernel calls the tunnel's interface; "" while there is none."""
        return "" if self._tun is None else self._tun.name

    async def resolve(self, host: str, family: Family) -> list[IPv4Address | IPv6Address]:
        """Ask the system's resolver; while that is behind a tunnel that does not work, remember its last answer."""
        key = (host, family)
        try:
            self._found[key] = await resolver.resolve(host, family)
        except OSError:
            if key not in self._found or not self._routes:
                raise
            _log.info("%s cannot be looked up now; its last addresses are tried", printable(host))
        return self._found[key]

    async def connecting(self, remote: str) -> None:
        """Nothing to prepare; the machine itself says in the log whom it tries."""

    async def before_transport(self, address: IPv4Address | IPv6Address) -> None:
        """Remember how the server is reached now; if the tunnel's routes are still there, lead around them."""
        self.remote = address
        way = await self._way_to(address)
        self._way = way and replace(way, source=None)  # the kernel's choice, not the route's
        if self._routes and self._way is not None and self._way not in self._routes:
            await self._set_route(self._way)

    async def up(self, settings: TunnelSettings) -> int:
        """Open the TUN, apply everything; return the TUN's descriptor."""
        if settings.ipv4 is None and settings.ipv6 is None and not settings.ethernet:  # a TAP may have DHCP
            raise PeerError("the server gave the tunnel no address")
        if self._tun is None:
            self._tun = self._open_device(f"{self._dev}%d" if self._dev in ("tun", "tap") else self._dev)
        if self._habits.idle:
            _log.info("%s is left to others to set up: %s", self._tun.name, printable(str(settings), 500))
            return self._tun.fd
        name = self._tun.name
        settings = without_missing_ipv6(settings, name)
        if self._habits.addresses:
            self._journal.changes.dev = name
            self._journal.changes.addresses = [
                NetAddress(name, each, settings.ipv4_peer if each is settings.ipv4 else None)
                for each in (settings.ipv4, settings.ipv6)
                if each is not None
            ]
            self._journal.write()
            await configure(self._netconf, name, settings, self._tun.queue)
        if self._habits.routes:
            await self._set_routes(settings)
            index = await self._netconf.link_index(name)
            await self._naming.set(index, settings.dns, everything=_everything(settings))
        return self._tun.fd

    async def down(self, reason: str) -> None:
        """Take routes and DNS away, unless they are to stay; TUN and addresses stay."""
        if not self._habits.keep_routes:
            await self._leave()

    async def _leave(self) -> None:
        await self._naming.unset()
        while self._routes:
            route = self._routes.pop()
            await self._netconf.restore_route(route)
            self._journal.changes.forget_route(route)
        self._journal.write()

    async def close(self) -> None:
        """Undo everything. A later `up` begins anew."""
        await self._naming.unset()
        self._routes.clear()
        net, self._net = self._net, None
        tun, self._tun = self._tun, None
        try:
            if net is not None:
                await net.undo()
                await net.close()
            self._journal.close()
        finally:
            if tun is not None:
                tun.close()

    async def credentials(self, again: str) -> Credentials | None:
        """Those kept from last time, unless they were refused; else ask."""
        if again or self._kept is None:
            given = await self._ask(again)
            if not self._habits.keep_credentials:
                return given
            self._kept = given
        return self._kept

    async def proxy_credentials(self, proxy: str, again: str) -> Credentials | None:
        """Ask the user; the machine keeps the answer, as long as that is wanted."""
        return None if self._ask_for_proxy is None else await self._ask_for_proxy(proxy, again)

    async def challenge(self, text: str, *, echo: bool) -> Secret | None:
        """Ask the user; an answer is good once only."""
        return None if self._ask_challenge is None else await self._ask_challenge(text, echo)

    async def way_now(self) -> Way | None:
        """How packets to the server leave this machine now, beside the tunnel."""
        remote = self.remote
        route = None if remote is None else await self._way_to(remote)
        if remote is None or route is None or route.dev is None:
            return None
        link = await self._netconf.link(route.dev)
        if link is None or not link.up or not link.carrier:
            return None
        return Way(remote, route.dev, route.via, await self._source(route))

    async def _source(self, route: NetRoute) -> IPv4Address | IPv6Address | None:
        """Our own address on the way."""
        if route.source is not None or route.dev is None:
            return route.source
        there = await self._netconf.addresses(route.dev)
        return next((each.interface.ip for each in there if each.interface.version == route.network.version), None)

    @property
    def _netconf(self) -> Netconf:
        if self._net is None:
            self._net = Netconf()
        return self._net

    async def _way_to(self, address: IPv4Address | IPv6Address) -> NetRoute | None:
        own = self._tun.name if self._tun is not None else None
        way = await self._netconf.route_to(address)
        if way is not None and way.dev != own:
            return NetRoute(way.network, dev=way.dev, via=way.via, source=way.source)
        # our own routes lead there, or nothing does; past them there is the machine's default
        for route in await self._netconf.default_routes(way.family if way is not None else None):
            if route.dev != own and route.network.version == address.version:
                return NetRoute(ip_network(address), dev=route.dev, via=route.via)
        return None

    async def _set_routes(self, settings: TunnelSettings) -> None:
        assert self._tun is not None
        neighbours = []
        if self._way is not None and settings.redirect is not None and "block-local" in settings.redirect:
            there = await self._netconf.routes()
            neighbours = [route for route in there if route.dev == self._way.dev and _is_neighbourhood(route)]
        detours = [route for each in settings.detours if (route := await self._detour(each)) is not None]
        wanted = tunnel_routes(settings, self._tun.name, way=self._way, neighbours=neighbours, detours=detours)
        stale = [route for route in self._routes if route.key not in {each.key for each in wanted}]
        for route in wanted:
            await self._set_route(route)
        for route in stale:
            await self._netconf.restore_route(route)
            self._journal.changes.forget_route(route)
        self._routes = wanted
        self._journal.write()

    async def _set_route(self, route: NetRoute) -> None:
        if route not in self._routes:
            self._routes.append(route)  # before it is set: `down` shall find it whatever happens
        there = await self._netconf.routes(route.table, route.family)
        self._journal.changes.note_route(next((each for each in there if each.key == route.key), None), route)
        self._journal.write()
        await self._netconf.replace_route(route)

    async def _detour(self, detour: Detour) -> NetRoute | None:
        """The route around the tunnel that `detour` means; None, and a warning, if the machine has no such way."""
        own = self._tun.name if self._tun is not None else None
        via, dev = detour.via, None
        if via is not None:
            way = await self._netconf.route_to(via)
            dev = way.dev if way is not None and way.via is None else None
        else:
            version = 4 if detour.network is None else detour.network.version
            for route in await self._netconf.default_routes():
                if route.dev != own and route.network.version == version:
                    via, dev = route.via, route.dev
                    break
        network = detour.network or (ip_network(via) if via is not None else None)
        if network is None or dev in (None, own):
            _log.warning("the route to %s around the tunnel cannot be set", detour.network or "net_gateway")
            return None
        if via is not None and network == ip_network(via):
            via = None  # the gateway itself is a neighbour
        return NetRoute(network, dev=dev, via=via, metric=detour.metric)


def _everything(settings: TunnelSettings) -> bool:
    return settings.redirect is not None and "!ipv4" not in settings.redirect


def _is_neighbourhood(route: NetRoute) -> bool:
    network = route.network
    return route.via is None and 0 < network.prefixlen < network.max_prefixlen and not network.is_link_local

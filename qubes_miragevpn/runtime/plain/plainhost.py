# SPDX-License-Identifier: BSD-2-Clause
"""A plain Linux machine as the host of a tunnel: `PlainHost` for a client, `ServerHost` for a server.

Routes go to the main table, resolvers to systemd-resolved where that runs. Every change is journalled and undone by
`close`. While the tunnel is down the machine uses its own routes, in the clear, as any VPN client's does: the
fail-closed host is the qube's.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, ip_network
from pathlib import Path

from qubes_miragevpn.base.errors import MirageError, PeerError
from qubes_miragevpn.config.model import Credentials, Dns, Family, ServerConfig, TunnelSettings
from qubes_miragevpn.runtime import resolver
from qubes_miragevpn.runtime.netlink.netconf import NetAddress, Netconf, NetRoute
from qubes_miragevpn.runtime.plain.plainroutes import tunnel_routes
from qubes_miragevpn.runtime.tun import Tun, open_tun

TUN_QUEUE = 1000  # packets that wait in the kernel while the data plane is busy
RESOLVECTL_TIMEOUT = 5.0
_RESOLVED = Path("/run/systemd/resolve")

_log = logging.getLogger("miragevpn.host")

Ask = Callable[[str], Awaitable[Credentials | None]]


class PlainHost:
    """`TunnelHost` of a plain client. `dev` is the configuration's: "tun" takes the first free number."""

    mark = 0

    def __init__(self, dev: str, ask: Ask, *, keep_credentials: bool = True) -> None:
        self._dev = dev
        self._ask = ask
        self._keep = keep_credentials
        self._kept: Credentials | None = None
        self._net: Netconf | None = None
        self._tun: Tun | None = None
        self._routes: list[NetRoute] = []  # ours, that are in force
        self._remote: IPv4Address | IPv6Address | None = None
        self._way: NetRoute | None = None  # to the server, without the tunnel
        self._resolved = False

    async def resolve(self, host: str, family: Family) -> list[IPv4Address | IPv6Address]:
        """Ask the system's resolver."""
        return await resolver.resolve(host, family)

    async def connecting(self, remote: str) -> None:
        """Nothing to prepare; the machine itself says in the log whom it tries."""

    async def before_transport(self, address: IPv4Address | IPv6Address) -> None:
        """Remember how the server is reached now; if the tunnel's routes are still there, lead around them."""
        self._remote = address
        self._way = await self._way_to(address)
        if self._routes and self._way is not None and self._way not in self._routes:
            await self._netconf.replace_route(self._way)
            self._routes.append(self._way)

    async def up(self, settings: TunnelSettings) -> int:
        """Open the TUN, apply everything; return the TUN's descriptor."""
        if settings.ipv4 is None and settings.ipv6 is None:
            raise PeerError("the server gave the tunnel no address")
        if self._tun is None:
            self._tun = open_tun("tun%d" if self._dev == "tun" else self._dev)
        settings = _without_missing_ipv6(settings, self._tun.name)
        await _configure(self._netconf, self._tun.name, settings)
        await self._set_routes(settings)
        await self._set_dns(settings.dns, everything=settings.redirect is not None)
        return self._tun.fd

    async def down(self, reason: str) -> None:
        """Take routes and DNS away; TUN and addresses stay."""
        await self._unset_dns()
        while self._routes:
            await self._netconf.restore_route(self._routes.pop())

    async def close(self) -> None:
        """Undo everything. A later `up` begins anew."""
        await self._unset_dns()
        self._routes.clear()
        net, self._net = self._net, None
        tun, self._tun = self._tun, None
        try:
            if net is not None:
                await net.undo()
                await net.close()
        finally:
            if tun is not None:
                tun.close()

    async def credentials(self, again: str) -> Credentials | None:
        """Those kept from last time, unless they were refused; else ask."""
        if again or self._kept is None:
            given = await self._ask(again)
            if not self._keep:
                return given
            self._kept = given
        return self._kept

    @property
    def _netconf(self) -> Netconf:
        if self._net is None:
            self._net = Netconf()
        return self._net

    async def _way_to(self, address: IPv4Address | IPv6Address) -> NetRoute | None:
        own = self._tun.name if self._tun is not None else None
        way = await self._netconf.route_to(address)
        if way is None or way.dev != own:
            return way and NetRoute(way.network, dev=way.dev, via=way.via)
        # our own routes lead there; past them there is the machine's default
        for route in await self._netconf.default_routes(way.family):
            if route.dev != own:
                return NetRoute(ip_network(address), dev=route.dev, via=route.via)
        return None

    async def _set_routes(self, settings: TunnelSettings) -> None:
        assert self._tun is not None
        neighbours = []
        if self._way is not None and settings.redirect is not None and "block-local" in settings.redirect:
            there = await self._netconf.routes()
            neighbours = [route for route in there if route.dev == self._way.dev and _is_neighbourhood(route)]
        wanted = tunnel_routes(settings, self._tun.name, way=self._way, neighbours=neighbours)
        stale = [route for route in self._routes if route.key not in {each.key for each in wanted}]
        for route in wanted:
            if route not in self._routes:
                self._routes.append(route)  # before it is set: `down` shall find it whatever happens
            await self._netconf.replace_route(route)
        for route in stale:
            await self._netconf.restore_route(route)
        self._routes = wanted

    async def _set_dns(self, dns: Dns, *, everything: bool) -> None:
        assert self._tun is not None
        if not dns.servers and not dns.search:
            await self._unset_dns()
            return
        servers = [str(server) for server in dns.servers]
        # "~." makes systemd-resolved ask these servers about every name (resolvectl(1))
        domains = [*dns.search, *(["~."] if everything and servers else [])]
        name = self._tun.name
        self._resolved = _resolved_runs()
        if not self._resolved:
            _log.info("the server offers resolvers: %s", " ".join([*servers, *dns.search]))
        elif not (await _resolvectl("dns", name, *servers) and await _resolvectl("domain", name, *domains)):
            _log.warning("systemd-resolved did not take the tunnel's resolvers: %s", " ".join(servers))

    async def _unset_dns(self) -> None:
        if self._resolved and self._tun is not None:
            self._resolved = False
            await _resolvectl("revert", self._tun.name)


class ServerHost:
    """A server's TUN with the first address of its network."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._net = Netconf()
        self._tun: Tun | None = None

    async def up(self) -> tuple[int, str]:
        """Open and configure it; return its descriptor and name."""
        dev, network = self._config.common.dev, self._config.network
        self._tun = open_tun("tun%d" if dev == "tun" else dev)
        address = IPv4Interface((network.network_address + 1, network.prefixlen))
        await _configure(self._net, self._tun.name, TunnelSettings(ipv4=address, mtu=self._config.common.tun_mtu))
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


async def _configure(net: Netconf, name: str, settings: TunnelSettings) -> None:
    """Give the TUN MTU and addresses, and nothing else than these addresses, and bring it up."""
    wanted = []
    if settings.ipv4 is not None:
        wanted.append(NetAddress(name, settings.ipv4, settings.ipv4_peer))
    if settings.ipv6 is not None:
        wanted.append(NetAddress(name, settings.ipv6))
    await net.set_link(name, mtu=settings.mtu, txqueuelen=TUN_QUEUE)
    for address in await net.addresses(name):
        if address not in wanted and not address.interface.ip.is_link_local:
            await net.remove_address(address)
    await net.set_link(name, up=True)
    for address in wanted:
        await net.replace_address(address)


def _without_missing_ipv6(settings: TunnelSettings, name: str) -> TunnelSettings:
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


def _is_neighbourhood(route: NetRoute) -> bool:
    network = route.network
    return route.via is None and 0 < network.prefixlen < network.max_prefixlen and not network.is_link_local


def _resolved_runs() -> bool:
    return _RESOLVED.is_dir() and shutil.which("resolvectl") is not None


async def _resolvectl(command: str, *words: str) -> bool:
    """Run resolvectl; True if it did what it should."""
    try:
        process = await asyncio.create_subprocess_exec(
            "resolvectl",
            command,
            "--",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(RESOLVECTL_TIMEOUT):
                return await process.wait() == 0
        except BaseException:
            process.kill()
            raise
    except (OSError, MirageError):
        return False

# SPDX-License-Identifier: BSD-2-Clause
"""The VPN qube as the host of one tunnel (see `runtime.driving.host.TunnelHost`).

`up` opens in this order: TUN, addresses, resolv.conf, routes, and the firewall last; `down` closes the firewall
first. Addresses are given to the TUN without their network, so that the main table learns no route into the
tunnel, and the tunnel's own table gets its default whatever was pushed: behind a VPN qube everything goes through
the tunnel or nowhere, also when the server asks for a few routes only. Addresses that belong to Qubes are
refused.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Protocol

from qubes_miragevpn.base.errors import MirageError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Credentials, Family, TunnelSettings
from qubes_miragevpn.qube import dns
from qubes_miragevpn.qube.firewall.uplink import Uplink, is_host
from qubes_miragevpn.qube.ranges import reserved
from qubes_miragevpn.qube.resolver import Resolver
from qubes_miragevpn.qube.settings import TRANSPORT_MARK
from qubes_miragevpn.qube.states import Live, State
from qubes_miragevpn.runtime.netlink.netconf import NetAddress, Netconf
from qubes_miragevpn.runtime.tun import Tun, open_tun

_log = logging.getLogger("miragevpn.tunnel")


class Enter(Protocol):
    """Go to a state: what it demands is in force when this returns."""

    async def __call__(self, state: State, live: Live | None = None, reason: str = "") -> None: ...


class QubeHost:
    """One tunnel's interface, addresses and DNS; its state's demands are `enter`'s to carry out."""

    mark = TRANSPORT_MARK

    def __init__(
        self,
        name: str,
        *,
        netconf: Netconf,
        uplink: Uplink,
        resolver: Resolver,
        resolv_conf: dns.ResolvConf,
        fallback: tuple[IPv4Address | IPv6Address, ...],
        enter: Enter,
        ask: Callable[[], Credentials | None],
        question: Callable[[str], Awaitable[Secret | None]],
        open_device: Callable[[str], Tun] = open_tun,
    ) -> None:
        self._name = name
        self._netconf = netconf
        self._uplink = uplink
        self._resolver = resolver
        self._resolv_conf = resolv_conf
        self._fallback = fallback
        self._enter: Callable[..., Awaitable[None]] = enter
        self._ask = ask
        self._question = question
        self._open_device = open_device
        self._tun: Tun | None = None
        self._open = False

    async def resolve(self, host: str, family: Family) -> list[IPv4Address | IPv6Address]:
        """Ask the uplink's resolvers from a marked socket."""
        return await self._resolver.resolve(host, family)

    async def connecting(self, remote: str) -> None:
        """The machine has logged it; the remote's address is for root's log only, never for a status."""
        _log.debug("opening a transport to %s", printable(remote, 80))

    async def before_transport(self, address: IPv4Address | IPv6Address) -> None:
        """A host route in the table of the marked sockets."""
        if reserved(address):
            raise OSError(errno.EADDRNOTAVAIL, "the server's address is not one that a server may have")
        await self._uplink.pin(address, self._name)

    async def up(self, settings: TunnelSettings) -> int:
        """Open the way through the tunnel; return the TUN's descriptor."""
        live = self._live(settings)
        if taken := await self._taken() & set(live.addresses):
            _log.error("the server gave the tunnel an address that is in use here: %s", ", ".join(map(str, taken)))
            raise PeerError("the server gave the tunnel an address that is in use here")
        await self._shut("the tunnel's settings change")
        if self._tun is None:
            self._tun = self._open_device(self._name)
        await self._configure(live, settings.mtu, self._tun.queue)
        await self._resolv_conf.write(self._name, live.resolvers)
        self._open = True
        await self._enter(State.CONNECTED, live)
        return self._tun.fd

    def _live(self, settings: TunnelSettings) -> Live:
        """What of the settings holds; raises `PeerError` if there is no address to use."""
        interfaces: list[IPv4Interface | IPv6Interface] = [
            each for each in (settings.ipv4, None if settings.block_ipv6 else settings.ipv6) if each is not None
        ]
        for interface in interfaces:
            if reserved(interface.ip):
                raise PeerError("the server gave the tunnel an address that belongs to this machine or to Qubes")
        if not interfaces:
            raise PeerError("the server gave the tunnel no address")
        addresses = tuple(interface.ip for interface in interfaces)
        carried = {address.version for address in addresses}
        resolvers = tuple(
            each
            for each in dns.choose(settings.dns, self._fallback)
            if each not in addresses and each.version in carried
        )
        if not resolvers:
            _log.warning("the server names no resolver that can be used: qubes behind this one cannot look names up")
        return Live(addresses, resolvers)

    async def _taken(self) -> set[IPv4Address | IPv6Address]:
        """Addresses that mean something here already: this machine's, those downstream, and the servers' own.

        A tunnel that took one would keep from their way the packets of the transport, or of another qube.
        """
        own = {each.interface.ip for each in await self._netconf.addresses() if each.dev != self._name}
        routes = [route for route in await self._netconf.routes() if route.dev != self._name]
        hosts = {route.network.network_address for route in routes if is_host(route.network)}
        return own | hosts | self._uplink.pinned

    async def _configure(self, live: Live, mtu: int, queue: int) -> None:
        name = self._name
        _without_router_discovery(name)
        await self._netconf.set_link(name, mtu=mtu, txqueuelen=queue)
        wanted = [NetAddress(name, _alone(address)) for address in live.addresses]
        for address in await self._netconf.addresses(name):
            if address not in wanted and not address.interface.ip.is_link_local:
                await self._netconf.remove_address(address)
        await self._netconf.set_link(name, up=True)
        for address in wanted:
            await self._netconf.replace_address(address)

    async def down(self, reason: str) -> None:
        """Close; the TUN stays for the next attempt."""
        await self._shut(reason)

    async def _shut(self, reason: str) -> None:
        if self._open:
            await self._enter(State.CONNECTING, reason=reason)
            self._open = False

    async def close(self) -> None:
        """Close, and take the TUN, the host routes and resolv.conf's entries away."""
        try:
            await self._shut("the tunnel ends")
        finally:
            if self._tun is not None:
                self._tun.close()
                self._tun = None
            await self._resolv_conf.restore(self._name)
            with contextlib.suppress(MirageError):
                await self._uplink.unpin(self._name)

    async def credentials(self, again: str) -> Credentials | None:
        """From the credentials' directory. The same again, once refused, would only lock the account."""
        if again:
            _log.error("the server refused user name and password: %s", printable(again))
            return None
        return self._ask()

    async def proxy_credentials(self, proxy: str, again: str) -> Credentials | None:
        """Two questions, each shown to those who may see it and answered by one of them."""
        before = f"{again}: " if again else ""
        name = await self._question(f"{before}user name for {proxy}")
        if name is None or not name.reveal():
            return None
        password = await self._question(f"password for {proxy}")
        return None if password is None else Credentials(name.reveal().decode("utf-8", "surrogateescape"), password)

    async def challenge(self, text: str, *, echo: bool) -> Secret | None:
        """Nobody sits at this qube: the question is shown to those who may see it, and one of them answers.

        It says whose it is: a server must not get the private key's password by asking for that in our words.
        """
        return await self._question(f"the server asks: {text}")


def _alone(address: IPv4Address | IPv6Address) -> IPv4Interface | IPv6Interface:
    return IPv4Interface(address) if isinstance(address, IPv4Address) else IPv6Interface(address)


def _without_router_discovery(name: str) -> None:
    """The far end of the tunnel is no router to take orders from, and gets no link-local address of ours to see."""
    for setting, value in (("accept_ra", "0"), ("addr_gen_mode", "1"), ("accept_redirects", "0")):
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv6/conf/{name}/{setting}").write_text(value)

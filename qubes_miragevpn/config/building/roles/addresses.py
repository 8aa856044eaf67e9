# SPDX-License-Identifier: BSD-2-Clause
"""What a server of many says of addresses: its networks, its own address in each, and which ones it gives.

Each family has a short form (``server``, ``server-bridge``, ``server-ipv6``) and a long one, of which the short one is
made (``ifconfig`` and ``ifconfig-pool``, ``ifconfig-ipv6`` and ``ifconfig-ipv6-pool``). Source: OpenVPN helper.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.inner import MIN_MTU_IPV6, Unusable, demand_unicast
from qubes_miragevpn.config.model import Bridge
from qubes_miragevpn.config.reading.collect import Entry, Settings
from qubes_miragevpn.config.rows.arguments import netmask_length
from qubes_miragevpn.config.rows.serving import NOGW

WIDEST_NETWORK, NARROWEST_NETWORK = 16, 29  # prefix lengths that openvpn's `server` takes
NARROWEST_OF_FRAMES = 30  # with ``dev tap``
NARROWEST_OF_PAIRS = 28  # without ``topology subnet``: the first and the last four addresses are not given
WIDEST_ONLINK = 8  # what our client takes for a network of the link
WIDEST_NETWORK6, NARROWEST_NETWORK6 = 64, 124  # those of ``server-ipv6``
MOST = 1 << 16  # addresses of a pool, as in the widest network


@dataclass(frozen=True)
class Inside:
    """The fields of `ServerConfig` that are called so."""

    network: IPv4Network | None = None
    own: IPv4Address | None = None
    pool: tuple[IPv4Address, ...] | None = ()
    bridge: Bridge | None = None


@dataclass(frozen=True)
class Inside6:
    """The same for IPv6."""

    network: IPv6Network | None = None
    own: IPv6Address | None = None
    pool: tuple[IPv6Address, ...] | None = None


def addresses(builder: Builder, *, ethernet: bool) -> Inside:
    """IPv4; the rules have seen to it that something is there. Raises `ConfigError`."""
    settings = builder.settings
    short = settings.last("server") or settings.last("server-bridge")
    own, pool = settings.last("ifconfig"), settings.last("ifconfig-pool")
    if short is not None:
        if own is not None:
            builder.findings.warn(own.warning(f"'ifconfig' has no effect beside '{short.row.name}'"))
        return _bridged(short) if short.row.name == "server-bridge" else _served(short, settings, ethernet=ethernet)
    if own is None and pool is None:
        others = ethernet and not settings.has("server-ipv6") and not settings.has("ifconfig-ipv6")
        return Inside(bridge=Bridge(dhcp_gateway=False) if others else None)
    if own is None:
        assert pool is not None
        return _bridged_pool(pool, ethernet=ethernet)
    if not ethernet and settings.value("topology", "subnet") != "subnet":
        raise own.error("'ifconfig' of a server needs 'topology subnet'", "write 'server NETWORK NETMASK nopool'")
    local, mask = own.args
    try:
        network = IPv4Network((local, netmask_length(mask)), strict=False)
    except ValueError:
        raise own.error(f"'ifconfig' of a server needs a netmask, not {mask}", "write it as 255.255.255.0") from None
    _place(own, network, local, local, local)
    return Inside(network, local, () if pool is None else _pool(pool, network, local))


def _served(entry: Entry, settings: Settings, *, ethernet: bool) -> Inside:
    """``server``."""
    pairs = not ethernet and settings.value("topology", "subnet") != "subnet"
    network = _network(entry, NARROWEST_OF_PAIRS if pairs else NARROWEST_OF_FRAMES if ethernet else NARROWEST_NETWORK)
    pool, nopool = settings.last("ifconfig-pool"), entry.args[2]
    if pool is None:
        return Inside(network, pool=() if nopool else None)
    if not nopool:
        raise pool.error("'server' has a pool already", "write 'server NETWORK NETMASK nopool'")
    return Inside(network, pool=_pool(pool, network, network.network_address + 1))


def _pool(entry: Entry, network: IPv4Network, own: IPv4Address) -> tuple[IPv4Address, ...]:
    first, last, length = entry.args
    if length not in (None, network.prefixlen):
        raise entry.error(f"the netmask of 'ifconfig-pool' is not that of {network}", "leave it out")
    _place(entry, network, own, first, last)
    return (first, last)


def _bridged_pool(entry: Entry, *, ethernet: bool) -> Inside:
    """``ifconfig-pool`` alone: addresses of a network that a bridge is in, of which nothing else is said."""
    first, last, length = entry.args
    if not ethernet:
        raise entry.error("'ifconfig-pool' needs the server's own address", "write 'ifconfig 10.8.0.1 255.255.255.0'")
    if length is None:
        raise entry.error("'ifconfig-pool' without 'ifconfig' needs a netmask", "write it behind the two addresses")
    network = IPv4Network((first, length), strict=False)
    _place(entry, network, None, first, last)
    return Inside(network, pool=(first, last), bridge=Bridge(dhcp_gateway=False))


def _bridged(entry: Entry) -> Inside:
    """``server-bridge``."""
    gateway, length, first, last = entry.args
    if first is None:
        return Inside(bridge=Bridge(dhcp_gateway=gateway != NOGW))
    network = IPv4Network((gateway, length), strict=False)
    _place(entry, network, gateway, first, last)
    return Inside(network, pool=(first, last), bridge=Bridge(gateway))


def _place(
    entry: Entry, network: IPv4Network, own: IPv4Address | None, first: IPv4Address, last: IPv4Address
) -> None:
    """Raise `ConfigError` unless these are addresses of machines in that network, and `own` is not to be given."""
    problem = next(_misplaced(network, own, first, last), None)
    if problem is not None:
        raise entry.error(problem, f"write addresses of one network, such as '{_EXAMPLES[entry.row.name]}'")


_EXAMPLES = {
    "ifconfig": "ifconfig 10.8.0.1 255.255.255.0",
    "ifconfig-pool": "ifconfig-pool 10.8.0.2 10.8.0.254",
    "server-bridge": "server-bridge 10.8.0.4 255.255.255.0 10.8.0.128 10.8.0.254",
}


def _misplaced(
    network: IPv4Network, own: IPv4Address | None, first: IPv4Address, last: IPv4Address
) -> Iterator[str]:
    if network.prefixlen < WIDEST_ONLINK:
        yield f"{network} is larger than 10.0.0.0/8"
    for address in filter(None, (own, first, last)):
        try:
            demand_unicast(address)
        except Unusable as error:
            yield str(error)
        if address not in network or address in (network.network_address, network.broadcast_address):
            yield f"{address} is not the address of one machine in {network}"
    if first > last:
        yield f"the pool ends before it begins: {last} comes before {first}"
    if own is not None and first <= own <= last and (first, last) != (own, own):
        yield f"{own}, which is no client's, is one of the addresses to give"
    if int(last) - int(first) >= MOST:
        yield f"more than {MOST} addresses are to be given"


def _network(entry: Entry, narrowest: int) -> IPv4Network:
    address, length, _ = entry.args
    if not WIDEST_NETWORK <= length <= narrowest:
        raise entry.error(
            f"the network of 'server' must be from /{WIDEST_NETWORK} to /{narrowest}",
            "write 'server 10.8.0.0 255.255.255.0'",
        )
    network = IPv4Network((address, length), strict=False)
    if network.network_address != address:
        raise entry.error(
            f"{address} is not the first address of its network",
            f"write 'server {network.network_address} {network.netmask}'",
        )
    if network.is_multicast or network.is_loopback or network.is_reserved or network.is_unspecified:
        raise entry.error("these addresses cannot be given to clients", "write 'server 10.8.0.0 255.255.255.0'")
    return network


# --- IPv6


def addresses6(builder: Builder, mtu: int) -> Inside6:
    """IPv6, if there is any. Raises `ConfigError`."""
    settings = builder.settings
    short, own, pool = (settings.last(name) for name in ("server-ipv6", "ifconfig-ipv6", "ifconfig-ipv6-pool"))
    entry = short or own
    if entry is None:
        if pool is not None:
            raise pool.error("'ifconfig-ipv6-pool' needs 'ifconfig-ipv6'", "write 'server-ipv6 fd42:8::/64' instead")
        return Inside6()
    if mtu < MIN_MTU_IPV6:
        raise entry.error(f"'tun-mtu {mtu}' is too small for IPv6", f"write 'tun-mtu {MIN_MTU_IPV6}' or more")
    if short is not None:
        if pool is not None:
            raise pool.error("'server-ipv6' has a pool already", "keep one of them")
        if own is not None:
            builder.findings.warn(own.warning("'ifconfig-ipv6' has no effect beside 'server-ipv6'"))
        return Inside6(_network6(short))
    given: IPv6Interface = entry.args[0]
    _demand_unicast(entry, given.ip)
    return Inside6(given.network, given.ip, () if pool is None else _pool6(pool, given))


def _pool6(entry: Entry, own: IPv6Interface) -> tuple[IPv6Address, ...]:
    first: IPv6Interface = entry.args[0]
    _demand_wide(entry, first.network)
    if first.network != own.network:
        raise entry.error(f"{first} is not in the network of 'ifconfig-ipv6'", f"write one of {own.network}")
    if first.ip <= own.ip < first.ip + MOST:
        raise entry.error(f"the server's own address {own.ip} is one of those to give", "begin behind it")
    _demand_unicast(entry, first.ip)
    return (first.ip,)


def _network6(entry: Entry) -> IPv6Network:
    given: IPv6Interface = entry.args[0]
    network = given.network
    _demand_wide(entry, network)
    if network.network_address != given.ip:
        raise entry.error(f"{given.ip} is not the first address of its network", f"write 'server-ipv6 {network}'")
    _demand_unicast(entry, network.network_address + 1)
    return network


def _demand_wide(entry: Entry, network: IPv6Network) -> None:
    if not WIDEST_NETWORK6 <= network.prefixlen <= NARROWEST_NETWORK6:
        wide = f"the network of '{entry.row.name}' must be from /{WIDEST_NETWORK6} to /{NARROWEST_NETWORK6}"
        raise entry.error(wide, "write 'server-ipv6 fd42:8::/64'")


def _demand_unicast(entry: Entry, address: IPv6Address) -> None:
    try:
        demand_unicast(address)
    except Unusable as error:
        problem = f"these addresses cannot be given to clients: {error}"
        raise entry.error(problem, "write 'server-ipv6 fd42:8::/64'") from None

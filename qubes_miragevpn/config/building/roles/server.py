# SPDX-License-Identifier: BSD-2-Clause
"""Settings to a `ServerConfig`: its network, whom it lets in, what it tells the operator's tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.inner import MIN_MTU_IPV6, Unusable, demand_unicast
from qubes_miragevpn.config.building.roles.client import routes
from qubes_miragevpn.config.building.roles.listening import places
from qubes_miragevpn.config.building.roles.logins import logins
from qubes_miragevpn.config.model import (
    Bridge,
    ClientDir,
    Frequency,
    LandmarkRoute,
    Operating,
    OutputFile,
    Route,
    ServerConfig,
)
from qubes_miragevpn.config.reading.collect import Entry, Settings
from qubes_miragevpn.config.rows.serving import NOGW

WIDEST_NETWORK, NARROWEST_NETWORK = 16, 29  # prefix lengths that openvpn's `server` takes
WIDEST_NETWORK6, NARROWEST_NETWORK6 = 64, 124  # and `server-ipv6`
WIDEST_BRIDGED = 8  # what our client takes for a network of the link
MOST = 1 << 16  # addresses of a pool, as in the widest network
NARROWEST_OF_FRAMES = 30  # with ``dev tap``
NARROWEST_OF_PAIRS = 28  # the same without ``topology subnet``: the first and the last four addresses are not given
STATUS_PERIOD, METRICS_PERIOD = 60.0, 15.0  # seconds; the first is openvpn's
PERSIST_PERIOD = 600.0  # as openvpn's


def server(builder: Builder) -> ServerConfig:
    """A server of many clients. Raises `ConfigError`."""
    settings = builder.settings
    keepalive = settings.last("keepalive")
    said = () if keepalive is None else (f"ping {keepalive.args[0]:g}", f"ping-restart {keepalive.args[1]:g}")
    common = builder.common(server=True)
    first, *others = places(settings)
    network, pool, bridge = _addresses(settings, ethernet=common.ethernet)
    own = settings.fields(ServerConfig)
    if common.ethernet:
        own["topology"] = "subnet"  # the only one that frames have
    return ServerConfig(
        common=common,
        listen=first,
        beside=tuple(others),
        first_packets=_frequency(settings, "connect-freq-initial") or ServerConfig.first_packets,
        new_clients=_frequency(settings, "connect-freq"),
        network=network,
        bridge=bridge,
        network6=_network6(settings.last("server-ipv6"), common.tun_mtu),
        push=(*said, *(pushed.args[0] for pushed in settings.all("push"))),
        operating=_operating(settings),
        pool=pool,
        persist=_persist(settings.last("ifconfig-pool-persist")),
        nat=None if (nat := settings.last("nat")) is None else nat.args[0] or "",
        client_dir=_client_dir(settings),
        routes=_inward(builder, ethernet=common.ethernet),
        login=logins(settings, builder.read_file, common.timers.reneg_sec),
        **own,
    )


_Addresses = tuple[IPv4Network | None, tuple[IPv4Address, ...] | None, Bridge | None]
"""Network, pool, bridge: as the fields of `ServerConfig`."""


def _addresses(settings: Settings, *, ethernet: bool) -> _Addresses:
    """What ``server`` or ``server-bridge`` says; the rules have seen to it that one of them is there, in its form."""
    entry = settings.last("server-bridge")
    if entry is not None:
        return _bridged(entry)
    entry = settings.last("server")
    assert entry is not None
    of_subnet = NARROWEST_OF_FRAMES if ethernet else NARROWEST_NETWORK
    pairs = not ethernet and settings.value("topology", "subnet") != "subnet"
    network = _network(entry, NARROWEST_OF_PAIRS if pairs else of_subnet)
    return network, _pool(entry, settings.last("ifconfig-pool")), None


def _bridged(entry: Entry) -> _Addresses:
    gateway, length, first, last = entry.args
    if first is None:
        return None, (), Bridge(dhcp_gateway=gateway != NOGW)
    network = IPv4Network((gateway, length), strict=False)
    problem = next(_misplaced(network, gateway, first, last), None)
    if problem is not None:
        raise entry.error(problem, f"write '{entry.row.name} GATEWAY NETMASK FIRST LAST', all of one network")
    return network, (first, last), Bridge(gateway)


def _misplaced(network: IPv4Network, gateway: IPv4Address, first: IPv4Address, last: IPv4Address) -> Iterator[str]:
    if network.prefixlen < WIDEST_BRIDGED:
        yield f"{network} is larger than 10.0.0.0/8"
    for address in (gateway, first, last):
        try:
            demand_unicast(address)
        except Unusable as error:
            yield str(error)
        if address not in network or address in (network.network_address, network.broadcast_address):
            yield f"{address} is not the address of one machine in {network}"
    if first > last:
        yield f"the pool ends before it begins: {last} comes before {first}"
    if first <= gateway <= last:
        yield f"the gateway {gateway} is one of the addresses to give"
    if int(last) - int(first) >= MOST:
        yield f"more than {MOST} addresses are to be given"


def _pool(server_line: Entry, entry: Entry | None) -> tuple[IPv4Address, ...] | None:
    address, length, nopool = server_line.args
    if entry is None:
        return () if nopool else None
    if not nopool:
        raise entry.error("'server' has a pool already", "write 'server NETWORK NETMASK nopool'")
    network = IPv4Network((address, length), strict=False)
    first, last, other = entry.args
    hosts = range(int(network.network_address) + 2, int(network.broadcast_address))
    if first > last or int(first) not in hosts or int(last) not in hosts:
        raise entry.error(f"the pool must lie in {network}, behind the server's address", f"write '{_whole(network)}'")
    if other not in (None, length):
        raise entry.error("the netmask of 'ifconfig-pool' is not that of 'server'", "leave it out")
    return (first, last)


def _whole(network: IPv4Network) -> str:
    return f"ifconfig-pool {network.network_address + 2} {network.broadcast_address - 1}"


def _persist(entry: Entry | None) -> OutputFile | None:
    if entry is None:
        return None
    path, period = entry.args
    return OutputFile(path, PERSIST_PERIOD if period is None else period)


def _client_dir(settings: Settings) -> ClientDir | None:
    entry, exclusive = settings.last("client-config-dir"), settings.last("ccd-exclusive")
    if entry is None and exclusive is not None:
        raise exclusive.error("'ccd-exclusive' needs 'client-config-dir'", "write 'client-config-dir DIRECTORY'")
    return None if entry is None else ClientDir(entry.args[0], exclusive is not None)


def _inward(builder: Builder, *, ethernet: bool) -> tuple[Route, ...]:
    """Routes of the server's machine into its tunnel, where no gateway counts: clients' files say who has what.

    Frames go to a neighbour, so that with a TAP it is the gateway alone that counts.
    """
    found = routes(builder)
    if ethernet:
        for entry in (*builder.settings.all("route"), *builder.settings.all("route-ipv6")):
            if not isinstance(entry.args[-2], IPv4Address | IPv6Address):
                problem = f"a '{entry.row.name}' into a TAP needs a gateway"
                raise entry.error(problem, "write the client's address behind it")
    if any(isinstance(each, LandmarkRoute) for each in found):
        builder.findings.warn("a server's routes lead into its tunnel: those around it have no effect")
    inward = (each for each in found if isinstance(each, Route))
    return tuple(each if ethernet else replace(each, gateway=None) for each in inward)


def _frequency(settings: Settings, name: str) -> Frequency | None:
    entry = settings.last(name)
    return None if entry is None else Frequency(*entry.args)


def _operating(settings: Settings) -> Operating:
    def file(name: str, period: float) -> OutputFile | None:
        entry = settings.last(name)
        return None if entry is None else OutputFile(entry.args[0], entry.args[1] or period)

    return Operating(
        status=file("status", STATUS_PERIOD),
        metrics=file("metrics", METRICS_PERIOD),
        management=settings.value("management"),
        **settings.fields(Operating),
    )


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


def _network6(entry: Entry | None, mtu: int) -> IPv6Network | None:
    if entry is None:
        return None
    if mtu < MIN_MTU_IPV6:
        raise entry.error(f"'tun-mtu {mtu}' is too small for IPv6", f"write 'tun-mtu {MIN_MTU_IPV6}' or more")
    given: IPv6Interface = entry.args[0]
    network, example = given.network, "write 'server-ipv6 fd42:8::/64'"
    if not WIDEST_NETWORK6 <= network.prefixlen <= NARROWEST_NETWORK6:
        wide = f"the network of 'server-ipv6' must be from /{WIDEST_NETWORK6} to /{NARROWEST_NETWORK6}"
        raise entry.error(wide, example)
    if network.network_address != given.ip:
        raise entry.error(f"{given.ip} is not the first address of its network", f"write 'server-ipv6 {network}'")
    try:
        demand_unicast(network.network_address + 1)
    except Unusable as error:
        raise entry.error(f"these addresses cannot be given to clients: {error}", example) from None
    return network

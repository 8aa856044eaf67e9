# SPDX-License-Identifier: BSD-2-Clause
"""Settings to a `ServerConfig`: its network, whom it lets in, what it tells the operator's tools."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Interface, IPv6Network

from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.inner import MIN_MTU_IPV6, Unusable, demand_unicast
from qubes_miragevpn.config.building.roles.client import routes
from qubes_miragevpn.config.building.roles.listening import places
from qubes_miragevpn.config.building.roles.logins import logins
from qubes_miragevpn.config.model import ClientDir, Frequency, LandmarkRoute, Operating, OutputFile, Route, ServerConfig
from qubes_miragevpn.config.reading.collect import Entry, Settings

WIDEST_NETWORK, NARROWEST_NETWORK = 16, 29  # prefix lengths that openvpn's `server` takes
WIDEST_NETWORK6, NARROWEST_NETWORK6 = 64, 124  # and `server-ipv6`
NARROWEST_OF_PAIRS = 28  # the same without ``topology subnet``: the first and the last four addresses are not given
STATUS_PERIOD, METRICS_PERIOD = 60.0, 15.0  # seconds; the first is openvpn's
PERSIST_PERIOD = 600.0  # as openvpn's


def server(builder: Builder) -> ServerConfig:
    """A server of many clients. Raises `ConfigError`."""
    settings = builder.settings
    entry = settings.last("server")
    assert entry is not None  # the rules have seen to it
    keepalive = settings.last("keepalive")
    said = () if keepalive is None else (f"ping {keepalive.args[0]:g}", f"ping-restart {keepalive.args[1]:g}")
    common = builder.common(server=True)
    first, *others = places(settings)
    return ServerConfig(
        common=common,
        listen=first,
        beside=tuple(others),
        first_packets=_frequency(settings, "connect-freq-initial") or ServerConfig.first_packets,
        new_clients=_frequency(settings, "connect-freq"),
        network=_network(entry, settings.value("topology", "subnet")),
        network6=_network6(settings.last("server-ipv6"), common.tun_mtu),
        push=(*said, *(pushed.args[0] for pushed in settings.all("push"))),
        operating=_operating(settings),
        pool=_pool(entry, settings.last("ifconfig-pool")),
        persist=_persist(settings.last("ifconfig-pool-persist")),
        nat=None if (nat := settings.last("nat")) is None else nat.args[0] or "",
        client_dir=_client_dir(settings),
        routes=_inward(builder),
        login=logins(settings, builder.read_file, common.timers.reneg_sec),
        **settings.fields(ServerConfig),
    )


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


def _inward(builder: Builder) -> tuple[Route, ...]:
    """Routes of the server's machine into its tunnel, where no gateway counts: clients' files say who has what."""
    found = routes(builder)
    if any(isinstance(each, LandmarkRoute) for each in found):
        builder.findings.warn("a server's routes lead into its tunnel: those around it have no effect")
    return tuple(replace(each, gateway=None) for each in found if isinstance(each, Route))


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


def _network(entry: Entry, topology: str) -> IPv4Network:
    address, length, _ = entry.args
    narrowest = NARROWEST_NETWORK if topology == "subnet" else NARROWEST_OF_PAIRS
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

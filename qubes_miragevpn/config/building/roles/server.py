# SPDX-License-Identifier: BSD-2-Clause
"""Settings to a `ServerConfig`: its network, whom it lets in, what it tells the operator's tools."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.config.building.common import Builder
from qubes_miragevpn.config.building.roles.addresses import addresses, addresses6
from qubes_miragevpn.config.building.roles.client import routes
from qubes_miragevpn.config.building.roles.listening import places
from qubes_miragevpn.config.building.roles.logins import logins
from qubes_miragevpn.config.model import (
    ClientDir,
    Frequency,
    LandmarkRoute,
    Operating,
    OutputFile,
    Route,
    ServerConfig,
)
from qubes_miragevpn.config.reading.collect import Entry, Settings

STATUS_PERIOD, METRICS_PERIOD = 60.0, 15.0  # seconds; the first is openvpn's
PERSIST_PERIOD = 600.0  # as openvpn's


def server(builder: Builder) -> ServerConfig:
    """A server of many clients. Raises `ConfigError`."""
    settings = builder.settings
    keepalive = settings.last("keepalive")
    said = () if keepalive is None else (f"ping {keepalive.args[0]:g}", f"ping-restart {keepalive.args[1]:g}")
    common = builder.common(server=True)
    first, *others = places(settings)
    filled = settings.fields(ServerConfig)
    if common.ethernet:
        filled["topology"] = "subnet"  # the only one that frames have
    four, six = addresses(builder, ethernet=common.ethernet), addresses6(builder, common.tun_mtu)
    return ServerConfig(
        common=common,
        listen=first,
        beside=tuple(others),
        first_packets=_frequency(settings, "connect-freq-initial") or ServerConfig.first_packets,
        new_clients=_frequency(settings, "connect-freq"),
        network=four.network,
        own=four.own,
        pool=four.pool,
        bridge=four.bridge,
        network6=six.network,
        own6=six.own,
        pool6=six.pool,
        push=(*said, *(pushed.args[0] for pushed in settings.all("push"))),
        operating=_operating(settings),
        persist=_persist(settings.last("ifconfig-pool-persist")),
        nat=None if (nat := settings.last("nat")) is None else nat.args[0] or "",
        client_dir=_client_dir(settings),
        routes=_inward(builder, ethernet=common.ethernet),
        login=logins(settings, builder.read_file, common.timers.reneg_sec),
        **filled,
    )


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

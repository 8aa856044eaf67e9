# SPDX-License-Identifier: BSD-2-Clause
"""A server's file for one client (``client-config-dir``) to `OneClient`. Source: OpenVPN's manual, options.c, multi.c.

Anything that is not for one client is an error with file and line: to leave a line out would let somebody in otherwise
than its author meant.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any

from qubes_miragevpn.config.building.inner import Unusable, demand_unicast
from qubes_miragevpn.config.model import OneClient
from qubes_miragevpn.config.reading.collect import Entry, Place, Settings, collect

_PUSHES = {"push": "push", "push-remove": "remove", "push-reset": "reset"}


def load_one_client(text: bytes, *, file: str) -> OneClient:
    """Read such a file; raises the first `ConfigError`."""
    settings, findings = collect(text, file=file, place=Place.SINGLE)
    if findings.errors:
        raise findings.errors[0]
    return OneClient(
        disabled=settings.has("disable"),
        ifconfig=_address(settings.last("ifconfig-push")),
        ifconfig6=_address(settings.last("ifconfig-ipv6-push")),
        networks=(
            *(_network(entry) for entry in settings.all("iroute")),
            *(_network6(entry) for entry in settings.all("iroute-ipv6")),
        ),
        pushes=_pushes(settings),
    )


def _address(entry: Entry | None) -> tuple[Any, Any] | None:
    if entry is None:
        return None
    address, other = entry.args
    try:
        demand_unicast(getattr(address, "ip", address))
    except Unusable as error:
        raise entry.error(f"this cannot be a client's address: {error}") from None
    return address, other


def _network(entry: Entry) -> IPv4Network:
    address, length = entry.args
    network = IPv4Network((address, 32 if length is None else length), strict=False)
    if network.network_address != address:
        raise entry.error(f"{address} is not the first address of its network", f"write {network.network_address}")
    return network


def _network6(entry: Entry) -> IPv6Network:
    network: IPv6Network = entry.args[0].network
    if network.network_address != entry.args[0].ip:
        raise entry.error(f"{entry.args[0].ip} is not the first address of its network", f"write {network}")
    return network


def _pushes(settings: Settings) -> tuple[tuple[str, str], ...]:
    found = [(entry, action) for name, action in _PUSHES.items() for entry in settings.all(name)]
    in_order = sorted(found, key=lambda each: each[0].number)
    return tuple((action, str(entry.args[0]) if entry.args else "") for entry, action in in_order)

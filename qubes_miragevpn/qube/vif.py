# SPDX-License-Identifier: BSD-2-Clause
"""Downstream interfaces: which there are, and which tunnel each may use.

netback's ``vif<domid>.<device>`` (qubes-core-agent-linux, vif-route-qubes). With one tunnel, firewall and rules
cover every vif by pattern and by catch-all, so that a new one works, or is closed, before anybody has noticed it; then
this module only knows who is there. With several tunnels a vif goes nowhere until it is assigned: by the addresses
whose host routes lead to it (vif-route-qubes sets them from what dom0 says), since those are what a qube keeps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.qube.firewall.routing import Assignment
from qubes_miragevpn.qube.firewall.table import VIF_NAME
from qubes_miragevpn.runtime.netlink.netconf import EventsLost, LinkEvent, NetEvent, NetLink, NetRoute

Address = IPv4Address | IPv6Address

_RTPROT_KERNEL = 2  # linux/rtnetlink.h

_log = logging.getLogger("miragevpn.vif")


def is_vif(untrusted_name: str) -> bool:
    """True if the name is that of a downstream interface."""
    return VIF_NAME.match(untrusted_name) is not None


def addresses(routes: Iterable[NetRoute]) -> dict[str, frozenset[Address]]:
    """The addresses behind each downstream interface, from the main table's host routes.

    Those that the kernel makes itself are not: they are for this qube's own address there (IPv6 alone has them).
    """
    found: dict[str, set[Address]] = {}
    for route in routes:
        host = route.network.prefixlen == route.network.max_prefixlen and route.proto != _RTPROT_KERNEL
        if host and route.via is None and route.dev is not None and is_vif(route.dev):
            found.setdefault(route.dev, set()).add(route.network.network_address)
    return {vif: frozenset(each) for vif, each in found.items()}


def assign(vifs: Mapping[str, frozenset[Address]], tunnels: Iterable[int], chosen: Mapping[Address, int]) -> Assignment:
    """Return which interfaces each tunnel serves; `vifs` are those present with their addresses.

    With tunnel 0 alone and nobody assigned elsewhere: all, present and to come. Otherwise those whose
    addresses were assigned to it, tunnel 0 also those that were not assigned. None serves an interface without an
    address, with addresses of different tunnels, or assigned to a tunnel that does not exist.
    """
    indexes = sorted(tunnels)
    if indexes == [0] and not any(chosen.values()):
        return {0: None}
    served: dict[int, set[str]] = {index: set() for index in indexes}
    for vif, present in vifs.items():
        wishes = {chosen[address] for address in present if address in chosen}
        if present and len(wishes) <= 1:
            served.get(next(iter(wishes), 0), set()).add(vif)
    return {index: frozenset(each) for index, each in served.items()}


class Downstream:
    """The downstream interfaces that are present; `changed` is called when one comes or goes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._present: dict[int, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """Who is there."""
        return frozenset(self._present.values())

    def seen(self, links: Iterable[NetLink]) -> None:
        """Take a whole list of interfaces as the truth."""
        self._replace({link.index: link.name for link in links if is_vif(link.name)})

    def event(self, event: NetEvent) -> bool:
        """Take in what the kernel tells; True if the whole list must be read again."""
        if isinstance(event, EventsLost):
            return True
        if isinstance(event, LinkEvent):
            present = dict(self._present)
            present.pop(event.link.index, None)
            if event.present and is_vif(event.link.name):
                present[event.link.index] = event.link.name
            self._replace(present)
        return False

    def _replace(self, present: dict[int, str]) -> None:
        before, after = set(self._present.values()), set(present.values())
        self._present = present
        for name in sorted(after - before):
            _log.info("%s is there", name)
        for name in sorted(before - after):
            _log.info("%s is gone", name)
        if before != after:
            self._changed()

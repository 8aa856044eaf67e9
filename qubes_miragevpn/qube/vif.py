# SPDX-License-Identifier: BSD-2-Clause
"""Downstream interfaces: which there are, and which tunnel each may use.

netback's ``vif<domid>.<device>`` (qubes-core-agent-linux, vif-route-qubes). With one tunnel, firewall and rules
cover every vif by pattern and by catch-all, so that a new one works, or is closed, before anybody has noticed it; then
this module only knows who is there. With several tunnels a vif goes nowhere until it is assigned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.qube.firewall.routing import Assignment
from qubes_miragevpn.qube.firewall.table import VIF_NAME
from qubes_miragevpn.runtime.netlink.netconf import EventsLost, LinkEvent, NetEvent, NetLink

_log = logging.getLogger("miragevpn.vif")


def is_vif(untrusted_name: str) -> bool:
    """True if the name is that of a downstream interface."""
    return VIF_NAME.match(untrusted_name) is not None


def assign(vifs: Iterable[str], tunnels: Iterable[int], chosen: Mapping[str, int]) -> Assignment:
    """Return which interfaces each tunnel serves: all with one tunnel, else the chosen ones and the rest by none."""
    indexes = sorted(tunnels)
    if len(indexes) == 1:
        return {indexes[0]: None}
    if any(index not in indexes for index in chosen.values()):
        raise MisuseError("an interface is assigned to a tunnel that does not exist")
    return {index: frozenset(vif for vif in vifs if chosen.get(vif) == index) for index in indexes}


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

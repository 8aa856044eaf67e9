# SPDX-License-Identifier: BSD-2-Clause
"""Noticing that the machine's own way to the server has changed, or is back, and asking for a new connection at once.

Without it a client finds out by silence (ping-restart), a minute or two later. Watched are the kernel's messages about
links, addresses and routes, and the clocks, one of which stands still while the machine sleeps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.runtime.netlink.netconf import Watcher

SETTLE = 0.25  # seconds without news before the network is looked at: an address comes in several messages
PATIENCE = 0.75  # at most so long after the first, so that a flood of news does not keep us from looking
TICK = 1.0  # how often the clocks are compared
SLEPT = 2.0  # seconds by which they may part before it was a sleep

_log = logging.getLogger("miragevpn.host")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Way:
    """How packets to `remote` go: by the interface `dev`, to the neighbour `via` (None: it is one), from `source`."""

    remote: Address
    dev: str | None
    via: Address | None
    source: Address | None


class Judge:
    """Decides on what is seen; kept apart from seeing it."""

    def __init__(self) -> None:
        self._known: Way | None = None
        self.remote: Address | None = None
        self._lost = False

    def slept(self) -> None:
        """The machine was asleep: whatever looks the same may not be."""
        self._lost = True

    def seen(self, remote: Address | None, way: Way | None) -> bool:
        """Take the present `way` to `remote`; True if a new connection is wanted."""
        if remote != self.remote:  # another server now: nothing to compare with
            self.remote, self._known, self._lost = remote, way, way is None
            return False
        if remote is None:
            return False
        if way is None:
            self._lost = True
            return False
        changed = self._lost or way != self._known
        self._known, self._lost = way, False
        return changed


class Traveller(Protocol):
    """Whose way is watched."""

    remote: Address | None
    """The server's address; None before the first attempt."""

    async def way_now(self) -> Way | None:
        """How packets to `remote` leave this machine now, beside the tunnel; None if they do not."""


async def watch(traveller: Traveller, reconnect: Callable[[], None]) -> None:
    """Run until cancelled: call `reconnect` when the way is another, or is there again."""
    judge, watcher = Judge(), Watcher(links=True, addresses=True, routes=True)
    asleep = _asleep()
    try:
        while True:
            news = await _within(watcher, TICK)
            now = _asleep()
            if now - asleep > SLEPT:
                judge.slept()
                news = True
            asleep = now
            if news:
                await _settle(watcher)
            remote = traveller.remote
            if (news or remote != judge.remote) and judge.seen(remote, await traveller.way_now()):
                _log.info("the way to the server has changed: connecting anew")
                reconnect()
    except MirageError as error:
        _log.warning("the uplink is not watched any more: %s", error)
    finally:
        watcher.close()


async def _within(watcher: Watcher, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await anext(watcher)
    except TimeoutError:
        return False
    return True


async def _settle(watcher: Watcher) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < deadline and await _within(watcher, SETTLE):
        pass


def _asleep() -> float:
    """Seconds that this machine has slept since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

# SPDX-License-Identifier: BSD-2-Clause
"""Changes of links, addresses and routes as the kernel tells them, by whoever they were made.

One non-blocking rtnetlink socket on the event loop, read by pyroute2's parser (a call without I/O). The kernel's
queue is bounded, and so is ours: when events were lost, `EventsLost` says so and the reader looks at everything
again. The kernel does not tell of IPv4 routes that go with their interface: watch links as well.
Only messages from the kernel (port 0) are believed. Facts: rtnetlink(7), netlink(7).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.runtime.netlink.netvalues import NetLink, link_of

_log = logging.getLogger("miragevpn.netconf")

_NETLINK_ROUTE = 0
_GROUP_LINK = 0x1
_GROUP_ADDRESS = 0x10 | 0x100  # IPv4, IPv6
_GROUP_ROUTE = 0x40 | 0x400
_READ_SIZE = 65536
_QUEUE = 1024  # events; hundreds of vifs and their addresses fit, a flood ends in EventsLost


@dataclass(frozen=True)
class LinkEvent:
    """An interface is new or changed (`present`), or gone."""

    link: NetLink
    present: bool


@dataclass(frozen=True)
class AddressEvent:
    """Something changed about the addresses of the interface `index`."""

    index: int
    present: bool


@dataclass(frozen=True)
class RouteEvent:
    """Something changed in routing table `table`."""

    table: int
    family: int
    present: bool


@dataclass(frozen=True)
class EventsLost:
    """More happened than was read: look at everything anew."""


NetEvent = LinkEvent | AddressEvent | RouteEvent | EventsLost


class Watcher:
    """An async iterator of `NetEvent`; create and use inside a running event loop.

    What happens after the constructor returned is told: create the watcher first, list the present state second.
    """

    def __init__(self, *, links: bool = True, addresses: bool = False, routes: bool = False) -> None:
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        self._marshal: Any = MarshalRtnl()
        self._events: deque[NetEvent] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        groups = _GROUP_LINK * links | _GROUP_ADDRESS * addresses | _GROUP_ROUTE * routes
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        except OSError as error:
            raise SystemRefused(f"cannot watch the network: {error.strerror}", "is AF_NETLINK filtered?") from error
        self._socket.bind((0, groups))
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> NetEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()

    def close(self) -> None:
        """End the iteration once the events at hand are read. Twice is fine."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._wake.set()

    def _readable(self) -> None:
        try:
            data, sender = self._socket.recvfrom(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                _log.error("netlink events: %s", error.strerror)
                self.close()
            self._lost()
            return
        if sender[0] != 0:
            return
        try:
            for message in self._marshal.parse(data):
                self._add(_event(message))
        except Exception as error:  # a parser that fails on a kernel's message must not end the watch
            _log.debug("netlink event not understood: %s", type(error).__name__)
            self._lost()

    def _add(self, event: NetEvent | None) -> None:
        if event is None:
            return
        if len(self._events) >= _QUEUE:
            self._lost()
            return
        self._events.append(event)
        self._wake.set()

    def _lost(self) -> None:
        self._events.clear()
        self._events.append(EventsLost())
        self._wake.set()


def _event(message: Any) -> NetEvent | None:
    name = message.get("event")
    if name in ("RTM_NEWLINK", "RTM_DELLINK") and message["family"] == socket.AF_UNSPEC:
        return LinkEvent(link_of(message), name == "RTM_NEWLINK")
    if name in ("RTM_NEWADDR", "RTM_DELADDR"):
        return AddressEvent(message["index"], name == "RTM_NEWADDR")
    if name in ("RTM_NEWROUTE", "RTM_DELROUTE"):
        table = message.get_attr("RTA_TABLE") or message["table"]
        return RouteEvent(table, message["family"], name == "RTM_NEWROUTE")
    return None

# SPDX-License-Identifier: BSD-2-Clause
"""The blocking calls that read and change links, addresses, routes and rules.

`Kernel` is one pyroute2 socket, used by one thread that runs no event loop (pyroute2 0.9 drives a loop of its
own below its synchronous calls). Only what Debian 12's pyroute2 0.7.2 and 0.9 have in common is used.
Everybody else uses `runtime.netlink.netconf`, which owns such a thread and a journal. Facts: rtnetlink(7), ip-route(8),
ip-rule(8). Refuses nothing: it says what the kernel said.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from qubes_miragevpn.base.errors import MirageError, SystemRefused
from qubes_miragevpn.runtime.netlink.netvalues import (
    MAIN_TABLE,
    RTNH_F_ONLINK,
    Address,
    NetAddress,
    NetLink,
    NetRoute,
    NetRule,
    RouteType,
    address_of,
    family_of,
    link_of,
    route_of,
    rule_of,
)

DUMP_ATTEMPTS = 10  # of a dump that is interrupted by changes: a storm of vifs is over sooner
_NLM_F_DUMP_INTR = 0x10  # linux/netlink.h


class NetconfError(MirageError):
    """The kernel did not accept a change; `code` is the errno."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what}: {os.strerror(code)}")
        self.what = what
        self.code = code


class NoSuchLink(NetconfError):
    """The interface is not there (any more)."""

    def __init__(self, dev: str) -> None:
        super().__init__(f"interface {dev}", errno.ENODEV)
        self.dev = dev


class Kernel:
    """One rtnetlink socket. For one thread; every method blocks for the kernel's answer (microseconds)."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute  # 150 ms: only for those who change the network

        with _told("netlink"):
            self._ipr: Any = IPRoute()

    def close(self) -> None:
        """Give the socket back."""
        self._ipr.close()

    def _dump(self, what: str, method: Callable[..., Any], **request: Any) -> list[Any]:
        """All messages of a dump; anew when something changed while it was made.

        pyroute2 0.7 raises then, 0.9 leaves it to the reader of the flag.
        """
        from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

        for _ in range(DUMP_ATTEMPTS):
            with _told(what):
                try:
                    messages = list(method("dump", **request))
                except NetlinkDumpInterrupted:
                    continue
            if not any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in messages):
                return messages
        raise NetconfError(f"{what}: it does not stop changing", errno.EBUSY)

    # --- links

    def links(self) -> list[NetLink]:
        """Every interface."""
        return [link_of(message) for message in self._dump("list interfaces", self._ipr.link)]

    def link(self, dev: str) -> NetLink | None:
        """The interface called `dev`, or None."""
        try:
            with _told(f"look up {dev}", dev):
                found = [link_of(message) for message in self._ipr.link("get", ifname=dev)]
        except NoSuchLink:
            return None
        return next((link for link in found if link.name == dev), None)

    def index(self, dev: str) -> int:
        """Its number; raises `NoSuchLink`."""
        link = self.link(dev)
        if link is None:
            raise NoSuchLink(dev)
        return link.index

    def set_link(self, dev: str, **changes: Any) -> None:
        """Change `state` ("up", "down"), `mtu`, `txqlen`."""
        index = self.index(dev)
        with _told(f"change {dev}", dev):
            self._ipr.link("set", index=index, **changes)

    # --- addresses

    def addresses(self, dev: str | None = None) -> list[NetAddress]:
        """The addresses of `dev`, or of everybody."""
        names = {link.index: link.name for link in self.links()}
        found = [address_of(message, names) for message in self._dump("list addresses", self._ipr.addr)]
        return [address for address in found if address is not None and dev in (None, address.dev)]

    def add_address(self, address: NetAddress) -> None:
        """Add it; there already is no error."""
        with _told(f"add {address.interface} to {address.dev}", address.dev, fine=(errno.EEXIST,)):
            self._ipr.addr("add", **self._address(address))

    def remove_address(self, address: NetAddress) -> None:
        """Remove it; not there is no error."""
        with _told(f"remove {address.interface} from {address.dev}", address.dev, fine=(errno.EADDRNOTAVAIL,)):
            self._ipr.addr("del", **self._address(address))

    def _address(self, address: NetAddress) -> dict[str, Any]:
        ip = str(address.interface.ip)
        wire: dict[str, Any] = {
            "index": self.index(address.dev),
            "family": family_of(address.interface),
            "address": str(address.peer or ip),
            "prefixlen": address.interface.network.prefixlen,
        }
        if wire["family"] == socket.AF_INET or address.peer is not None:
            wire["local"] = ip
        return wire

    # --- routes

    def routes(self, table: int | None = None, family: int | None = None) -> list[NetRoute]:
        """The routes of `table` (None: of all) and `family` (None: of both)."""
        names = {link.index: link.name for link in self.links()}
        found = []
        for each in _families(family):
            messages = self._dump("list routes", self._ipr.route, family=each)
            found += [route_of(message, names) for message in messages]
        return [route for route in found if route is not None and table in (None, route.table)]

    def replace_route(self, route: NetRoute) -> None:
        """Add it, or put it in the place of the one with the same key."""
        with _told(f"route {_shown(route)}", route.dev):
            self._ipr.route("replace", **self._route(route))

    def delete_route(self, route: NetRoute) -> None:
        """Delete it; not there is no error."""
        gone = (errno.ESRCH, errno.ENOENT)
        try:
            with _told(f"delete route {_shown(route)}", route.dev, fine=gone):
                self._ipr.route("del", **self._route(route))
        except NoSuchLink:
            return  # its routes went with it

    def route_to(self, address: Address) -> NetRoute | None:
        """How an unmarked packet of ours to `address` goes now, as a host route; None if it goes nowhere."""
        names = {link.index: link.name for link in self.links()}
        try:
            with _told(f"look up the route to {address}"):
                answers = self._ipr.route("get", family=family_of(address), dst=str(address))
                found = [route_of(message, names, host=address) for message in answers]
        except NetconfError as error:
            if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return None
            raise
        return next((route for route in found if route is not None and route.type == RouteType.UNICAST), None)

    def _route(self, route: NetRoute) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "family": route.family,
            "dst_len": route.network.prefixlen,
            "table": route.table,
            "type": int(route.type),
            "proto": route.proto,
        }
        if route.network.prefixlen:  # the default route is told by the absence of a destination
            wire["dst"] = str(route.network.network_address)
        if route.dev is not None:
            wire["oif"] = self.index(route.dev)
        if route.via is not None:
            wire["gateway"] = str(route.via)
        elif route.type == RouteType.UNICAST and route.family == socket.AF_INET:
            wire["scope"] = 253  # RT_SCOPE_LINK: no gateway, the destination is on the link
        if route.metric is not None:
            wire["priority"] = route.metric
        if route.source is not None:
            wire["prefsrc"] = str(route.source)
        if route.onlink:
            wire["flags"] = RTNH_F_ONLINK
        return wire

    # --- rules

    def rules(self, family: int | None = None) -> list[NetRule]:
        """The policy rules of `family` (None: of both)."""
        found = []
        for each in _families(family):
            found += [rule_of(message) for message in self._dump("list rules", self._ipr.rule, family=each)]
        return [rule for rule in found if rule is not None]

    def add_rule(self, rule: NetRule) -> None:
        """Add it; there already is no error."""
        with _told(f"add rule {rule.priority}", fine=(errno.EEXIST,)):
            self._ipr.rule("add", **_rule(rule))

    def delete_rule(self, rule: NetRule) -> None:
        """Delete it; not there is no error."""
        with _told(f"delete rule {rule.priority}", fine=(errno.ENOENT, errno.ESRCH)):
            self._ipr.rule("del", **_rule(rule))


def _rule(rule: NetRule) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "family": int(rule.family),
        "priority": rule.priority,
        "table": rule.table,
        "action": int(rule.action),
    }
    if rule.fwmark is not None:
        wire |= {"fwmark": rule.fwmark, "fwmask": rule.fwmask}
    if rule.iifname is not None:
        wire["iifname"] = rule.iifname
    if rule.suppress_prefixlength is not None:
        wire["suppress_prefixlen"] = rule.suppress_prefixlength
    if rule.suppress_ifgroup is not None:
        wire["suppress_ifgroup"] = rule.suppress_ifgroup
    if rule.to is not None:
        wire |= {"dst": str(rule.to.network_address), "dst_len": rule.to.prefixlen}
    for name, span in (("uid_range", rule.uid), ("dport_range", rule.dport)):
        if span is not None:
            wire[name] = f"{span[0]}:{span[1]}"
    return wire


def _families(family: int | None) -> Iterable[int]:
    return (int(socket.AF_INET), int(socket.AF_INET6)) if family is None else (int(family),)


@contextmanager
def _told(what: str, dev: str | None = None, fine: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn whatever the kernel or pyroute2 raises into one of our errors; `fine` codes are none."""
    try:
        yield
    except MirageError:
        raise
    except Exception as error:  # pyroute2's NetlinkError is no OSError
        code = getattr(error, "code", None) or getattr(error, "errno", None)
        if not isinstance(code, int):
            raise NetconfError(f"{what}: {type(error).__name__}", errno.EINVAL) from error
        if code in fine:
            return
        if code == errno.EPERM:
            raise SystemRefused(f"cannot {what}: not permitted", "run as root, or with CAP_NET_ADMIN") from error
        if code == errno.EACCES and dev is not None:
            remedy = f"is IPv6 switched off there? see sysctl net.ipv6.conf.{dev}.disable_ipv6"
            raise SystemRefused(f"cannot {what}: permission denied", remedy) from error
        if code in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise SystemRefused(f"cannot {what}: not supported", "the kernel lacks this address family") from error
        if code in (errno.ENODEV, errno.ENXIO) and dev is not None:
            raise NoSuchLink(dev) from error
        raise NetconfError(what, code) from error


def _shown(route: NetRoute) -> str:
    parts = [str(route.network)]
    parts += [f"via {route.via}"] if route.via else []
    parts += [f"dev {route.dev}"] if route.dev else []
    parts += [f"table {route.table}"] if route.table != MAIN_TABLE else []
    return " ".join(parts)

# SPDX-License-Identifier: BSD-2-Clause
"""Links, addresses, routes and rules of the kernel, as values, and the blocking calls that read and change them.

`Kernel` is one pyroute2 socket, used by one thread that runs no event loop (pyroute2 0.9 drives a loop of its
own below its synchronous calls). Only what Debian 12's pyroute2 0.7.2 and 0.9 have in common is used.
Everybody else uses `runtime.netconf`, which owns such a thread and a journal. Facts: rtnetlink(7), ip-route(8),
ip-rule(8), linux/rtnetlink.h, linux/fib_rules.h. Refuses nothing: it says what the kernel said.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

from qubes_miragevpn.base.errors import MirageError, SystemRefused

MAIN_TABLE = 254
FULL_MASK = 0xFFFFFFFF
IP6_DEFAULT_METRIC = 1024  # what the kernel makes of "no metric" in IPv6 (IP6_RT_PRIO_USER)
RTPROT_STATIC = 4
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200  # a cached answer, not a route
_IFF_UP = 0x1
_IFF_RUNNING = 0x40

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


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


class RouteType(IntEnum):
    """What a route does with a packet (RTN_* of linux/rtnetlink.h)."""

    UNICAST = 1
    LOCAL = 2
    BROADCAST = 3
    ANYCAST = 4
    MULTICAST = 5
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8
    THROW = 9


class RuleAction(IntEnum):
    """What a rule does (FR_ACT_* of linux/fib_rules.h)."""

    LOOKUP = 1
    GOTO = 2
    NOP = 3
    BLACKHOLE = 6
    UNREACHABLE = 7
    PROHIBIT = 8


@dataclass(frozen=True)
class NetLink:
    """An interface; `carrier` is IFF_RUNNING, `group` what nft calls iifgroup."""

    index: int
    name: str
    up: bool
    carrier: bool
    mtu: int
    txqueuelen: int
    group: int = 0


@dataclass(frozen=True)
class NetAddress:
    """An address of `dev`; `peer` is the far end of a point-to-point pair (then the prefix is a host's)."""

    dev: str
    interface: Interface
    peer: Address | None = None


@dataclass(frozen=True)
class NetRoute:
    """A route. The kernel knows it by (table, network, metric): a second one replaces the first.

    `source` (preferred) and `proto` (who made it, RTPROT_*) are kept so that a route can be put back as it was,
    and do not make two routes different.
    """

    network: Network
    dev: str | None = None
    via: Address | None = None
    table: int = MAIN_TABLE
    metric: int | None = None
    onlink: bool = False
    type: RouteType = RouteType.UNICAST
    source: Address | None = field(default=None, compare=False)
    proto: int = field(default=RTPROT_STATIC, compare=False)

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return family_of(self.network)

    @property
    def key(self) -> tuple[int, Network, int]:
        """What makes two routes the same one to the kernel."""
        default = IP6_DEFAULT_METRIC if self.family == socket.AF_INET6 else 0
        return self.table, self.network, self.metric or default


@dataclass(frozen=True)
class NetRule:
    """A policy rule. `fwmark` None matches every mark; `table` counts for `LOOKUP` only.

    `suppress_prefixlength` n: what the table answers with a route of at most n bits does not count (0: no default).
    """

    family: int
    priority: int
    table: int = 0
    fwmark: int | None = None
    fwmask: int = FULL_MASK
    iifname: str | None = None
    action: RuleAction = RuleAction.LOOKUP
    suppress_prefixlength: int | None = None


def family_of(value: Address | Interface | Network) -> int:
    """AF_INET or AF_INET6, as a plain number."""
    return int(socket.AF_INET if value.version == 4 else socket.AF_INET6)


class Kernel:
    """One rtnetlink socket. For one thread; every method blocks for the kernel's answer (microseconds)."""

    def __init__(self) -> None:
        from pyroute2 import IPRoute  # 150 ms: only for those who change the network

        with _told("netlink"):
            self._ipr: Any = IPRoute()

    def close(self) -> None:
        """Give the socket back."""
        self._ipr.close()

    # --- links

    def links(self) -> list[NetLink]:
        """Every interface."""
        with _told("list interfaces"):
            return [link_of(message) for message in self._ipr.link("dump")]

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
        with _told("list addresses"):
            found = [_address_of(message, names) for message in self._ipr.addr("dump")]
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
            with _told("list routes"):
                found += [_route_of(message, names) for message in self._ipr.route("dump", family=each)]
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
                found = [_route_of(message, names, host=address) for message in answers]
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
            wire["flags"] = _RTNH_F_ONLINK
        return wire

    # --- rules

    def rules(self, family: int | None = None) -> list[NetRule]:
        """The policy rules of `family` (None: of both)."""
        found = []
        for each in _families(family):
            with _told("list rules"):
                found += [_rule_of(message) for message in self._ipr.rule("dump", family=each)]
        return [rule for rule in found if rule is not None]

    def add_rule(self, rule: NetRule) -> None:
        """Add it; there already is no error."""
        with _told(f"add rule {rule.priority}", fine=(errno.EEXIST,)):
            self._ipr.rule("add", **_rule(rule))

    def delete_rule(self, rule: NetRule) -> None:
        """Delete it; not there is no error."""
        with _told(f"delete rule {rule.priority}", fine=(errno.ENOENT, errno.ESRCH)):
            self._ipr.rule("del", **_rule(rule))


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


# --- messages of the kernel -> values


def link_of(message: Any) -> NetLink:
    """The value of an RTM_NEWLINK or RTM_DELLINK message."""
    return NetLink(
        index=message["index"],
        name=str(message.get_attr("IFLA_IFNAME")),
        up=bool(message["flags"] & _IFF_UP),
        carrier=bool(message["flags"] & _IFF_RUNNING),
        mtu=message.get_attr("IFLA_MTU") or 0,
        txqueuelen=message.get_attr("IFLA_TXQLEN") or 0,
        group=message.get_attr("IFLA_GROUP") or 0,
    )


def _address_of(message: Any, names: dict[int, str]) -> NetAddress | None:
    far, near = message.get_attr("IFA_ADDRESS"), message.get_attr("IFA_LOCAL")
    if message["index"] not in names or not (near or far):
        return None
    interface = ip_interface(f"{near or far}/{message['prefixlen']}")
    peer = ip_address(far) if near and far and near != far else None
    return NetAddress(names[message["index"]], interface, peer)


def _route_of(message: Any, names: dict[int, str], host: Address | None = None) -> NetRoute | None:
    if host is None and message["flags"] & _RTM_F_CLONED:
        return None
    if message["type"] not in RouteType.__members__.values():
        return None
    six = message["family"] == socket.AF_INET6
    if host is not None:
        network: Network = ip_network(host)
    else:
        network = ip_network(f"{message.get_attr('RTA_DST') or ('::' if six else '0.0.0.0')}/{message['dst_len']}")
    kind = RouteType(message["type"])
    via, source, metric, oif = (message.get_attr(f"RTA_{n}") for n in ("GATEWAY", "PREFSRC", "PRIORITY", "OIF"))
    return NetRoute(
        network=network,
        # the kernel hangs IPv6 routes that lead nowhere on lo; nobody asked for that
        dev=names.get(oif) if oif is not None and kind in (RouteType.UNICAST, RouteType.LOCAL) else None,
        via=ip_address(via) if via else None,
        table=message.get_attr("RTA_TABLE") or message["table"],
        metric=None if not metric or (six and metric == IP6_DEFAULT_METRIC) else metric,
        onlink=bool(message["flags"] & _RTNH_F_ONLINK),
        type=kind,
        source=ip_address(source) if source else None,
        proto=message["proto"],
    )


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
    return wire


def _rule_of(message: Any) -> NetRule | None:
    if message["action"] not in RuleAction.__members__.values():
        return None
    mark, mask = message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK")
    suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    return NetRule(
        family=message["family"],
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        fwmark=mark,
        fwmask=FULL_MASK if mask is None else mask,
        iifname=message.get_attr("FRA_IIFNAME") or None,
        action=RuleAction(message["action"]),
        suppress_prefixlength=None if suppress in (None, FULL_MASK) else suppress,
    )

# SPDX-License-Identifier: BSD-2-Clause
"""Links, addresses, routes and rules of the kernel as values, and the kernel's messages read into them.

A value that is read back after it was set equals the one that was set, whatever the kernel fills in by itself.
Facts: rtnetlink(7), linux/rtnetlink.h, linux/fib_rules.h. Messages are pyroute2's; nothing here calls it.
"""

from __future__ import annotations

import socket
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

MAIN_TABLE = 254
FULL_MASK = 0xFFFFFFFF
IP6_DEFAULT_METRIC = 1024  # what the kernel makes of "no metric" in IPv6 (IP6_RT_PRIO_USER)
RTPROT_STATIC = 4
RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200  # a cached answer, not a route
_IFF_UP = 0x1
_IFF_RUNNING = 0x40

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


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
    `suppress_ifgroup` n: nor does a route by an interface of group n.
    `to`, `uid` and `dport` (None: any) match the target's address, the user whose socket sends, and the target's port;
    what is forwarded has no user. The kernel matches ranges and networks too: such a rule of somebody else's is another
    value than any of ours.
    """

    family: int
    priority: int
    table: int = 0
    fwmark: int | None = None
    fwmask: int = FULL_MASK
    iifname: str | None = None
    action: RuleAction = RuleAction.LOOKUP
    suppress_prefixlength: int | None = None
    suppress_ifgroup: int | None = None
    to: Network | None = None
    uid: tuple[int, int] | None = None
    dport: tuple[int, int] | None = None


def family_of(value: Address | Interface | Network) -> int:
    """AF_INET or AF_INET6, as a plain number."""
    return int(socket.AF_INET if value.version == 4 else socket.AF_INET6)


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


def address_of(message: Any, names: dict[int, str]) -> NetAddress | None:
    """The value of an RTM_NEWADDR message; None if its interface is not among `names`."""
    far, near = message.get_attr("IFA_ADDRESS"), message.get_attr("IFA_LOCAL")
    if message["index"] not in names or not (near or far):
        return None
    interface = ip_interface(f"{near or far}/{message['prefixlen']}")
    peer = ip_address(far) if near and far and near != far else None
    return NetAddress(names[message["index"]], interface, peer)


def route_of(message: Any, names: dict[int, str], host: Address | None = None) -> NetRoute | None:
    """The value of an RTM_NEWROUTE message, or of the answer for `host`; None if it is no route of a kind we know."""
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
        onlink=bool(message["flags"] & RTNH_F_ONLINK),
        type=kind,
        source=ip_address(source) if source else None,
        proto=message["proto"],
    )


def rule_of(message: Any) -> NetRule | None:
    """The value of an RTM_NEWRULE message; None if it does something that we do not know."""
    if message["action"] not in RuleAction.__members__.values():
        return None
    mark, mask = message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK")
    suppress, group = (message.get_attr(f"FRA_SUPPRESS_{what}") for what in ("PREFIXLEN", "IFGROUP"))
    target = message.get_attr("FRA_DST")
    return NetRule(
        family=message["family"],
        priority=message.get_attr("FRA_PRIORITY") or 0,
        table=message.get_attr("FRA_TABLE") or message["table"],
        fwmark=mark,
        fwmask=FULL_MASK if mask is None else mask,
        iifname=message.get_attr("FRA_IIFNAME") or None,
        action=RuleAction(message["action"]),
        suppress_prefixlength=None if suppress in (None, FULL_MASK) else suppress,
        suppress_ifgroup=None if group in (None, FULL_MASK) else group,
        to=ip_network(f"{target}/{message['dst_len']}", strict=False) if target else None,
        uid=_range(message.get_attr("FRA_UID_RANGE")),
        dport=_range(message.get_attr("FRA_DPORT_RANGE")),
    )


def _range(text: str | None) -> tuple[int, int] | None:
    """pyroute2 gives a range as "FIRST:LAST"."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    return int(first), int(last)

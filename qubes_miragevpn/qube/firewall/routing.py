# SPDX-License-Identifier: BSD-2-Clause
"""Policy rules and routes that the tunnels demand: pure functions, the same numbers as the lockdown script.

Barriers two and three. What is forwarded, from whichever interface and however new that is, looks up a
tunnel's own table, which ends in an `unreachable` default; and what this qube sends itself sees of the main table the
host routes alone, and none of those that leads to the uplink's group. So Qubes' habit of putting routes back (setup-ip,
on every change of the uplink) opens nothing, not even to the netvm itself, and neither does another network card.
Marked sockets alone see the uplink, in a table of its own.

    5149  iif lo to RESOLVER uid U dport 53   lookup TABLE 0    names in rules, see `names_rules`
    5150  iif lo fwmark TRANSPORT   lookup 5156
    5151  iif lo fwmark TUNNEL n    lookup TABLE n    reverse path check of packets from the tunnel
    5152  iif lo                    lookup main, host routes only, not by the uplink's group
    5153  iif lo                    unreachable       or, for own programs that may use the tunnel, lookup TABLE 0
    5154  iif vpn n                 the same (the host routes to downstream)
    5155  iif vpn n                 unreachable
    5156  iif UPLINK                unreachable       nothing is forwarded from there
    5157  iif vif...                lookup TABLE n    with several tunnels: who goes through which
    5158  everything else           lookup TABLE 0    with one tunnel only
    5159  everything else           unreachable

With several tunnels there is no 5158: a downstream interface goes nowhere until it is assigned.

Barrier three is an empty main table, and, before anybody looks it up, two rules of its own far behind those above:

    32700 everything                lookup main, host routes only, not by the uplink's group
    32701 everything                unreachable

So what somebody puts into main (setup-ip does, on every change of the uplink) opens nothing in the moment until it is
taken out again, also where the rules above are gone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from qubes_miragevpn.qube.settings import (
    TRANSPORT_MARK,
    UPLINK_TABLE,
    WORST_METRIC,
    tunnel_mark,
    tunnel_name,
    tunnel_table,
)
from qubes_miragevpn.runtime.netlink.netconf import MAIN_TABLE, NetRoute, NetRule, RouteType, RuleAction

Assignment = Mapping[int, frozenset[str] | None]
"""Tunnel -> its downstream interfaces; None (one tunnel only): all, present and to come."""

Address = IPv4Address | IPv6Address

FAMILIES = (int(socket.AF_INET), int(socket.AF_INET6))
DNS_PORT = 53
DEFAULT4, DEFAULT6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")
NAMES_PRIORITY = 5149
OUR_PRIORITIES = frozenset({*range(NAMES_PRIORITY, 5160), 32700, 32701})
UPLINK_GROUP = 1  # Qubes puts eth0 there (setup-ip)


def backstop() -> tuple[NetRule, ...]:
    """The rules of barrier three, both families."""
    unreachable = [NetRule(family, 32701, action=RuleAction.UNREACHABLE) for family in FAMILIES]
    return (*unreachable, *(_downstream_only(NetRule(family, 32700, MAIN_TABLE)) for family in FAMILIES))


def rules(uplink: str, assignment: Assignment, *, own: bool = False) -> tuple[NetRule, ...]:
    """The rules of both families: added in this order, there is no moment of openness.

    `own`: this qube's own programs may use tunnel 0, whose table ends in `unreachable` as well.

    What refuses comes before what leads somewhere, and the last match first: 5158 without 5153 would take this qube's
    own packets into the tunnel.
    """
    found = [rule for family in FAMILIES for rule in reversed(_rules(family, uplink, assignment, own))]
    return tuple(sorted(found, key=lambda rule: rule.action is RuleAction.LOOKUP))


def _rules(family: int, uplink: str, assignment: Assignment, own: bool) -> list[NetRule]:
    unreachable = RuleAction.UNREACHABLE
    found = [NetRule(family, 5150, UPLINK_TABLE, TRANSPORT_MARK, iifname="lo")]
    found += [NetRule(family, 5151, tunnel_table(n), tunnel_mark(n), iifname="lo") for n in assignment]
    found.append(_downstream_only(NetRule(family, 5152, MAIN_TABLE, iifname="lo")))
    if own:
        found.append(NetRule(family, 5153, tunnel_table(0), iifname="lo"))
    else:
        found.append(NetRule(family, 5153, iifname="lo", action=unreachable))
    for n in assignment:
        found.append(_downstream_only(NetRule(family, 5154, MAIN_TABLE, iifname=tunnel_name(n))))
        found.append(NetRule(family, 5155, iifname=tunnel_name(n), action=unreachable))
    found.append(NetRule(family, 5156, iifname=uplink, action=unreachable))
    for n, vifs in assignment.items():
        if vifs is None:
            found.append(NetRule(family, 5158, tunnel_table(n)))
        else:
            found += [NetRule(family, 5157, tunnel_table(n), iifname=vif) for vif in sorted(vifs)]
    found.append(NetRule(family, 5159, action=unreachable))
    return found


def names_rules(resolvers: Iterable[Address], askers: Iterable[int]) -> tuple[NetRule, ...]:
    """Questions of the users `askers` (numbers) to these resolvers of tunnel 0 look up its table, which ends closed.

    Before 5150, so that no mark leads them to the uplink. What is forwarded does not come from lo, and does not match.
    """
    return tuple(
        NetRule(
            socket.AF_INET if resolver.version == 4 else socket.AF_INET6,
            NAMES_PRIORITY,
            tunnel_table(0),
            iifname="lo",
            to=ip_network(resolver),
            uid=(uid, uid),
            dport=(DNS_PORT, DNS_PORT),
        )
        for resolver in resolvers
        for uid in askers
    )


def _downstream_only(rule: NetRule) -> NetRule:
    """Qubes gives each downstream address a host route: no network counts, and nothing by the uplink."""
    widest = 31 if rule.family == socket.AF_INET else 127
    return replace(rule, suppress_prefixlength=widest, suppress_ifgroup=UPLINK_GROUP)


def narrowed(before: Assignment, after: Assignment) -> Assignment:
    """What both assignments allow: in force while the one makes room for the other."""
    found: dict[int, frozenset[str] | None] = {}
    for index in before:
        old, new = before[index], after.get(index, frozenset())
        if old is None or new is None:
            found[index] = None if old is new else (old or frozenset()) | (new or frozenset())
        else:
            found[index] = old & new
    return found


def closing_routes(assignment: Assignment) -> tuple[NetRoute, ...]:
    """The `unreachable` defaults that end every table of ours; they stay for ever."""
    tables = [UPLINK_TABLE, *(tunnel_table(n) for n in assignment)]
    return tuple(
        NetRoute(network, table=table, metric=WORST_METRIC, type=RouteType.UNREACHABLE)
        for table in tables
        for network in (DEFAULT4, DEFAULT6)
    )


def tunnel_routes(index: int, *, ipv4: bool, ipv6: bool) -> tuple[NetRoute, ...]:
    """The routes of an open tunnel: everything goes into it, whatever the server pushed.

    Behind a VPN qube there is no other way than the tunnel, so a server that pushes only some routes, or none,
    gets the default all the same, and pushed routes have nothing to add to it.
    """
    networks = (*((DEFAULT4,) if ipv4 else ()), *((DEFAULT6,) if ipv6 else ()))
    return tuple(NetRoute(network, dev=tunnel_name(index), table=tunnel_table(index)) for network in networks)

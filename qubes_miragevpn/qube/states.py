# SPDX-License-Identifier: BSD-2-Clause
"""The states of a tunnel, and what each demands of firewall, routes and DNS: a pure function, tested as a table.

    state       own marked sockets   downstream        tunnel table        virtual resolvers
    Closed      refused              refused           unreachable         refused
    Connecting  allowed              refused           unreachable         refused
    Connected   allowed              <-> the tunnel    default by it       the tunnel's
    Switching   allowed (goodbye)    refused           unreachable         refused
    Failed      refused              refused           unreachable         refused

Only Connected opens anything, and cannot be without a `Live`: what the tunnel is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.qube.firewall.routing import Assignment, tunnel_routes
from qubes_miragevpn.qube.firewall.table import FirewallDemand, OpenTunnel
from qubes_miragevpn.qube.settings import tunnel_mark, tunnel_name
from qubes_miragevpn.runtime.netlink.netconf import NetRoute


class State(Enum):
    """Where a tunnel is."""

    CLOSED = "closed"  # not wanted
    CONNECTING = "connecting"  # wanted, trying
    CONNECTED = "connected"  # carries downstream traffic
    SWITCHING = "switching"  # the old tunnel ends, another profile follows
    FAILED = "failed"  # wanted and not to be had; the reason says why


MARKED = frozenset({State.CONNECTING, State.CONNECTED, State.SWITCHING})


@dataclass(frozen=True)
class Live:
    """A tunnel that works: its addresses, the resolvers that stand in for the virtual ones, whether it takes IPv6."""

    addresses: tuple[IPv4Address | IPv6Address, ...]
    resolvers: tuple[IPv4Address | IPv6Address, ...] = ()

    @property
    def ipv4(self) -> bool:
        """True if the tunnel carries IPv4."""
        return any(address.version == 4 for address in self.addresses)

    @property
    def ipv6(self) -> bool:
        """True if the tunnel carries IPv6."""
        return any(address.version == 6 for address in self.addresses)


@dataclass(frozen=True)
class Demand:
    """What a tunnel wants of the machine. `live` is None unless downstream may use it."""

    marked: bool = False
    live: Live | None = None


def demand(state: State, live: Live | None = None) -> Demand:
    """Return what `state` demands; raises `MisuseError` if Connected comes without what is connected."""
    if state is State.CONNECTED:
        if live is None or not live.addresses:
            raise MisuseError("a connected tunnel has addresses")
        return Demand(True, live)
    return Demand(state in MARKED)


def firewall(
    demands: Mapping[int, Demand], assignment: Assignment, *, own: bool = False, askers: tuple[int, ...] = ()
) -> FirewallDemand:
    """Return the firewall of all tunnels together.

    `own`: this qube's own programs may use tunnel 0. `askers`: these users may ask its resolvers.
    """
    tunnels = tuple(
        OpenTunnel(
            tunnel_name(index),
            tunnel_mark(index),
            each.live.addresses,
            each.live.resolvers,
            ipv4=each.live.ipv4,
            ipv6=each.live.ipv6,
            vifs=assignment.get(index, frozenset()),
            own=own and index == 0,
            askers=askers if index == 0 else (),
        )
        for index, each in sorted(demands.items())
        if each.live is not None
    )
    return FirewallDemand(any(each.marked for each in demands.values()), tunnels)


def routes(index: int, wanted: Demand) -> tuple[NetRoute, ...]:
    """Return the routes that tunnel `index` holds in its own table, besides the `unreachable` defaults."""
    if wanted.live is None:
        return ()
    return tunnel_routes(index, ipv4=wanted.live.ipv4, ipv6=wanted.live.ipv6)

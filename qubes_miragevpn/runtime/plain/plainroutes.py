# SPDX-License-Identifier: BSD-2-Clause
"""Which routes a plain client's tunnel wants: a pure function of what was pulled and of where the machine stands.

OpenVPN's behaviour (doc/man-sections/vpn-network-options.rst): `redirect-gateway` takes the place of the default
route, with `def1` it is overridden by two halves instead; `ipv6` does the same for IPv6 with four prefixes that hold
all of the unicast space; `block-local` sends the neighbours' networks into the tunnel as well. What goes into the
tunnel must not hold the way to the server itself: unless `local` says that the server is a neighbour, that one host
keeps its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from qubes_miragevpn.config.model import Route, TunnelSettings
from qubes_miragevpn.runtime.netlink.netvalues import NetRoute, RouteType

EVERYTHING4 = (IPv4Network("0.0.0.0/0"),)
HALVES4 = (IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1"))
UNICAST6 = (
    IPv6Network("::/3"),
    IPv6Network("2000::/4"),
    IPv6Network("3000::/4"),
    IPv6Network("fc00::/7"),
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def tunnel_routes(
    settings: TunnelSettings,
    dev: str,
    *,
    way: NetRoute | None = None,
    neighbours: Iterable[NetRoute] = (),
    detours: Iterable[NetRoute] = (),
) -> list[NetRoute]:
    """Return the routes that `settings` ask for, in the order to set them.

    `dev` is the TUN; `way` how the server is reached without the tunnel (a host route); `neighbours` the
    routes of the networks that the machine is in, for `block-local`; `detours` the routes around the tunnel that were
    asked for.
    """
    flags = settings.redirect
    local = list(neighbours) if flags is not None and "block-local" in flags else []
    inward = _inward(settings, dev) + _blocked_neighbours(local, dev, settings)
    outward = []
    if way is not None and not _is_neighbour(way, flags):
        server = way.network.network_address
        if any(server.version == each.network.version and server in each.network for each in inward):
            outward.append(way)
    gateways = {way.via} if way is not None and way.via is not None else set()
    for each in local:
        # a gateway within a neighbouring network that is now in the tunnel must stay a neighbour
        outward += [NetRoute(ip_network(via), dev=each.dev) for via in gateways if _holds(each.network, via)]
    outward += detours
    taken = {route.key for route in outward}
    return outward + [route for route in inward if route.key not in taken]


def _is_neighbour(way: NetRoute, flags: frozenset[str] | None) -> bool:
    """Whether the server is, by word of the operator or as we see it, where no route to it is needed."""
    return flags is not None and ("local" in flags or ("autolocal" in flags and way.via is None))


def _inward(settings: TunnelSettings, dev: str) -> list[NetRoute]:
    """Everything that goes into the tunnel, or nowhere."""
    routes = [NetRoute(each.network, dev=dev, via=_via(settings, each), metric=each.metric) for each in settings.routes]
    flags = settings.redirect
    if flags is not None and "!ipv4" not in flags and settings.ipv4 is not None:
        everything, via = HALVES4 if "def1" in flags else EVERYTHING4, _first_hop(settings, 4)
        routes += [NetRoute(network, dev=dev, via=via) for network in everything]
    if settings.block_ipv6:
        routes = [route for route in routes if route.network.version == 4]
        routes += [NetRoute(network, type=RouteType.UNREACHABLE, metric=1) for network in UNICAST6]
    elif flags is not None and "ipv6" in flags and settings.ipv6 is not None:
        routes += [NetRoute(network, dev=dev, via=_first_hop(settings, 6)) for network in UNICAST6]
    return list(dict.fromkeys(routes))


def _via(settings: TunnelSettings, route: Route) -> Address | None:
    """Who on the other side of a TAP takes a route's packets; a TUN has nobody to choose from."""
    if not settings.ethernet:
        return None
    return route.gateway or _first_hop(settings, route.network.version)


def _first_hop(settings: TunnelSettings, version: int) -> Address | None:
    if not settings.ethernet:
        return None
    return settings.gateway4 if version == 4 else settings.gateway6


def _blocked_neighbours(neighbours: list[NetRoute], dev: str, settings: TunnelSettings) -> list[NetRoute]:
    """Routes that beat those of the neighbouring networks, by being longer by one bit."""
    versions = [each.version for each in (settings.ipv4, settings.ipv6) if each is not None]
    return [
        NetRoute(half, dev=dev)
        for each in neighbours
        if each.network.version in versions and each.network.prefixlen < each.network.max_prefixlen
        for half in each.network.subnets()
    ]


def _holds(network: Network, address: Address) -> bool:
    return network.version == address.version and address in network

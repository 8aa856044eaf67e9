# SPDX-License-Identifier: BSD-2-Clause
"""What a reply that was read means: addresses, routes, resolvers and limits of the tunnel as one value.

The profile's own lines come first, the server's after them. Only here is known what a route may name without knowing
it: the tunnel's gateway and the server's outer address.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_network
from typing import TYPE_CHECKING

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.config.building.inner import MIN_MTU_IPV6, Unusable, demand_unicast
from qubes_miragevpn.config.model import Detour, Landmark, PulledOptions, Route, TunnelSettings
from qubes_miragevpn.config.rows.arguments import netmask_length

if TYPE_CHECKING:
    from qubes_miragevpn.config.pushed.reply import Reply

MIN_ONLINK4 = 8  # shortest on-link prefix: a server must not claim more than 10.0.0.0/8 is
MIN_ONLINK6 = 16


def end(reason: str) -> PeerError:
    """An error that ends the session."""
    return PeerError(reason, Consequence.END_SESSION)


def finish(reply: Reply, remote: IPv4Address | IPv6Address | None) -> PulledOptions:
    """All that `reply` holds as one value. Raises `PeerError` (end of session)."""
    config = reply.config
    mtu = reply.mtu or config.common.tun_mtu
    ipv4, peer = _address4(reply)
    ipv6, gateway6 = _address6(reply, mtu)
    dns = reply.dns.result()
    if not dns.servers:
        dns = replace(config.dns, search=dns.search or config.dns.search)
    elif not dns.search:
        dns = replace(dns, search=config.dns.search)
    gateway4 = _gateway4(reply, ipv4, peer)
    inward, detours = _landmarks(reply, gateway4, remote)
    routes, more_detours = _routes(reply, ipv4, peer, ipv6, remote, inward)
    redirect = _redirect(reply)
    if config.common.ethernet:
        _demand_first_hops(reply, redirect, gateway4, routes)
    tunnel = TunnelSettings(
        ipv4=ipv4,
        ipv4_peer=peer,
        ipv6=ipv6,
        gateway4=gateway4,
        gateway6=_gateway6(reply, ipv6, gateway6),
        routes=routes,
        detours=(*detours, *more_detours),
        redirect=redirect,
        block_ipv6=reply.block_ipv6,
        ethernet=config.common.ethernet,
        dns=dns,
        mtu=mtu,
    )
    if reply.more_dropped:
        reply.dropped.append(f"and {reply.more_dropped} more")
    return PulledOptions(tunnel=tunnel, dropped=tuple(reply.dropped), **reply.values)


def _address4(reply: Reply) -> tuple[IPv4Interface | None, IPv4Address | None]:
    """Our address, with the on-link network (subnet) or with the far end (net30, p2p)."""
    if reply.ifconfig is None:
        return None, None
    local, other = reply.ifconfig
    try:
        # Without a pushed topology the second word tells: a netmask begins with ones, no unicast address ends up there.
        masked = reply.topology is None and int(other) >= 0xF0000000
        if masked or reply.topology == "subnet" or reply.config.common.ethernet:
            return _subnet(local, other), None
        demand_unicast(other)
        if other == local:
            raise Unusable("both ends have the same address")
    except Unusable as error:
        raise end(f"the server pushed an unacceptable 'ifconfig': {error}") from None
    return IPv4Interface((local, 32)), other


def _subnet(local: IPv4Address, mask: IPv4Address) -> IPv4Interface:
    try:
        length = netmask_length(mask)
    except ValueError:
        raise Unusable(f"{mask} is not a netmask") from None
    interface = IPv4Interface((local, length))
    if length < MIN_ONLINK4:
        raise Unusable(f"a network of /{length} is too large")
    if length < 31 and local in (interface.network.network_address, interface.network.broadcast_address):
        raise Unusable(f"{interface} is not the address of one machine")
    return interface


def _address6(reply: Reply, mtu: int) -> tuple[IPv6Interface | None, IPv6Address | None]:
    if reply.ifconfig6 is None:
        return None, None
    if mtu < MIN_MTU_IPV6:
        reply.drop("ifconfig-ipv6", f"IPv6 needs a tun-mtu of {MIN_MTU_IPV6}")
        return None, None
    return reply.ifconfig6


def _gateway4(reply: Reply, ipv4: IPv4Interface | None, peer: IPv4Address | None) -> IPv4Address | None:
    gateway = reply.gateway4 or reply.config.route_gateway or peer
    if gateway is not None and gateway != peer and (ipv4 is None or gateway not in ipv4.network):
        reply.drop(f"route-gateway {gateway}", "not an address of the tunnel")
        return peer
    return gateway


def _gateway6(reply: Reply, ipv6: IPv6Interface | None, pushed_peer: IPv6Address | None) -> IPv6Address | None:
    gateway = reply.gateway6 or reply.config.route_gateway6
    if gateway is None or ipv6 is None:
        return pushed_peer if ipv6 is not None else None
    if gateway not in ipv6.network and not gateway.is_link_local:
        reply.drop(f"route-ipv6-gateway {gateway}", "not an address of the tunnel")
        return pushed_peer
    return gateway


def _routes(
    reply: Reply,
    ipv4: IPv4Interface | None,
    peer: IPv4Address | None,
    ipv6: IPv6Interface | None,
    remote: IPv4Address | IPv6Address | None,
    inward: list[Route],
) -> tuple[tuple[Route, ...], list[Detour]]:
    """The operator's routes, then the server's: with metric, no doubles.

    One by a gateway outside of the tunnel is a detour where that is allowed, and dropped where it is not.
    """
    metric = _metric(reply)
    kept: dict[object, Route] = {}
    detours = []
    for route in (*reply.config.routes, *reply.routes, *inward):
        onlink = ipv4 if route.network.version == 4 else ipv6
        gateway = route.gateway
        if onlink is None:
            reply.drop(f"route {route.network}", f"the tunnel has no IPv{route.network.version} address")
        elif gateway is not None and gateway != peer and gateway not in onlink.network and reply.config.around:
            detours.append(Detour(route.network, gateway, route.metric if route.metric is not None else metric))
        elif gateway is not None and gateway != peer and gateway not in onlink.network:
            reply.drop(f"route {route.network}", "its gateway is not in the tunnel")
        elif remote is not None and route.network.prefixlen == remote.max_prefixlen and remote in route.network:
            reply.drop(f"route {route.network}", "it is the server's own address outside of the tunnel")
        else:
            kept.setdefault(route.network, replace(route, metric=route.metric if route.metric is not None else metric))
    return tuple(kept.values()), detours


def _landmarks(
    reply: Reply, gateway4: IPv4Address | None, remote: IPv4Address | IPv6Address | None
) -> tuple[list[Route], list[Detour]]:
    """What the lines with landmarks come to: routes into the tunnel, and detours around it."""
    known = {Landmark.VPN_GATEWAY: gateway4, Landmark.REMOTE_HOST: remote}
    inward: list[Route] = []
    detours: list[Detour] = []
    for each in (*reply.config.landmark_routes, *reply.landmarks):
        metric = each.metric if each.metric is not None else _metric(reply)
        target: IPv4Network | IPv6Network | None
        if isinstance(each.target, Landmark):
            address = known.get(each.target)
            target = ip_network(address) if address is not None else None
            if target is None and each.target is not Landmark.NET_GATEWAY:
                reply.drop(f"route {each.target.value}", "it is not known")
                continue
        else:
            target = each.target
        if each.gateway is Landmark.NET_GATEWAY:
            detours.append(Detour(target, None, metric))
        elif each.gateway is Landmark.REMOTE_HOST and remote is not None:
            detours.append(Detour(target, remote, metric))
        elif target is None or (isinstance(each.gateway, Landmark) and each.gateway is not Landmark.VPN_GATEWAY):
            reply.drop(f"route {each.target}", "it cannot lead there")
        else:
            via = None if isinstance(each.gateway, Landmark) else each.gateway
            inward.append(Route(target, via, metric))
    return inward, detours


def _demand_first_hops(
    reply: Reply, redirect: frozenset[str] | None, gateway4: IPv4Address | None, routes: tuple[Route, ...]
) -> None:
    """Raise `PeerError` (end of session) where frames would have to be sent to nobody in particular."""
    if gateway4 is not None:
        return
    led = redirect is not None and "!ipv4" not in redirect
    if led or any(route.network.version == 4 and route.gateway is None for route in routes):
        raise end("a route into a TAP tunnel needs a gateway, and there is no 'route-gateway'")


def _metric(reply: Reply) -> int | None:
    return reply.metric if reply.metric is not None else reply.config.route_metric


def _redirect(reply: Reply) -> frozenset[str] | None:
    """The flags of all lines; with ``redirect-private`` alone IPv4 keeps its default route."""
    asked = [flags for flags in (reply.config.redirect, reply.redirect) if flags is not None]
    private = [flags for flags in (reply.config.redirect_private, reply.private) if flags is not None]
    if not asked and not private:
        return None
    flags = frozenset[str]().union(*asked, *private)
    return flags if asked else flags | {"!ipv4"}

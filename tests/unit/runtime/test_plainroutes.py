# SPDX-License-Identifier: BSD-2-Clause
"""Routes of a plain client: settings in, routes out, as a table."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_network
from typing import Any

import pytest

from qubes_miragevpn.config.model import Route, TunnelSettings
from qubes_miragevpn.runtime.netlink.netvalues import NetRoute, RouteType
from qubes_miragevpn.runtime.plain.plainroutes import tunnel_routes

WAY = NetRoute(ip_network("192.0.2.1/32"), dev="eth0", via=ip_address("10.0.0.254"))
WAY6 = NetRoute(ip_network("2001:db8::1/128"), dev="eth0", via=ip_address("fe80::1"))
LAN = NetRoute(ip_network("10.0.0.0/24"), dev="eth0")
FOUR = {"ipv4": IPv4Interface("10.8.0.2/24")}
BOTH = {**FOUR, "ipv6": IPv6Interface("fd08::2/64")}
HOST = "192.0.2.1/32 eth0 10.0.0.254"
HOST6 = "2001:db8::1/128 eth0 fe80::1"
HALVES = ["0.0.0.0/1 tun0", "128.0.0.0/1 tun0"]
SIX = ["::/3 tun0", "2000::/4 tun0", "3000::/4 tun0", "fc00::/7 tun0"]
NO_SIX = ["::/3 nowhere", "2000::/4 nowhere", "3000::/4 nowhere", "fc00::/7 nowhere"]


def shown(route: NetRoute) -> str:
    where = "nowhere" if route.type is RouteType.UNREACHABLE else route.dev
    return " ".join(map(str, filter(None, [route.network, where, route.via])))


@pytest.mark.parametrize(
    ("settings", "way", "expected"),
    [
        (FOUR, WAY, []),
        ({**FOUR, "routes": ["10.66.0.0/16", "10.66.0.0/16"]}, WAY, ["10.66.0.0/16 tun0"]),
        ({**FOUR, "routes": ["192.0.2.0/24"]}, WAY, [HOST, "192.0.2.0/24 tun0"]),
        ({**FOUR, "routes": ["192.0.2.0/24"]}, None, ["192.0.2.0/24 tun0"]),
        ({**FOUR, "redirect": ["def1"]}, WAY, [HOST, *HALVES]),
        ({**FOUR, "redirect": []}, WAY, [HOST, "0.0.0.0/0 tun0"]),
        ({**FOUR, "redirect": ["def1", "local"]}, WAY, HALVES),
        ({**FOUR, "redirect": ["def1", "ipv6"]}, WAY, [HOST, *HALVES]),
        ({**BOTH, "redirect": ["def1", "ipv6"]}, WAY, [HOST, *HALVES, *SIX]),
        ({**BOTH, "redirect": ["!ipv4", "ipv6"]}, WAY, SIX),
        ({**BOTH, "redirect": ["def1", "ipv6"]}, WAY6, [HOST6, *HALVES, *SIX]),
        ({**BOTH, "redirect": ["def1", "ipv6"], "block_ipv6": True}, WAY, [HOST, *HALVES, *NO_SIX]),
        ({**FOUR, "block_ipv6": True}, WAY6, [HOST6, *NO_SIX]),
        ({**BOTH, "block_ipv6": True, "routes": ["fd66::/32"]}, None, NO_SIX),
        (
            {**FOUR, "redirect": ["def1", "block-local"]},
            WAY,
            [HOST, "10.0.0.254/32 eth0", *HALVES, "10.0.0.0/25 tun0", "10.0.0.128/25 tun0"],
        ),
    ],
)
def test_routes(settings: dict[str, Any], way: NetRoute | None, expected: list[str]) -> None:
    given = dict(settings)
    if "redirect" in given:
        given["redirect"] = frozenset(given["redirect"])
    given["routes"] = tuple(Route(ip_network(each)) for each in given.get("routes", []))
    routes = tunnel_routes(TunnelSettings(**given), "tun0", way=way, neighbours=[LAN])
    assert [shown(route) for route in routes] == expected
    assert len({route.key for route in routes}) == len(routes)


def test_metrics_are_kept() -> None:
    settings = TunnelSettings(ipv4=IPv4Interface("10.8.0.2/24"), routes=(Route(ip_network("10.66.0.0/16"), metric=7),))
    assert [route.metric for route in tunnel_routes(settings, "tun0")] == [7]

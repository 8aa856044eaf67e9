# SPDX-License-Identifier: BSD-2-Clause
"""Rows: addresses, routes and DNS of the tunnel, written by the operator or pushed by the server."""

from __future__ import annotations

from qubes_miragevpn.config.model import ClientConfig, ServerConfig
from qubes_miragevpn.config.rows.arguments import (
    GATEWAY4,
    GATEWAY6,
    IPV4,
    IPV6,
    IPV6_INTERFACE,
    NETMASK,
    ROUTE_TARGET,
    TEXT,
    Arg,
    choice,
    either,
    integer,
)
from qubes_miragevpn.config.rows.row import APPLIED, NoEffect, Repeat, Row

MAX_ROUTES = 2000  # a country-wide split tunnel has about 1500
REDIRECT_FLAGS = ("def1", "ipv6", "!ipv4", "block-local", "local", "autolocal", "bypass-dhcp", "bypass-dns")
_METRIC = Arg("metric", either("default", None, integer(0, 0x7FFFFFFF)), optional=True)
_FROM_SERVER = NoEffect("the server's word counts")

ROWS = (
    Row(
        "route",
        "an IPv4 network to route into the tunnel",
        (
            Arg("network", ROUTE_TARGET),
            Arg("netmask", either("default", 32, NETMASK), optional=True),
            Arg("gateway", GATEWAY4, optional=True),
            _METRIC,
        ),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
        repeat=Repeat.ADD,
        limit=MAX_ROUTES,
    ),
    Row(
        "route-ipv6",
        "an IPv6 network to route into the tunnel",
        (Arg("network", IPV6_INTERFACE), Arg("gateway", GATEWAY6, optional=True), _METRIC),
        client=APPLIED,
        server=APPLIED,
        pushed=APPLIED,
        repeat=Repeat.ADD,
        limit=MAX_ROUTES,
    ),
    Row(
        "route-gateway",
        "gateway of routes without one",
        (Arg("gateway", either("dhcp", None, IPV4)),),
        client=APPLIED,
        pushed=APPLIED,
        fills=(ClientConfig, "route_gateway"),
    ),
    Row(
        "route-ipv6-gateway",
        "gateway of IPv6 routes without one",
        (Arg("gateway", IPV6),),
        client=APPLIED,
        pushed=APPLIED,
        fills=(ClientConfig, "route_gateway6"),
    ),
    Row(
        "route-metric",
        "metric of routes without one",
        (Arg("metric", integer(0, 0x7FFFFFFF)),),
        client=APPLIED,
        pushed=APPLIED,
        fills=(ClientConfig, "route_metric"),
    ),
    Row(
        "redirect-gateway",
        "everything into the tunnel; `ipv6` IPv6 as well, `!ipv4` not IPv4",
        (),
        Arg("flag", choice(*REDIRECT_FLAGS)),
        client=APPLIED,
        pushed=APPLIED,
        repeat=Repeat.ADD,
    ),
    Row(
        "redirect-private",
        "as `redirect-gateway`, but that IPv4 keeps its default route: for `block-local`, and `ipv6`",
        (),
        Arg("flag", choice(*REDIRECT_FLAGS)),
        client=APPLIED,
        pushed=APPLIED,
        repeat=Repeat.ADD,
    ),
    Row(
        "route-nopull",
        "do not take routes and DNS from the server",
        client=APPLIED,
        fills=(ClientConfig, "route_nopull"),
    ),
    Row(
        "pull-filter",
        "accept, ignore or reject pushed options that begin with a text",
        (Arg("action", choice("accept", "ignore", "reject")), Arg("text", TEXT)),
        client=APPLIED,
        repeat=Repeat.ADD,
    ),
    Row(
        "dhcp-option",
        "`DNS`, `DNS6`, `DOMAIN`, `DOMAIN-SEARCH`, and on a plain host `DOMAIN-ROUTE`; other kinds have no effect",
        (Arg("kind", TEXT),),
        Arg("value", TEXT),
        client=APPLIED,
        pushed=APPLIED,
        repeat=Repeat.ADD,
    ),
    Row(
        "dns",
        "`search-domains NAME...`, or `server N address ADDRESS...`; on a plain host also `resolve-domains`, `dnssec`, "
        "`transport` (`plain`, `DoT`), `sni`, and ports",
        (Arg("what", choice("server", "search-domains")),),
        Arg("value", TEXT),
        client=APPLIED,
        pushed=APPLIED,
        repeat=Repeat.ADD,
    ),
    Row(
        "block-ipv6",
        "refuse IPv6 that the tunnel does not carry",
        client=NoEffect("IPv6 is always blocked unless the tunnel carries it", warn=False),
        pushed=APPLIED,
    ),
    Row(
        "persist-tun",
        "keep interface and routes while the tunnel reconnects, so that nothing goes around it meanwhile",
        client=APPLIED,
        server=NoEffect("a server's interface stays in any case", warn=False),
        pushed=NoEffect("whether the interface stays is the operator's"),
        fills=(ClientConfig, "persist_tun"),
    ),
    Row(
        "ifconfig-noexec",
        "leave the interface's addresses to others, on a plain host",
        client=APPLIED,
        server=NoEffect("a server's address is always set"),
        fills=(ClientConfig, "ifconfig_noexec"),
    ),
    Row(
        "route-noexec",
        "leave routes and resolvers to others, on a plain host",
        client=APPLIED,
        server=NoEffect("a server sets no routes", warn=False),
        fills=(ClientConfig, "route_noexec"),
    ),
    Row(
        "topology",
        "meaning of the addresses; a server without the line has `subnet`",
        (Arg("topology", choice("subnet", "net30", "p2p")),),
        client=NoEffect("the server's word counts", warn=False),
        server=APPLIED,
        pushed=APPLIED,
        point=APPLIED,
        fills=(ServerConfig, "topology"),
    ),
    Row(
        "ifconfig",
        "our address and the netmask, or the far end; on a server in the place of `server` (`topology subnet`)",
        (Arg("local", IPV4), Arg("netmask", IPV4)),
        client=_FROM_SERVER,
        server=APPLIED,
        pushed=APPLIED,
        point=APPLIED,
    ),
    Row(
        "ifconfig-ipv6",
        "our IPv6 address and the far end's; on a server of many in the place of `server-ipv6`",
        (Arg("local", IPV6_INTERFACE), Arg("remote", IPV6, optional=True)),
        client=_FROM_SERVER,
        server=APPLIED,
        pushed=APPLIED,
        point=APPLIED,
    ),
)

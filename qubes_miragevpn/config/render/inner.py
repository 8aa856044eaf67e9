# SPDX-License-Identifier: BSD-2-Clause
"""What lies inside the tunnel, as lines: routes and resolvers."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from qubes_miragevpn.config.model import ClientConfig, Dns, Landmark, LandmarkRoute, Route
from qubes_miragevpn.config.quoting import line_of

Target = IPv4Network | IPv6Network | Landmark


def inner(config: ClientConfig) -> Iterator[str]:
    """Routes and resolvers."""
    yield from (route(each.network, each) for each in config.routes)
    yield from (route(each.target, each) for each in config.landmark_routes)
    if config.redirect is not None:
        yield line_of("redirect-gateway", *sorted(config.redirect))
    if config.redirect_private is not None:
        yield line_of("redirect-private", *sorted(config.redirect_private))
    yield from _dns(config.dns)


def _dns(dns: Dns) -> Iterator[str]:
    """Both ways of saying it: only the newer one knows of ports, TLS and DNSSEC."""
    if (dns.port, dns.dnssec, dns.tls, dns.tls_name) == (Dns.port, "", False, ""):
        yield from (line_of("dhcp-option", "DNS", server) for server in dns.servers)
        yield from (line_of("dhcp-option", "DOMAIN-ROUTE", name) for name in dns.split)
    else:
        ends = (f"[{one}]:{dns.port}" if one.version == 6 else f"{one}:{dns.port}" for one in dns.servers)
        yield " ".join(("dns server 0 address", *ends))
        said = {"resolve-domains": dns.split, "dnssec": dns.dnssec, "sni": dns.tls_name, "transport": dns.tls and "DoT"}
        for what, value in said.items():
            if value:
                yield line_of("dns", "server", 0, what, *(value if isinstance(value, tuple) else (value,)))
    yield from (line_of("dhcp-option", "DOMAIN-SEARCH", name) for name in dns.search)


def route(target: Target, along: Route | LandmarkRoute) -> str:
    """A route to `target`, as its line."""
    gateway: object = along.gateway
    if isinstance(gateway, Landmark):
        gateway = gateway.value
    elif gateway is None and along.metric is not None:
        gateway = "default"
    if isinstance(target, Landmark):
        return line_of("route", target.value, "default", gateway, along.metric)
    if isinstance(target, IPv6Network):
        return line_of("route-ipv6", target, gateway, along.metric)
    return line_of("route", target.network_address, target.netmask, gateway, along.metric)

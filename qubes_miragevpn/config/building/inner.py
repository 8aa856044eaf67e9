# SPDX-License-Identifier: BSD-2-Clause
"""Inner network values: what a route, an address or a resolver must be before the host is asked to use it.

Shared by the loader (the operator's own lines) and by the pushed options (a server's). Nothing may be routed around
the tunnel: `net_gateway` and `remote_host` are unusable here, whoever wrote them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from typing import Any

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.config.model import Dns, Route
from qubes_miragevpn.config.rows.arguments import DNS_NAME

MAX_SERVERS = 16  # resolvers; a resolver library asks three of them
MAX_SEARCH = 32  # search domains; resolv.conf(5) takes 6 of old, 256 characters in all
DNS_PORT = 53
AROUND = frozenset({"net_gateway", "net_gateway_ipv6", "remote_host"})

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?\Z")


class Unusable(MirageError):
    """A value that is well written and cannot be used; its text says why."""


def demand_unicast(address: IPv4Address | IPv6Address) -> None:
    """Raise `Unusable` unless `address` may belong to one machine inside a tunnel."""
    kinds = {
        "unspecified": address.is_unspecified,
        "a loopback address": address.is_loopback,
        "a multicast address": address.is_multicast,
    }
    if isinstance(address, IPv4Address):
        kinds["reserved"] = address.is_reserved or int(address) >> 24 == 0
    else:
        kinds["link-local"] = address.is_link_local
        kinds["an IPv4 address in disguise"] = address.ipv4_mapped is not None
    for kind, applies in kinds.items():
        if applies:
            raise Unusable(f"{address} is {kind}")


def ipv4_route(
    target: IPv4Network | str, length: int | None, gateway: IPv4Address | str | None, metric: int | None
) -> Route:
    """A route from the values of the row `route`; raises `Unusable`."""
    if isinstance(target, str) or gateway in AROUND:
        raise Unusable("nothing is routed around the tunnel")
    network = target if length is None else IPv4Network((target.network_address, length), strict=False)
    if network.is_multicast or network.is_loopback or network.network_address in IPv4Network("240.0.0.0/4"):
        raise Unusable("this network cannot be routed")
    return Route(network, gateway if isinstance(gateway, IPv4Address) else None, metric)


def ipv6_route(target: IPv6Interface, gateway: IPv6Address | str | None, metric: int | None) -> Route:
    """A route from the values of the row `route-ipv6`; raises `Unusable`."""
    if gateway in AROUND:
        raise Unusable("nothing is routed around the tunnel")
    network = target.network
    if network.is_multicast or network.is_link_local or network == IPv6Network("::1/128"):
        raise Unusable("this network cannot be routed")
    return Route(network, gateway if isinstance(gateway, IPv6Address) else None, metric)


@dataclass
class _NumberedServer:
    """One ``dns server N``; `refused` when it demands what cannot be given."""

    addresses: list[IPv4Address | IPv6Address] = field(default_factory=list)
    refused: bool = False


@dataclass
class DnsOptions:
    """Gathers ``dhcp-option`` and ``dns``; each method raises `Unusable` for what it does not take."""

    dhcp_servers: list[IPv4Address | IPv6Address] = field(default_factory=list)
    dhcp_search: list[str] = field(default_factory=list)
    servers: dict[int, _NumberedServer] = field(default_factory=dict)
    search: list[str] = field(default_factory=list)

    def dhcp_option(self, kind: str, *values: str) -> None:
        """``dhcp-option KIND VALUE``: a resolver or a search domain."""
        if kind in {"DNS", "DNS6"} and len(values) == 1:
            _append(self.dhcp_servers, _resolver(values[0]), MAX_SERVERS, "resolvers")
        elif kind in {"DOMAIN", "DOMAIN-SEARCH", "ADAPTER_DOMAIN_SUFFIX"} and len(values) == 1:
            _append(self.dhcp_search, _domain(values[0]), MAX_SEARCH, "search domains")
        else:
            raise Unusable("no effect here")

    def dns(self, what: str, *values: str) -> None:
        """``dns search-domains ...`` and ``dns server N ...``."""
        if what == "search-domains":
            for value in values:
                _append(self.search, _domain(value), MAX_SEARCH, "search domains")
            return
        if len(values) < 3 or not re.fullmatch(r"-?[0-9]{1,3}", values[0]) or not -128 <= int(values[0]) <= 127:
            raise Unusable("not of the form 'dns server N address ADDRESS ...'")
        if int(values[0]) not in self.servers and len(self.servers) >= MAX_SERVERS:
            raise Unusable(f"more than {MAX_SERVERS} resolvers")
        server = self.servers.setdefault(int(values[0]), _NumberedServer())
        self._server(server, values[1], values[2:])

    def _server(self, server: _NumberedServer, what: str, values: tuple[str, ...]) -> None:
        if what == "address":
            for value in values:
                _append(server.addresses, _resolver(value), MAX_SERVERS, "resolvers")
        elif what == "transport" and values != ("plain",):
            server.refused = True
            raise Unusable("encrypted DNS is not supported, so this resolver is not used")
        elif what == "dnssec" and values == ("yes",):
            raise Unusable("DNSSEC is not checked here")
        elif what in {"resolve-domains", "exclude-domains"}:
            raise Unusable("every name is asked for inside the tunnel, not only those of some domains")
        elif what not in {"transport", "dnssec", "sni"}:
            raise Unusable("unknown word")

    def result(self) -> Dns:
        """The resolvers of the lowest usable number, or those of ``dhcp-option`` where there is none."""
        usable = [number for number, server in self.servers.items() if server.addresses and not server.refused]
        servers = self.servers[min(usable)].addresses if usable else self.dhcp_servers
        return Dns(tuple(servers), tuple(self.search or self.dhcp_search))


def _append(values: list[Any], value: Any, limit: int, what: str) -> None:
    if value in values:
        return
    if len(values) >= limit:
        raise Unusable(f"more than {limit} {what}")
    values.append(value)


def _resolver(word: str) -> IPv4Address | IPv6Address:
    """An address, in brackets or not, with port 53 or none."""
    found = _WITH_PORT.match(word)
    text = (found[1] or found[2]) if found else word
    try:
        if "%" in text:
            raise ValueError
        address = ip_address(text)
    except ValueError:
        raise Unusable("a resolver must be an IP address") from None
    if found and found[3] is not None and int(found[3]) != DNS_PORT:
        raise Unusable(f"resolvers are asked on port {DNS_PORT} only")
    demand_unicast(address)
    return address


def _domain(word: str) -> str:
    try:
        return str(DNS_NAME.parse(word)).lower()
    except ValueError:
        raise Unusable(f"a search domain must be {DNS_NAME.expected}") from None

# SPDX-License-Identifier: BSD-2-Clause
"""Inner network values: what a route, an address or a resolver must be before the host is asked to use it.

Shared by the loader (the operator's own lines) and by the pushed options (a server's). Whether something may be routed
around the tunnel (`net_gateway`, `remote_host`) is the caller's to say: on a plain host it may, in a VPN qube never.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from types import MappingProxyType
from typing import Any, TypeVar

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.config.model import EVERY_NAME, Dns, Landmark, LandmarkRoute, Route
from qubes_miragevpn.config.rows.arguments import DNS_NAME

MAX_SERVERS = 16  # resolvers; a resolver library asks three of them
MAX_SEARCH = 32  # search domains; resolv.conf(5) takes 6 of old, 256 characters in all
DNS_PORT, TLS_PORT = 53, 853
MIN_MTU_IPV6 = 1280  # RFC 8200, section 5; Linux switches IPv6 off on an interface below it
AROUND = frozenset({"net_gateway", "net_gateway_ipv6", "remote_host"})

T = TypeVar("T")

_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?\Z")


_ADDRESS4 = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_PROXY = re.compile(r"[A-Za-z0-9._:\[\]-]{1,253} [0-9]{1,5}")
_TEXT = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_NETBIOS, _WEB = "NetBIOS of Windows", "a browser's proxy"
_DHCP_OTHER: Mapping[str, tuple[re.Pattern[str], str]] = MappingProxyType(
    {
        "NTP": (_ADDRESS4, "the clock, which the tunnel does not set"),
        "WINS": (_ADDRESS4, _NETBIOS),
        "NBDD": (_ADDRESS4, _NETBIOS),
        "NBT": (re.compile(r"[1248]"), _NETBIOS),
        "NBS": (_TEXT, _NETBIOS),
        "DISABLE-NBT": (re.compile(r""), _NETBIOS),
        "PROXY_HTTP": (_PROXY, _WEB),
        "PROXY_HTTPS": (_PROXY, _WEB),
        "PROXY_BYPASS": (_TEXT, _WEB),
        "PROXY_AUTO_CONFIG_URL": (_TEXT, _WEB),
        "DOMAIN-ROUTE": (_TEXT, "split DNS, and every name is asked for inside the tunnel"),
    }
)
"""The kinds that openvpn and its graphical clients know besides, their form, and what they are about."""


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
    target: IPv4Network | str,
    length: int | None,
    gateway: IPv4Address | str | None,
    metric: int | None,
    *,
    around: bool = False,
) -> Route | LandmarkRoute:
    """A route from the values of the row `route`; raises `Unusable`. `around`: landmarks may be named."""
    if isinstance(target, str) or gateway in AROUND:
        if not around:
            raise Unusable("nothing is routed around the tunnel")
        if isinstance(target, IPv4Network):
            _demand_routable4(target := _network4(target, length))
        return LandmarkRoute(_landmark(target), _landmark(gateway), metric)
    network = _network4(target, length)
    _demand_routable4(network)
    return Route(network, gateway if isinstance(gateway, IPv4Address) else None, metric)


def _network4(target: IPv4Network, length: int | None) -> IPv4Network:
    return target if length is None else IPv4Network((target.network_address, length), strict=False)


def _demand_routable4(network: IPv4Network) -> None:
    if network.is_multicast or network.is_loopback or network.network_address in IPv4Network("240.0.0.0/4"):
        raise Unusable("this network cannot be routed")


def _landmark(word: T | str) -> T | Landmark:
    """The landmark that a word names; anything else as it is."""
    return Landmark(word.removesuffix("_ipv6")) if isinstance(word, str) else word


def ipv6_route(
    target: IPv6Interface, gateway: IPv6Address | str | None, metric: int | None, *, around: bool = False
) -> Route | LandmarkRoute:
    """A route from the values of the row `route-ipv6`; raises `Unusable`. `around`: landmarks may be named."""
    network = target.network
    if network.is_multicast or network.is_link_local or network == IPv6Network("::1/128"):
        raise Unusable("this network cannot be routed")
    if gateway in AROUND:
        if not around:
            raise Unusable("nothing is routed around the tunnel")
        return LandmarkRoute(network, _landmark(gateway), metric)
    return Route(network, gateway if isinstance(gateway, IPv6Address) else None, metric)


@dataclass
class _NumberedServer:
    """One ``dns server N``; `refused` when it demands what cannot be given."""

    addresses: list[IPv4Address | IPv6Address] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)
    domains: list[str] = field(default_factory=list)
    dnssec: str = ""
    tls: bool = False
    sni: str = ""
    refused: bool = False


@dataclass
class DnsOptions:
    """Gathers ``dhcp-option`` and ``dns``; each method raises `Unusable` for what it does not take.

    `whole`: ports, TLS, DNSSEC and servers for some domains only can be had, as from systemd-resolved on a plain host.
    """

    whole: bool = False
    dhcp_servers: list[IPv4Address | IPv6Address] = field(default_factory=list)
    dhcp_search: list[str] = field(default_factory=list)
    dhcp_split: list[str] = field(default_factory=list)
    servers: dict[int, _NumberedServer] = field(default_factory=dict)
    search: list[str] = field(default_factory=list)

    def dhcp_option(self, kind: str, *values: str) -> None:
        """``dhcp-option KIND VALUE``: a resolver or a search domain."""
        if kind in {"DNS", "DNS6"} and len(values) == 1:
            _append(self.dhcp_servers, _resolver(values[0])[0], MAX_SERVERS, "resolvers")
        elif kind == "DOMAIN-ROUTE" and len(values) == 1 and self.whole:
            _append(self.dhcp_split, _part(values[0]), MAX_SEARCH, "domains")
        elif kind == "DOMAIN-ROUTE" and values == (EVERY_NAME,):
            return  # as in any case where resolvers cannot be had for some domains only
        elif kind in {"DOMAIN", "DOMAIN-SEARCH", "ADAPTER_DOMAIN_SUFFIX"} and len(values) == 1:
            _append(self.dhcp_search, _domain(values[0]), MAX_SEARCH, "search domains")
        else:
            raise Unusable(_dhcp_other(kind, values))

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
                address, port = _resolver(value, any_port=self.whole)
                _append(server.addresses, address, MAX_SERVERS, "resolvers")
                server.ports.add(port)
        elif self.whole and what in {"resolve-domains", "transport", "dnssec", "sni"}:
            self._extra(server, what, values)
        elif what == "transport" and values != ("plain",):
            server.refused = True
            raise Unusable("encrypted DNS is not supported, so this resolver is not used")
        elif what == "dnssec" and values == ("yes",):
            raise Unusable("DNSSEC is not checked here")
        elif what == "resolve-domains" and values == (EVERY_NAME,):
            return
        elif what in {"resolve-domains", "exclude-domains"}:
            raise Unusable("every name is asked for inside the tunnel, not only those of some domains")
        elif what not in {"transport", "dnssec", "sni"}:
            raise Unusable("unknown word")

    def _extra(self, server: _NumberedServer, what: str, values: tuple[str, ...]) -> None:
        """What only a resolver program on the machine itself can do."""
        if what == "resolve-domains":
            for value in values:
                _append(server.domains, _part(value), MAX_SEARCH, "domains")
        elif what == "dnssec" and values in {("yes",), ("no",), ("optional",)}:
            server.dnssec = values[0]
        elif what == "sni" and len(values) == 1:
            server.sni = _domain(values[0])
        elif what == "transport" and values in {("plain",), ("DoT",)}:
            server.tls = values == ("DoT",)
        else:
            server.refused |= what == "transport"
            raise Unusable("this cannot be had" if what == "transport" else "not understood")

    def result(self) -> Dns:
        """The resolvers of the lowest usable number, or those of ``dhcp-option`` where there is none."""
        usable = [
            number
            for number, server in self.servers.items()
            if server.addresses and not server.refused and len(server.ports) == 1
        ]
        search = tuple(self.search or self.dhcp_search)
        if not usable:
            return Dns(tuple(self.dhcp_servers), search, _parts(self.dhcp_split))
        best = self.servers[min(usable)]
        (port,) = best.ports
        if best.tls and port == DNS_PORT:
            port = TLS_PORT
        return Dns(tuple(best.addresses), search, _parts(best.domains), port, best.dnssec, best.tls, best.sni)


def _dhcp_other(kind: str, values: tuple[str, ...]) -> str:
    """Why a ``dhcp-option`` that names no resolver and no domain is not used: its kind, or what is wrong with it."""
    if kind not in _DHCP_OTHER:
        return "an unknown kind"
    pattern, about = _DHCP_OTHER[kind]
    if not pattern.fullmatch(" ".join(values)):
        return "not of the form that this kind has"
    return f"no effect here: it is about {about}"


def _append(values: list[Any], value: Any, limit: int, what: str) -> None:
    if value in values:
        return
    if len(values) >= limit:
        raise Unusable(f"more than {limit} {what}")
    values.append(value)


def _resolver(word: str, *, any_port: bool = False) -> tuple[IPv4Address | IPv6Address, int]:
    """An address, in brackets or not, and its port; only 53 unless `any_port`."""
    found = _WITH_PORT.match(word)
    text = (found[1] or found[2]) if found else word
    try:
        if "%" in text:
            raise ValueError
        address = ip_address(text)
    except ValueError:
        raise Unusable("a resolver must be an IP address") from None
    port = int(found[3]) if found and found[3] is not None else DNS_PORT
    if port != DNS_PORT and not (any_port and 0 < port < 65536):
        raise Unusable(f"resolvers are asked on port {DNS_PORT} only")
    demand_unicast(address)
    return address, port


def _part(word: str) -> str:
    """A domain that resolvers are asked about, or the root: every name."""
    return word if word == EVERY_NAME else _domain(word)


def _parts(domains: list[str]) -> tuple[str, ...]:
    """Where one of them is the root, the others are below it."""
    return (EVERY_NAME,) if EVERY_NAME in domains else tuple(domains)


def _domain(word: str) -> str:
    try:
        return str(DNS_NAME.parse(word)).lower()
    except ValueError:
        raise Unusable(f"a search domain must be {DNS_NAME.expected}") from None

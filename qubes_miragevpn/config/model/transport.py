# SPDX-License-Identifier: BSD-2-Clause
"""How a server is reached: transports, addresses, proxies."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.base.secret import Secret


class Proto(Enum):
    """Outer transport."""

    UDP = "udp"
    TCP = "tcp"


class Family(Enum):
    """Outer address family that a remote may be reached by."""

    ANY = "any"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True)
class Credentials:
    """User name and password, for the server or for a proxy."""

    username: str
    password: Secret


@dataclass(frozen=True)
class HttpProxy:
    """``http-proxy``: reach the server by CONNECT (TCP only). `host` is a name or an address literal.

    `methods`: how `credentials` may be shown, "basic" and "digest"; `eager`: at once, before the proxy asks. `asks`:
    the profile holds no credentials, the user does.
    """

    host: str
    port: int
    credentials: Credentials | None = None
    methods: frozenset[str] = frozenset()
    eager: bool = False
    version: str = "1.0"
    headers: tuple[tuple[str, str], ...] = ()  # name and value, printable
    asks: bool = False


@dataclass(frozen=True)
class SocksProxy:
    """``socks-proxy``: reach the server through SOCKS5, by CONNECT (TCP) or UDP ASSOCIATE; `asks` as in `HttpProxy`."""

    host: str
    port: int
    credentials: Credentials | None = None
    asks: bool = False


Proxy = HttpProxy | SocksProxy


@dataclass(frozen=True)
class Local:
    """Where a client's socket is bound: None and 0 leave it to the system."""

    address: IPv4Address | IPv6Address | None = None
    port: int = 0


ANYWHERE = Local()


@dataclass(frozen=True)
class Listen:
    """Where a server listens; `address` "" means every address of `family`."""

    address: str
    port: int
    proto: Proto
    family: Family = Family.ANY

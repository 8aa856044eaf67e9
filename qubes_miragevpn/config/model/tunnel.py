# SPDX-License-Identifier: BSD-2-Clause
"""What a tunnel is for its host: addresses, routes, resolvers; and all that a server may push."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model.session import Compression


@dataclass(frozen=True)
class Route:
    """A route into the tunnel. `gateway` None means the tunnel itself."""

    network: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None
    metric: int | None = None


class Landmark(Enum):
    """An address that a route may name before it is known (``vpn_gateway`` is simply the tunnel)."""

    NET_GATEWAY = "net_gateway"  # the machine's own gateway, outside of the tunnel
    REMOTE_HOST = "remote_host"  # the server's outer address
    VPN_GATEWAY = "vpn_gateway"


@dataclass(frozen=True)
class LandmarkRoute:
    """A ``route`` line that names a landmark, as its target or as its gateway; on a plain host only."""

    target: IPv4Network | IPv6Network | Landmark
    gateway: IPv4Address | IPv6Address | Landmark | None = None
    metric: int | None = None


@dataclass(frozen=True)
class Detour:
    """A route around the tunnel, on a plain host: to `network` by `via`.

    `network` None is the machine's own gateway itself, `via` None the way that led there without the tunnel.
    """

    network: IPv4Network | IPv6Network | None
    via: IPv4Address | IPv6Address | None = None
    metric: int | None = None


EVERY_NAME = "."


@dataclass(frozen=True)
class Dns:
    """Resolvers and search domains that the tunnel offers, in order of preference."""

    servers: tuple[IPv4Address | IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    split: tuple[str, ...] = ()  # the only domains that the servers are asked about; or `EVERY_NAME`, whatever else
    # goes through the tunnel; () every name where everything does, and otherwise as the system sees fit
    port: int = 53
    dnssec: str = ""  # "yes", "no", "optional", or "" for the system's own choice
    tls: bool = False  # ask over TLS
    tls_name: str = ""  # whose certificate the servers must have then


@dataclass(frozen=True)
class TunnelSettings:
    """Everything the host must know to bring the tunnel's interface up: the pulled options, checked.

    `ipv4` carries the prefix length of the on-link network (``topology subnet``); with the other
    topologies it is a /32 and `ipv4_peer` is the far end.
    """

    ipv4: IPv4Interface | None = None
    ipv4_peer: IPv4Address | None = None
    ipv6: IPv6Interface | None = None
    gateway4: IPv4Address | None = None
    gateway6: IPv6Address | None = None
    routes: tuple[Route, ...] = ()
    detours: tuple[Detour, ...] = ()
    redirect: frozenset[str] | None = None
    block_ipv6: bool = False
    ethernet: bool = False  # routes need a gateway, since there are neighbours
    dns: Dns = field(default_factory=Dns)
    mtu: int = 1500


@dataclass(frozen=True)
class PulledOptions:
    """A whole PUSH_REPLY (all its continuations), parsed and filtered.

    What concerns the interface is in `tunnel`; the rest steers the session. None means "not pushed".
    """

    tunnel: TunnelSettings
    cipher: str | None = None
    peer_id: int | None = None
    key_derivation_ekm: bool = False  # ``key-derivation tls-ekm`` or ``protocol-flags tls-ekm``
    cc_exit: bool = False  # ``protocol-flags cc-exit``
    compression: Compression | None = None
    dynamic_tls_crypt: bool = False  # ``protocol-flags dyn-tls-crypt``
    epoch: bool = False  # ``protocol-flags aead-epoch``
    ping: float | None = None
    ping_restart: float | None = None
    ping_exit: float | None = None
    reneg_sec: float | None = None
    session_timeout: float | None = None
    inactive: tuple[float, int] | None = None  # seconds, bytes
    auth_token: Secret | None = None  # to log in with instead of the password from now on
    auth_token_user: str | None = None  # the user name that goes with it
    explicit_exit_notify: int | None = None
    dropped: tuple[str, ...] = ()  # options that were refused or have no effect here, one printable line each

# SPDX-License-Identifier: BSD-2-Clause
"""A whole configuration, one class for each role."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import ClassVar

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model.logins import LoginRules
from qubes_miragevpn.config.model.session import Common
from qubes_miragevpn.config.model.transport import ANYWHERE, Credentials, Family, Listen, Local, Proto, Proxy
from qubes_miragevpn.config.model.tunnel import Dns, LandmarkRoute, Route


@dataclass(frozen=True)
class Remote:
    """One server to try: `host` is a name or an address literal; with a `proxy` it is that which is connected to."""

    host: str
    port: int
    proto: Proto
    family: Family = Family.ANY
    proxy: Proxy | None = None
    local: Local = ANYWHERE
    common: Common | None = None  # what its <connection> block makes of the profile's; None: the profile's own

    @property
    def hop(self) -> tuple[str, int, Family]:
        """What our own socket is connected to: host, port, and the family of its addresses."""
        family = self.family if self.proxy is None else Family.ANY
        if self.local.address is not None:
            family = Family.IPV4 if self.local.address.version == 4 else Family.IPV6
        return (self.host, self.port, family) if self.proxy is None else (self.proxy.host, self.proxy.port, family)


@dataclass(frozen=True)
class PullFilter:
    """``pull-filter``: what to do with a pushed option that begins with `text`."""

    action: str  # accept, ignore, reject (the session ends)
    text: str


@dataclass(frozen=True)
class StaticChallenge:
    """``static-challenge``: a question beside the password; `concat`: the answer is appended to it."""

    text: str
    echo: bool
    concat: bool = False


@dataclass(frozen=True)
class ClientConfig:
    """A client profile."""

    common: Common
    remotes: tuple[Remote, ...]
    remote_random: bool = False
    auth_user_pass: bool = False  # the server wants user name and password
    credentials: Credentials | None = None  # given by the profile itself (file or inline)
    username: str | None = None  # a file with the user name alone: only the password is asked for
    auth_nocache: bool = False
    static_challenge: StaticChallenge | None = None
    session_timeout: float = 0.0  # the client leaves for good after so many seconds of a working tunnel; 0 never
    remote_random_hostname: bool = False  # look up a random name below the remote's, past every cache
    auth_retry: str = "none"  # none, nointeract, interact
    routes: tuple[Route, ...] = ()
    redirect: frozenset[str] | None = None  # flags of ``redirect-gateway``; None when not asked for
    redirect_private: frozenset[str] | None = None  # flags of ``redirect-private``; None when not asked for
    landmark_routes: tuple[LandmarkRoute, ...] = ()
    persist_tun: bool = False  # while the tunnel reconnects its routes stay
    ifconfig_noexec: bool = False  # somebody else sets the interface up
    route_noexec: bool = False  # somebody else sets routes and resolvers
    around: bool = False  # routes may lead around the tunnel: on a plain host, never in a VPN qube
    route_nopull: bool = False
    route_gateway: IPv4Address | None = None  # ``route-gateway`` of the profile itself
    route_gateway6: IPv6Address | None = None  # ``route-ipv6-gateway``
    route_metric: int | None = None  # metric of routes without one
    dns: Dns = field(default_factory=lambda: Dns())  # ``dhcp-option`` and ``dns`` of the profile itself
    pull_filters: tuple[PullFilter, ...] = ()
    replay_persist: str = ""  # a file that outlives the program: the newest packets seen under a static key
    push_peer_info: bool = False  # the server is told about this machine: system, TLS library, hardware address
    peer_info: tuple[tuple[str, str], ...] = ()  # and these ``setenv UV_NAME VALUE`` lines

    def at(self, remote: Remote) -> ClientConfig:
        """What counts while `remote` is tried."""
        return self if remote.common is None else replace(self, common=remote.common)


@dataclass(frozen=True)
class StaticConfig:
    """One end of a tunnel in static key mode: no TLS, nothing negotiated or pulled, one key for good.

    `client` holds what it shares with a client (remotes, routes, timers, sizes); it has no certificates. `direction`
    0 or 1 takes different halves of the 256-byte `key` for the two ways, None the same. `tunnel` is what a server
    would push: addresses, topology. With `listen` this end waits for the other there, which comes from one of the
    addresses `only` (() any) on TCP, and is whoever sends an authentic packet on UDP.
    """

    client: ClientConfig
    key: Secret
    direction: int | None
    cipher: str  # a CBC suite
    tunnel: tuple[str, ...]
    listen: Listen | None = None
    only: tuple[IPv4Address | IPv6Address, ...] = ()


@dataclass(frozen=True)
class Frequency:
    """`most` times in each `seconds`."""

    most: int
    seconds: float


FIRST_PACKETS = Frequency(100, 10.0)
"""First packets that a server answers, unless it is told otherwise (as openvpn)."""


@dataclass(frozen=True)
class OutputFile:
    """A file that is written anew every `period` seconds."""

    path: str
    period: float


@dataclass(frozen=True)
class Operating:
    """How a server is looked after; paths are as they were written, relative to the configuration's file."""

    status: OutputFile | None = None  # who is connected, in openvpn's format `status_version`
    status_version: int = 1
    metrics: OutputFile | None = None  # the same for Prometheus
    management: str | None = None  # the path of the management socket
    management_hold: bool = False  # the server begins when it is released there
    log_cache: int = 250  # lines of the log that can be asked for there


@dataclass(frozen=True)
class PointClient:
    """The end of a TLS tunnel between two that connects: ``tls-client`` without ``pull``.

    `client` holds what it shares with a client; `tunnel` is what a server would push.
    """

    client: ClientConfig
    tunnel: tuple[str, ...]


@dataclass(frozen=True)
class PointServer:
    """The end of a TLS tunnel between two that waits: ``tls-server`` without ``mode server``.

    `listen` says where; only the addresses `only` are answered, () all of them. The rest is as in `PointClient`, but
    `client` has no remotes.
    """

    client: ClientConfig
    tunnel: tuple[str, ...]
    listen: Listen
    only: tuple[IPv4Address | IPv6Address, ...] = ()
    max_clients: ClassVar[int] = 1
    login: ClassVar[None] = None  # nobody logs in but by a certificate
    first_packets: ClassVar[Frequency] = FIRST_PACKETS
    new_clients: ClassVar[None] = None

    @property
    def common(self) -> Common:
        """What every role has."""
        return self.client.common

    @property
    def places(self) -> tuple[Listen, ...]:
        """Everywhere it listens."""
        return (self.listen,)


@dataclass(frozen=True)
class ClientDir:
    """``client-config-dir``: a file of settings for each client; `exclusive`: whoever has none may not enter."""

    path: str  # as it was written, relative to the configuration's file
    exclusive: bool = False


@dataclass(frozen=True)
class OneClient:
    """What a server's file for one client says.

    `pushes` change the options that are pushed to everybody, in this order: ("push", option) adds one, ("remove", text)
    takes those away that begin so, ("reset", "") takes all.
    """

    disabled: bool = False
    ifconfig: tuple[IPv4Address, IPv4Address] | None = None  # its address, and netmask or far end
    ifconfig6: tuple[IPv6Interface, IPv6Address | None] | None = None  # and the far end
    networks: tuple[IPv4Network | IPv6Network, ...] = ()  # behind it (``iroute``, ``iroute-ipv6``)
    pushes: tuple[tuple[str, str], ...] = ()

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Those of the client that are not of a pool."""
        four = () if self.ifconfig is None else (self.ifconfig[0],)
        return four if self.ifconfig6 is None else (*four, self.ifconfig6[0].ip)

    def pushed(self, options: Iterable[str]) -> list[str]:
        """What becomes of the options that are pushed to everybody."""
        left = list(options)
        for action, text in self.pushes:
            if action == "push":
                left.append(text)
            else:
                left = [option for option in left if action == "remove" and not option.startswith(text)]
        return left


@dataclass(frozen=True)
class Bridge:
    """``server-bridge``: the server's TAP is in a bridge, which somebody else sets up and gives its addresses.

    `gateway` is pushed as the clients' way out; None: their addresses come by DHCP, and if `dhcp_gateway` that as well.
    """

    gateway: IPv4Address | None = None
    dhcp_gateway: bool = True


@dataclass(frozen=True)
class ServerConfig:
    """A server configuration (``mode server``)."""

    common: Common
    listen: Listen
    network: IPv4Network | None  # ``server NETWORK MASK``; None: there is no IPv4, or it is DHCP's
    network6: IPv6Network | None = None  # ``server-ipv6 NETWORK/BITS``
    own: IPv4Address | None = None  # the server's address (``ifconfig``), where it is not the first host's
    own6: IPv6Address | None = None  # the same of IPv6
    topology: str = "subnet"  # what clients take their addresses for: subnet, net30, p2p
    push: tuple[str, ...] = ()  # options pushed to every client, OpenVPN syntax, no commas
    max_clients: int = 1024
    duplicate_cn: bool = False
    client_to_client: bool = False
    operating: Operating = Operating()
    login: LoginRules | None = None  # what clients must say besides their certificate
    bridge: Bridge | None = None  # then `network` is the bridge's
    pool: tuple[IPv4Address, ...] | None = None  # first and last address of the pool; () none, None the whole network
    pool6: tuple[IPv6Address, ...] | None = None  # the first address of the IPv6 pool; () and None as above
    persist: OutputFile | None = None  # where leases outlive the program, written so often; period 0: only read
    nat: str | None = None  # the interface by which clients leave this machine; "" that of its default route
    client_dir: ClientDir | None = None
    max_routes_per_client: int = 256  # networks behind one client
    routes: tuple[Route, ...] = ()  # of this machine into the tunnel: to networks behind clients
    beside: tuple[Listen, ...] = ()  # where it listens besides
    first_packets: Frequency = FIRST_PACKETS  # ``connect-freq-initial``: answers to those who proved nothing
    new_clients: Frequency | None = None  # ``connect-freq``: handshakes that begin

    @property
    def places(self) -> tuple[Listen, ...]:
        """Everywhere it listens."""
        return (self.listen, *self.beside)

    @property
    def address(self) -> IPv4Address | None:
        """What has no client inside: the server's address, or the gateway of the bridge's network."""
        if self.bridge is not None:
            return self.bridge.gateway
        return self.own or (None if self.network is None else self.network.network_address + 1)

    @property
    def address6(self) -> IPv6Address | None:
        """The server's IPv6 address."""
        return self.own6 or (None if self.network6 is None else self.network6.network_address + 1)

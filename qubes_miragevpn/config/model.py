# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration means, as frozen values in which conflict cannot be represented.

The loader makes these from text, the protocol machines and the drivers read them; nobody changes
them. Times are seconds, sizes bytes. A value that was *pulled* from a server is a `TunnelSettings`
and never mixes with the operator's own configuration, so a restart always begins clean.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

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


class SizeOf(Enum):
    """What a size of ``mssfix`` or ``fragment`` is meant of."""

    OUTER = "mtu"  # the whole outer packet, IP header included
    LINK = ""  # the outer packet without IP and transport header
    INNER = "fixed"  # the inner packet (``mssfix`` only)


class Compression(Enum):
    """Framing of inner packets for compression. We never compress; whether a peer does is another matter."""

    NONE = "none"
    STUB_LZO = "comp-lzo no"
    LZO = "comp-lzo"  # also `compress lzo`
    STUB = "compress stub"
    LZ4 = "compress lz4"
    STUB_V2 = "compress stub-v2"
    LZ4_V2 = "compress lz4-v2"


@dataclass(frozen=True)
class Credentials:
    """User name and password, for the server or for a proxy."""

    username: str
    password: Secret


@dataclass(frozen=True)
class HttpProxy:
    """``http-proxy``: reach the server by CONNECT (TCP only). `host` is a name or an address literal.

    `methods`: how `credentials` may be shown, "basic" and "digest"; `eager`: at once, before the proxy asks.
    """

    host: str
    port: int
    credentials: Credentials | None = None
    methods: frozenset[str] = frozenset()
    eager: bool = False
    version: str = "1.0"
    headers: tuple[tuple[str, str], ...] = ()  # name and value, printable


@dataclass(frozen=True)
class SocksProxy:
    """``socks-proxy``: reach the server through SOCKS5, by CONNECT (TCP) or UDP ASSOCIATE."""

    host: str
    port: int
    credentials: Credentials | None = None


Proxy = HttpProxy | SocksProxy


@dataclass(frozen=True)
class Local:
    """Where a client's socket is bound: None and 0 leave it to the system."""

    address: IPv4Address | IPv6Address | None = None
    port: int = 0


ANYWHERE = Local()


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
class NoWrap:
    """Control channel in clear TLS records."""


@dataclass(frozen=True)
class TlsAuth:
    """``tls-auth``: HMAC over control packets with the 256-byte static `key`; `direction` None: both ways alike."""

    key: Secret
    direction: int | None  # 0, 1, or None
    digest: str  # canonical name, e.g. "SHA1" (OpenVPN's default), "SHA256", "SHA512"


@dataclass(frozen=True)
class TlsCrypt:
    """``tls-crypt``: control packets encrypted and authenticated with the 256-byte static key."""

    key: Secret


@dataclass(frozen=True)
class TlsCryptV2Client:
    """``tls-crypt-v2`` of a client: its own 256-byte `key`, and that key `wrapped` for the server (WKc)."""

    key: Secret
    wrapped: bytes


@dataclass(frozen=True)
class TlsCryptV2Server:
    """``tls-crypt-v2`` of a server: the 128-byte `key` that opens wrapped client keys.

    `beside` is for clients that have no key of their own. `force_cookie`: clients too old for a stateless first
    answer are refused. `max_age_days`: client keys issued longer ago are refused; 0 any age.
    """

    key: Secret
    beside: TlsAuth | TlsCrypt | None = None
    force_cookie: bool = False
    max_age_days: int = 0


ControlWrap = NoWrap | TlsAuth | TlsCrypt | TlsCryptV2Client | TlsCryptV2Server


@dataclass(frozen=True)
class Identity:
    """Our own certificate chain (PEM, leaf first) and its unencrypted private key (PEM)."""

    chain_pem: bytes
    key_pem: Secret


class NameType(Enum):
    """How ``verify-x509-name`` compares (OpenVPN's meaning of its three types)."""

    SUBJECT = "subject"  # whole subject, "C=AA, O=Org, CN=name"
    NAME = "name"  # common name, exactly
    NAME_PREFIX = "name-prefix"  # beginning of the common name


@dataclass(frozen=True)
class NameCheck:
    """The name that a peer's certificate must bear."""

    expected: str
    type: NameType = NameType.SUBJECT


@dataclass(frozen=True)
class PeerPolicy:
    """What a peer's certificate must fulfil.

    At least one of `ca_pem` and `fingerprints` is given; the loader refuses a profile with neither, and
    the verifier raises `MisuseError` if it is handed such a value all the same.
    """

    ca_pem: bytes = b""
    fingerprints: frozenset[bytes] = frozenset()  # SHA-256 of the leaf's DER, 32 bytes each
    remote_cert_tls: str | None = None  # "server" or "client": key usage and extended key usage demanded
    name: NameCheck | None = None
    issuer_hashes: frozenset[bytes] = frozenset()  # ``verify-hash``: SHA-256 or SHA-1 of the leaf issuer's DER
    key_usages: tuple[int, ...] | None = None  # ``remote-cert-ku``: one of these sets of bits; () any; None not asked
    extended_usage: str = ""  # ``remote-cert-eku``: a dotted object identifier
    username_fields: tuple[str, ...] = ("CN",)  # ``x509-username-field``: what the peer's name is made of
    crl_pem: bytes = b""  # ``crl-verify``: lists of revoked certificates
    revoked_serials: frozenset[int] | None = None  # ``crl-verify DIRECTORY dir``; None: no such directory


@dataclass(frozen=True)
class TlsVersions:
    """Bounds of the TLS version, as (major, minor); `maximum` None means the newest there is."""

    minimum: tuple[int, int] = (1, 2)
    maximum: tuple[int, int] | None = None


@dataclass(frozen=True)
class TlsChoices:
    """What a handshake may use; an empty one is the TLS library's own choice."""

    ciphers: str = ""  # ``tls-cipher`` (TLS 1.2), in OpenSSL's language
    suites: str = ""  # ``tls-ciphersuites`` (TLS 1.3), in OpenSSL's language
    groups: str = ""  # ``tls-groups``, with ":" between
    security_level: int | None = None  # ``tls-cert-profile``: OpenSSL's security level


@dataclass(frozen=True)
class Timers:
    """Time and volume limits of a session; 0 switches a limit off, except where said."""

    tls_timeout: float = 2.0  # first retransmission of a control packet
    hand_window: float = 60.0  # a handshake must end within
    tran_window: float = 3600.0  # a lame-duck key lives
    reneg_sec: float = 3600.0  # we begin a renegotiation after
    reneg_sec_least: float | None = None  # the moment is drawn between this and `reneg_sec`; None: as OpenVPN does
    reneg_bytes: int = 0
    reneg_pkts: int = 0
    ping: float = 0.0  # keep-alive sent after silence of our own
    ping_restart: float = 120.0  # peer silent for so long: restart (server: drop the peer)
    ping_exit: float = 0.0  # peer silent for so long: stop
    connect_timeout: float = 120.0  # a remote must answer within (``server-poll-timeout``)
    connect_retry: float = 1.0  # first pause between two passes over the remotes
    connect_retry_max_pause: float = 300.0  # the pause doubles up to this
    connect_retry_max: int = 0  # passes over the remotes before giving up; 0 never


DEFAULT_DATA_CIPHERS = ("AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305")


@dataclass(frozen=True)
class Common:
    """What the client and the server role share."""

    wrap: ControlWrap
    identity: Identity | None
    peer: PeerPolicy
    tls: TlsVersions = TlsVersions()
    choices: TlsChoices = TlsChoices()
    timers: Timers = Timers()
    data_ciphers: tuple[str, ...] = DEFAULT_DATA_CIPHERS
    data_ciphers_fallback: str | None = None
    digest: str = "SHA1"  # of the HMAC that goes with a cipher that is not AEAD; "" none
    dev: str = "tun"
    tun_mtu: int = 1500
    tun_mtu_max: int = 1600  # the largest that a server may push
    mssfix: int = 1492  # inner TCP keeps packets below this size; 0 off
    mssfix_of: SizeOf = SizeOf.OUTER
    fragment: int = 0  # longer packets are cut (UDP); 0: there are no fragments
    fragment_of: SizeOf = SizeOf.LINK
    compression: Compression = Compression.NONE
    decompress: bool = False  # let in what the peer compressed (``allow-compression asym`` or ``yes``)
    replay_window: int = 64
    explicit_exit_notify: int = 0
    max_packet_size: int = 1250  # of control packets, IP and transport headers included
    sndbuf: int = 0  # socket buffers; 0 leaves the system's value
    rcvbuf: int = 0
    bind_dev: str = ""  # the interface that the socket uses, whatever the routes say; "" any
    mark: int = 0  # SO_MARK of the socket; in a VPN qube the firewall's own mark takes its place
    verb: int = 1


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
    peer_info: tuple[tuple[str, str], ...] = ()  # ``setenv UV_NAME VALUE`` lines that ``push-peer-info`` tells

    def at(self, remote: Remote) -> ClientConfig:
        """What counts while `remote` is tried."""
        return self if remote.common is None else replace(self, common=remote.common)


@dataclass(frozen=True)
class StaticConfig:
    """One end of a tunnel in static key mode: no TLS, nothing negotiated or pulled, one key for good.

    `client` holds what it shares with a client (remotes, routes, timers, sizes); it has no certificates. `direction`
    0 or 1 takes different halves of the 256-byte `key` for the two ways, None the same. `tunnel` is what a server
    would push: addresses, topology.
    """

    client: ClientConfig
    key: Secret
    direction: int | None
    cipher: str  # a CBC suite
    tunnel: tuple[str, ...]


@dataclass(frozen=True)
class Listen:
    """Where a server listens; `address` "" means every address of `family`."""

    address: str
    port: int
    proto: Proto
    family: Family = Family.ANY


@dataclass(frozen=True)
class ServerConfig:
    """A server configuration (``mode server``, ``topology subnet``)."""

    common: Common
    listen: Listen
    network: IPv4Network  # ``server NETWORK MASK``; the server takes the first host address
    push: tuple[str, ...] = ()  # options pushed to every client, OpenVPN syntax, no commas
    max_clients: int = 1024
    duplicate_cn: bool = False
    client_to_client: bool = False


@dataclass(frozen=True)
class Dns:
    """Resolvers and search domains that the tunnel offers, in order of preference."""

    servers: tuple[IPv4Address | IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    split: tuple[str, ...] = ()  # the only domains that the servers are to be asked about; () every name
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
    auth_token: Secret | None = None  # to log in with instead of the password from now on
    auth_token_user: str | None = None  # the user name that goes with it
    explicit_exit_notify: int | None = None
    dropped: tuple[str, ...] = ()  # options that were refused or have no effect here, one printable line each

# SPDX-License-Identifier: BSD-2-Clause
"""What every role's session has: TLS, times, sizes, ciphers, the framing of packets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qubes_miragevpn.config.model.security import ControlWrap, Identity, PeerPolicy


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
    inactive: float = 0.0  # the tunnel ends after so many seconds in which less was carried than
    inactive_bytes: int = 0  # so much; pings do not count
    connect_timeout: float = 120.0  # a remote must answer within (``server-poll-timeout``)
    connect_retry: float = 1.0  # first pause between two passes over the remotes
    connect_retry_max_pause: float = 300.0  # the pause doubles up to this
    connect_retry_max: int = 0  # passes over the remotes before giving up; 0 never
    resolv_retry: float = 0.0  # a name is looked up again before the next remote is tried


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
    ethernet: bool = False  # ``dev tap``: frames instead of IP packets
    tun_mtu: int = 1500
    tun_mtu_max: int = 1600  # the largest that a server may push
    mssfix: int = 1492  # inner TCP keeps packets below this size; 0 off
    mssfix_of: SizeOf = SizeOf.OUTER
    fragment: int = 0  # longer packets are cut (UDP); 0: there are no fragments
    fragment_of: SizeOf = SizeOf.LINK
    compression: Compression = Compression.NONE
    decompress: bool = False  # let in what the peer compressed (``allow-compression asym`` or ``yes``)
    replay_window: int = 64  # packets may be so far out of order
    replay_time: float = 15.0  # and so many seconds late; 0 however late
    disable_occ: bool = False  # the peer's options string is not looked at
    floats: bool = False  # a peer that sends authentic packets from another address is followed there (UDP)
    explicit_exit_notify: int = 0
    max_packet_size: int = 1250  # of control packets, IP and transport headers included
    sndbuf: int = 0  # socket buffers; 0 leaves the system's value
    rcvbuf: int = 0
    bind_dev: str = ""  # the interface that the socket uses, whatever the routes say; "" any
    mark: int = 0  # SO_MARK of the socket; in a VPN qube the firewall's own mark takes its place
    verb: int = 1

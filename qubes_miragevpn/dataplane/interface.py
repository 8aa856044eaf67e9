# SPDX-License-Identifier: BSD-2-Clause
"""The data plane as the rest of the program sees it.

Modelled on the kernel's OpenVPN data-channel offload: the protocol core decides, the data plane moves
packets, tracks replay, counts, sends keep-alives, and hands every control packet up unread. A backend may
be the readable reference, a native one or the kernel. It runs on the event loop of its owner (or on
threads of its own) and reports through one callback, always on the loop's thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.crypto.replay import Numbering

SockAddr = tuple[str, int] | tuple[str, int, int, int]
"""An IPv4 or IPv6 socket address as the socket module gives it."""

Link = int
"""A transport: a UDP socket, or one TCP connection. Numbers are never used again."""

NO_PEER_ID = 0xFFFFFF
"""`peer_id` on the wire that means "none": packets go out as DATA_V1."""


_NO_KEY = Secret(b"")


@dataclass(frozen=True)
class DirectionKeys:
    """Keys of one direction: cipher key, the 8 bytes of implicit IV (AEAD), the HMAC key (suites that are not AEAD)."""

    cipher_key: Secret
    implicit_iv: Secret = _NO_KEY
    hmac_key: Secret = _NO_KEY


@dataclass(frozen=True)
class DataKeys:
    """What one key slot needs: suite name as in `crypto.suites`, and the keys of both directions.

    `digest` is the HMAC's, as in `crypto.digests`, for a suite that is not AEAD. `epoch`: packets have the epoch
    format, and the cipher keys are the first secrets (32 bytes) of the chains (`crypto.epoch`). `since`: the format of
    the static key mode, with this time (seconds of the wall clock) beside every packet id; 0: not that. `seen`, with
    that mode: packets that are no newer are replays, and it is kept up to date.
    """

    suite: str
    send: DirectionKeys
    receive: DirectionKeys
    digest: str = ""
    epoch: bool = False
    since: int = 0
    seen: Numbering | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Envelope:
    """What a relay on the way wants around every datagram of a link.

    `header` goes in front of each, and a datagram that comes without it is dropped. The relay works for as long as
    the connection `control` lasts; the link fails when that ends.
    """

    header: bytes
    control: socket.socket


@dataclass(frozen=True)
class PayloadRules:
    """What lies between the keys and the inner packets; both ends must have it alike.

    `decompress`: compressed packets are taken. `fragment`: bytes of payload in one packet, longer ones are cut (0:
    there is no fragmentation, and no header for it).
    """

    compression: Compression = Compression.NONE
    decompress: bool = False
    fragment: int = 0


@dataclass(frozen=True)
class PeerLimits:
    """Keep-alive and size rules of a peer; 0 switches off."""

    ping: float = 0.0  # send a ping after so many seconds without sending anything
    silence: float = 0.0  # report PeerSilent after so many seconds without an authenticated packet
    replay_window: int = 64
    replay_time: float = 0.0  # a packet may be so many seconds late, and up to a quarter more; 0 however late
    mss4: int = 0  # largest TCP MSS let through in inner IPv4 SYN packets
    mss6: int = 0  # the same for inner IPv6
    reneg_bytes: int = 0  # report KeyExhausted after so many bytes / packets on a key (either direction)
    reneg_pkts: int = 0
    payload: PayloadRules = PayloadRules()
    floats: bool = False  # UDP: follow the peer to another address, after an authentic packet from there: DATA_V2
    # (with several peers on the link nothing else says whose it is), or any where the peer is alone on its link
    ethernet: bool = False  # frames instead of IP packets (TAP)
    bare: bool = False  # packets bear no opcode: whatever comes on the link is data (static key mode)


@dataclass(frozen=True)
class Counters:
    """Totals of one peer since it was added; bytes are those of inner packets."""

    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    dropped_replay: int = 0
    dropped_auth: int = 0
    dropped_other: int = 0
    dropped_compressed: int = 0


@dataclass(frozen=True)
class ControlPacket:
    """A whole packet that is not data, as it came (no TCP length prefix)."""

    link: Link
    endpoint: SockAddr
    packet: bytes


@dataclass(frozen=True)
class KeyExhausted:
    """Key `key_id` of `peer` must be replaced soon (packet id, volume or failed-tag limit)."""

    peer: int
    key_id: int


@dataclass(frozen=True)
class KeyInUse:
    """The first packet under `key_id` was authenticated: the peer has that key and uses it."""

    peer: int
    key_id: int


@dataclass(frozen=True)
class PeerSilent:
    """`peer` sent nothing valid for `PeerLimits.silence` seconds."""

    peer: int


@dataclass(frozen=True)
class PeerExited:
    """`peer` said on the data channel (OCC EXIT) that it leaves."""

    peer: int


@dataclass(frozen=True)
class OccMessage:
    """`peer` said something about its settings in a packet of `size` bytes: the first 512 after the magic number.

    A flood of them may be cut short: that leaves the peer without an answer, and nothing else.
    """

    peer: int
    message: bytes
    size: int


@dataclass(frozen=True)
class CompressedDropped:
    """`peer` sends compressed packets, which are dropped because of `reason`; said once."""

    peer: int
    reason: str


@dataclass(frozen=True)
class Floated:
    """`peer` is at `endpoint` now: an authentic packet came from there, and everything goes there."""

    peer: int
    endpoint: SockAddr


@dataclass(frozen=True)
class LinkFailed:
    """The socket of `link` reported end of file or an error; `reason` is for the log."""

    link: Link
    reason: str


@dataclass(frozen=True)
class TunFailed:
    """The TUN device is gone or unusable."""

    reason: str


PeerEvent = KeyExhausted | KeyInUse | PeerSilent | PeerExited | OccMessage | CompressedDropped | Floated
"""What concerns one peer: these go to the protocol machine as they are."""

PlaneEvent = ControlPacket | PeerEvent | LinkFailed | TunFailed


class DataPlane(Protocol):
    """What a backend offers. Nothing here blocks; unknown peers and links raise `MisuseError`."""

    name: str

    def start(self, report: Callable[[PlaneEvent], None]) -> None:
        """Begin; call from within the running event loop."""

    def close(self) -> None:
        """Stop, forget all keys; closes the links' sockets and lets go of the TUN (its owner closes that)."""

    def attach_tun(self, fd: int) -> None:
        """Read and write IP packets (no packet-information header) at the non-blocking descriptor `fd`."""

    def detach_tun(self) -> None:
        """Forget the TUN device; without one, data from peers is authenticated, counted and dropped."""

    def attach_link(
        self, link: Link, sock: socket.socket, remote: SockAddr | None, envelope: Envelope | None = None
    ) -> None:
        """Take over the connected (or, for a UDP server and a peer that floats, unconnected: `remote` None) socket.

        The connection of an `envelope` is taken over as well.
        """

    def detach_link(self, link: Link) -> None:
        """Flush what the socket takes at once, close it."""

    def send(self, link: Link, endpoint: SockAddr, packet: bytes) -> None:
        """Send a control packet (framed on TCP)."""

    def add_peer(self, peer: int, link: Link, endpoint: SockAddr, peer_id: int, limits: PeerLimits) -> None:
        """Make `peer` known. `peer` is our handle; `peer_id` what our packets to it carry (`NO_PEER_ID`: DATA_V1).

        On a server both are one number, and incoming DATA_V2 is looked up by it; a single peer of a link
        receives whatever comes on that link.
        """

    def update_peer(self, peer: int, *, peer_id: int | None = None, limits: PeerLimits | None = None) -> None:
        """Change what is given."""

    def set_addresses(
        self,
        peer: int,
        addresses: tuple[IPv4Address | IPv6Address, ...],
        networks: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        """Inner addresses of a server's peer: packets to them go to it, packets from it must bear them.

        `networks` are behind it: the same, where no peer has the exact address, by the longest prefix.

        A peer without addresses (a client's server) gets every packet from the TUN and may send any source.
        """

    def remove_peer(self, peer: int) -> None:
        """Forget the peer with its keys."""

    def install_key(self, peer: int, key_id: int, keys: DataKeys) -> None:
        """Accept packets under `key_id` (0..7) from now on."""

    def activate_key(self, peer: int, key_id: int) -> None:
        """Send under `key_id` from now on."""

    def retire_key(self, peer: int, key_id: int) -> None:
        """Forget `key_id`; if it was the one to send with, nothing is sent until another is activated."""

    def send_inner(self, peer: int, payload: bytes) -> None:
        """Encrypt and send `payload` (an OCC message, a ping) to `peer`."""

    def counters(self, peer: int) -> Counters:
        """Totals of `peer`."""

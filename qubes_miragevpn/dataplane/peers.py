# SPDX-License-Identifier: BSD-2-Clause
"""The peers of a data plane, and by what a packet finds its peer.

A link with one peer gives it whatever comes on that link. Otherwise DATA_V2 names its peer, and DATA_V1 is known by
link and endpoint. Packets from the TUN go by their exact destination address. No two peers ever hold one address.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, Link, PeerLimits, SockAddr
from qubes_miragevpn.dataplane.keys import KeySlot
from qubes_miragevpn.dataplane.payload.pipeline import Pipeline


class Peer:
    """A peer, its keys and its totals."""

    __slots__ = (
        "addresses",
        "bytes_in",
        "bytes_out",
        "compression_told",
        "dropped_auth",
        "dropped_compressed",
        "dropped_other",
        "dropped_replay",
        "endpoint",
        "exited",
        "handle",
        "heard",
        "keys",
        "limits",
        "link",
        "packets_in",
        "packets_out",
        "peer_id",
        "pipeline",
        "restricted",
        "sending",
        "sent",
        "silent_since",
    )

    def __init__(self, handle: int, link: Link, endpoint: SockAddr, peer_id: int, limits: PeerLimits) -> None:
        self.handle = handle
        self.link = link
        self.endpoint = endpoint
        self.peer_id = peer_id
        self.limits = limits
        self.addresses: frozenset[bytes] = frozenset()
        self.keys: dict[int, KeySlot] = {}
        self.sending: KeySlot | None = None
        self.restricted = False  # sends from and receives for `addresses` only
        self.sent = 0.0  # when something was last sent
        self.heard = 0.0  # when a packet was last authenticated, or the wait for one began
        self.silent_since = 0.0  # when silence was last reported
        self.exited = False
        self.pipeline: Pipeline | None = None  # what `limits.payload` asks for; None: nothing
        self.compression_told = False
        self.packets_in = self.packets_out = self.bytes_in = self.bytes_out = 0
        self.dropped_replay = self.dropped_auth = self.dropped_other = self.dropped_compressed = 0


class Peers:
    """Every peer there is. `server`: a peer without addresses is reached by nobody and may send nothing.

    The dictionaries are plain attributes because the packet path looks into them.
    """

    __slots__ = ("_server", "by_address", "by_endpoint", "by_handle", "everything", "sole")

    def __init__(self, server: bool) -> None:
        self._server = server
        self.by_handle: dict[int, Peer] = {}
        self.by_address: dict[bytes, Peer] = {}
        self.by_endpoint: dict[tuple[Link, SockAddr], Peer] = {}
        self.sole: dict[Link, Peer] = {}  # links with exactly one peer
        self.everything: Peer | None = None  # gets every packet from the TUN: the peer of a client

    def get(self, handle: int) -> Peer:
        """Return the peer `handle`; raises `MisuseError` if there is none."""
        peer = self.by_handle.get(handle)
        if peer is None:
            raise MisuseError(f"there is no peer {handle}")
        return peer

    def add(self, handle: int, link: Link, endpoint: SockAddr, peer_id: int, limits: PeerLimits) -> Peer:
        """Make a peer known; at the same link and endpoint it takes over from an earlier one."""
        if handle in self.by_handle:
            raise MisuseError(f"peer {handle} is there already")
        peer = Peer(handle, link, endpoint, checked_peer_id(peer_id), limits)
        peer.restricted = self._server
        self.by_handle[handle] = peer
        self.by_endpoint[link, endpoint] = peer
        self._index()
        return peer

    def remove(self, handle: int) -> None:
        """Forget a peer."""
        peer = self.get(handle)
        del self.by_handle[handle]
        for address in peer.addresses:
            del self.by_address[address]
        if self.by_endpoint.get((peer.link, peer.endpoint)) is peer:
            del self.by_endpoint[peer.link, peer.endpoint]
        self._index()

    def move(self, peer: Peer, endpoint: SockAddr) -> None:
        """The peer is at `endpoint` from now on, where no other peer is."""
        if self.by_endpoint.get((peer.link, peer.endpoint)) is peer:
            del self.by_endpoint[peer.link, peer.endpoint]
        peer.endpoint = endpoint
        self.by_endpoint[peer.link, endpoint] = peer

    def set_addresses(self, handle: int, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Give `addresses` to a peer; one that another peer had is taken from that."""
        peer = self.get(handle)
        for address in peer.addresses:
            del self.by_address[address]
        peer.addresses = frozenset(address.packed for address in addresses)
        peer.restricted = self._server or bool(peer.addresses)
        for address in peer.addresses:
            former = self.by_address.get(address)
            if former is not None:
                former.addresses -= {address}
            self.by_address[address] = peer
        self._index()

    def _index(self) -> None:
        """Work out again which peer is alone on its link, and which one takes everything."""
        self.sole.clear()
        self.everything = None
        shared = set()
        for peer in self.by_handle.values():
            if self.sole.setdefault(peer.link, peer) is not peer:
                shared.add(peer.link)
            if not peer.restricted:
                self.everything = peer
        for link in shared:
            del self.sole[link]


def checked_peer_id(peer_id: int) -> int:
    """Return `peer_id`; raises `MisuseError` if it does not fit the header."""
    if not 0 <= peer_id <= NO_PEER_ID:
        raise MisuseError(f"a peer id has 24 bits, {peer_id} does not fit")
    return peer_id

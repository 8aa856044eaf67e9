# SPDX-License-Identifier: BSD-2-Clause
"""The peers of a data plane, and by what a packet finds its peer.

A link with one peer gives it whatever comes on that link. Otherwise DATA_V2 names its peer, and DATA_V1 is known by
link and endpoint. Packets from the TUN go by their destination: its exact address, else the longest prefix of a network
behind a peer. No two peers ever hold one address or network.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, Link, PeerLimits, SockAddr
from qubes_miragevpn.dataplane.keys import KeySlot
from qubes_miragevpn.dataplane.payload.pipeline import Pipeline

Network = tuple[int, int, int]
"""A network as it is looked up: bytes of its addresses, prefix length, and that many first bits as a number."""


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
        "networks",
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
        self.networks: frozenset[Network] = frozenset()
        self.keys: dict[int, KeySlot] = {}
        self.sending: KeySlot | None = None
        self.restricted = False  # sends from and receives for `addresses` and `networks` only
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

    __slots__ = ("_by_network", "_lengths", "_server", "by_address", "by_endpoint", "by_handle", "everything", "sole")

    def __init__(self, server: bool) -> None:
        self._server = server
        self.by_handle: dict[int, Peer] = {}
        self.by_address: dict[bytes, Peer] = {}
        self._by_network: dict[Network, Peer] = {}
        self._lengths: dict[int, list[int]] = {}  # bytes of an address -> prefix lengths there are, the longest first
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
        for network in peer.networks:
            del self._by_network[network]
        if self.by_endpoint.get((peer.link, peer.endpoint)) is peer:
            del self.by_endpoint[peer.link, peer.endpoint]
        self._index()

    def move(self, peer: Peer, endpoint: SockAddr) -> None:
        """The peer is at `endpoint` from now on, where no other peer is."""
        if self.by_endpoint.get((peer.link, peer.endpoint)) is peer:
            del self.by_endpoint[peer.link, peer.endpoint]
        peer.endpoint = endpoint
        self.by_endpoint[peer.link, endpoint] = peer

    def find(self, address: bytes) -> Peer | None:
        """Who has this inner address: exactly, else by the longest prefix."""
        peer = self.by_address.get(address)
        if peer is None and self._by_network:
            size = len(address)
            number = int.from_bytes(address, "big")
            for length in self._lengths.get(size, ()):
                peer = self._by_network.get((size, length, number >> 8 * size - length))
                if peer is not None:
                    break
        return peer

    def set_addresses(
        self,
        handle: int,
        addresses: Iterable[IPv4Address | IPv6Address],
        networks: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        """Give `addresses` and `networks` to a peer; one that another peer had is taken from that."""
        peer = self.get(handle)
        for address in peer.addresses:
            del self.by_address[address]
        peer.addresses = frozenset(address.packed for address in addresses)
        for known in peer.networks:
            del self._by_network[known]
        peer.networks = frozenset(_looked_up(network) for network in networks)
        for known in peer.networks:
            earlier = self._by_network.get(known)
            if earlier is not None:
                earlier.networks -= {known}
            self._by_network[known] = peer
        peer.restricted = self._server or bool(peer.addresses or peer.networks)
        for address in peer.addresses:
            former = self.by_address.get(address)
            if former is not None:
                former.addresses -= {address}
            self.by_address[address] = peer
        self._index()

    def _index(self) -> None:
        """Work out again who is alone on its link, who takes everything, and what prefix lengths there are."""
        lengths = {(size, length) for size, length, _ in self._by_network}
        self._lengths = {size: sorted((n for of, n in lengths if of == size), reverse=True) for size in (4, 16)}
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


def _looked_up(network: IPv4Network | IPv6Network) -> Network:
    bits, length = network.max_prefixlen, network.prefixlen
    return bits // 8, length, int(network.network_address) >> bits - length


def checked_peer_id(peer_id: int) -> int:
    """Return `peer_id`; raises `MisuseError` if it does not fit the header."""
    if not 0 <= peer_id <= NO_PEER_ID:
        raise MisuseError(f"a peer id has 24 bits, {peer_id} does not fit")
    return peer_id

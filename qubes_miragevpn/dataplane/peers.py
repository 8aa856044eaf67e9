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

    The dictionaries are plain attributes because the packet path looks into them. What it costs that one peer comes,
    changes or goes does not grow with the number of the others.
    """

    __slots__ = (
        "_by_network",
        "_lengths",
        "_on_link",
        "_server",
        "_unrestricted",
        "by_address",
        "by_endpoint",
        "by_handle",
        "everything",
        "sole",
    )

    def __init__(self, server: bool) -> None:
        self._server = server
        self.by_handle: dict[int, Peer] = {}
        self.by_address: dict[bytes, Peer] = {}
        self._by_network: dict[Network, Peer] = {}
        self._lengths: dict[int, dict[int, int]] = {4: {}, 16: {}}
        """Bytes of an address -> prefix lengths there are, the longest first -> how many networks have it."""
        self._on_link: dict[Link, dict[int, Peer]] = {}
        self._unrestricted: dict[int, Peer] = {}
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
        self._on_link.setdefault(link, {})[handle] = peer
        self._index(peer)
        return peer

    def remove(self, handle: int) -> None:
        """Forget a peer."""
        peer = self.get(handle)
        del self.by_handle[handle]
        self._clear(peer)
        if self.by_endpoint.get((peer.link, peer.endpoint)) is peer:
            del self.by_endpoint[peer.link, peer.endpoint]
        del self._on_link[peer.link][handle]
        peer.restricted = True  # so that it takes nothing
        self._index(peer)

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
        self._clear(peer)
        peer.addresses = frozenset(address.packed for address in addresses)
        peer.networks = frozenset(_looked_up(network) for network in networks)
        for known in peer.networks:
            earlier = self._by_network.get(known)
            if earlier is not None:
                earlier.networks -= {known}
            else:
                self._count(known, 1)
            self._by_network[known] = peer
        peer.restricted = self._server or bool(peer.addresses or peer.networks)
        for address in peer.addresses:
            former = self.by_address.get(address)
            if former is not None:
                former.addresses -= {address}
            self.by_address[address] = peer
        self._index(peer)

    def _clear(self, peer: Peer) -> None:
        """Nothing leads to the peer any more."""
        for address in peer.addresses:
            del self.by_address[address]
        for network in peer.networks:
            del self._by_network[network]
            self._count(network, -1)

    def _count(self, network: Network, more: int) -> None:
        """So many more networks of this length; there are 129 lengths at most, whatever the number of networks."""
        size, length, _ = network
        counts = self._lengths[size]
        counts[length] = counts.get(length, 0) + more
        if not counts[length]:
            del counts[length]
        elif counts[length] == more:
            self._lengths[size] = dict(sorted(counts.items(), reverse=True))

    def _index(self, peer: Peer) -> None:
        """Note who is alone on the link of `peer`, and who takes everything, now that it came, changed or went."""
        others = self._on_link[peer.link]
        self.sole.pop(peer.link, None)
        if len(others) == 1:
            self.sole[peer.link] = next(iter(others.values()))
        elif not others:
            del self._on_link[peer.link]
        if peer.restricted:
            self._unrestricted.pop(peer.handle, None)
        else:
            self._unrestricted[peer.handle] = peer
        self.everything = self._unrestricted[max(self._unrestricted)] if self._unrestricted else None


def _looked_up(network: IPv4Network | IPv6Network) -> Network:
    bits, length = network.max_prefixlen, network.prefixlen
    return bits // 8, length, int(network.network_address) >> bits - length


def checked_peer_id(peer_id: int) -> int:
    """Return `peer_id`; raises `MisuseError` if it does not fit the header."""
    if not 0 <= peer_id <= NO_PEER_ID:
        raise MisuseError(f"a peer id has 24 bits, {peer_id} does not fit")
    return peer_id

# SPDX-License-Identifier: BSD-2-Clause
"""What becomes of somebody who has proved who it is: how a server treats its many clients.

`Welcome` is what the server asks; `Clients` answers for ``mode server`` (a lease of the pool, a push), and
`serving.point.OtherEnd` for a tunnel between two.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Protocol

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import OneClient, Proto, ServerConfig
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, PeerLimits
from qubes_miragevpn.protocol.control.negotiation import server_cipher
from qubes_miragevpn.protocol.limits import peer_limits
from qubes_miragevpn.protocol.serving.peer import Peer, can_epochs, push_options
from qubes_miragevpn.protocol.serving.pool import AddressPool, AddressPool6
from qubes_miragevpn.protocol.serving.registry import Registry
from qubes_miragevpn.protocol.wire import peerinfo
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from qubes_miragevpn.protocol.wire.messages import build_push_reply
from qubes_miragevpn.protocol.wire.peerinfo import IvProto


class Welcome(Protocol):
    """How a server treats those who are authenticated."""

    most: int
    """So many at once."""

    def reconfigured(self, config: ServerConfig) -> None:
        """The configuration is another for those who come from now on."""

    def meet(self, peer: Peer, hello: KeyMethod2) -> None:
        """Agree with a new peer on its data channel; raises `PeerError` (end of session)."""

    def replaced(self, peer: Peer, peers: Registry) -> list[Peer]:
        """The admitted sessions that are over now that `peer`, which is not admitted yet, is authenticated."""

    def prepare(self, peer: Peer, peers: Registry) -> str:
        """Look up what is said of this peer alone; why it may not enter, "" if it may."""

    def displaced(self, peer: Peer) -> list[Peer]:
        """The admitted sessions that must make room for what is said of `peer` alone; they have that no more."""

    def admit(self, peer: Peer) -> None:
        """Take it in; raises `PeerError` (end of session)."""

    def dismiss(self, peer: Peer) -> None:
        """It has gone."""

    def introduce(self, peer: Peer) -> str:
        """The peer info in our part of key method 2."""

    def unasked(self, peer: Peer) -> bool:
        """Whether it is to be served as soon as there are keys."""

    def tell(self, peer: Peer) -> list[str]:
        """The control messages that go with being served."""

    def farewell(self, peer: Peer) -> str:
        """The control message by which it learns that we leave; "": it only knows that of the data channel."""

    def addresses(self, peer: Peer) -> tuple[IPv4Address | IPv6Address, ...] | None:
        """What is inside at its end, but for the networks behind it; None: everything."""

    def limits(self, peer: Peer) -> tuple[int, PeerLimits]:
        """The peer id that our packets bear, and the rules for it."""


class Clients:
    """The clients of a server: each has an address of the pool, and is pushed what it needs."""

    def __init__(self, config: ServerConfig, single: Callable[[str], OneClient | None]) -> None:
        """`single`: what is said of the client of this name alone, None for nothing; raises `ConfigError`."""
        self._single = single
        self.most = config.max_clients
        self._config = config
        self._holders: dict[IPv4Address | IPv6Address, Peer] = {}  # who has which address
        self._pool = AddressPool(config.network, config.topology, config.pool, config.address)
        self._pool6 = AddressPool6(config.network6, config.pool6, config.address6)

    def reconfigured(self, config: ServerConfig) -> None:
        """What is pushed, and to how many."""
        self._config, self.most = config, config.max_clients

    def recall(self, name: str, address: IPv4Address | IPv6Address) -> None:
        """This client had that address before."""
        if isinstance(address, IPv4Address):
            self._pool.recall(name, address)
        else:
            self._pool6.recall(name, address)

    def remembered(self) -> tuple[tuple[str, str, str], ...]:
        """Name, IPv4 and IPv6 address of every client that is remembered."""
        ours, ours6 = self._pool.remembered(), self._pool6.remembered()
        return tuple((name, ours.get(name, ""), ours6.get(name, "")) for name in dict.fromkeys((*ours, *ours6)))

    def meet(self, peer: Peer, hello: KeyMethod2) -> None:
        """Choose the cipher and all that a client of this kind can do."""
        peer.can = peerinfo.parse(hello.peer_info)
        peer.cipher = server_cipher(peer.can, hello.options, self._config.common)
        peer.ekm = bool(peer.can.proto & IvProto.TLS_KEY_EXPORT)
        peer.epoch = can_epochs(peer.can) and SUITES[peer.cipher].mode is Mode.AEAD
        told = IvProto.CC_EXIT_NOTIFY | IvProto.DYN_TLS_CRYPT  # the flag is pushed beside the other only
        peer.dynamic_tls_crypt = peer.can.proto & told == told

    def replaced(self, peer: Peer, peers: Registry) -> list[Peer]:
        """One session at one place, and of one name: with ``duplicate-cn`` only where both have one address by file."""
        over = {older.number: older for older in peers.at(peer.link, peer.endpoint) if older.admitted}
        for older in peers.named(peer.identity):
            if not self._config.duplicate_cn or set(older.single.addresses) & set(peer.single.addresses):
                over[older.number] = older
        return list(over.values())

    def prepare(self, peer: Peer, peers: Registry) -> str:
        """Read its own file, where there are such."""
        if self._config.client_dir is None:
            return ""
        try:
            found = self._single(peer.identity)
        except ConfigError as error:
            return str(error)
        if found is None:
            return "it has no file in client-config-dir (ccd-exclusive)" if self._config.client_dir.exclusive else ""
        peer.single = found
        if found.disabled:
            return "its file says 'disable'"
        return self._wrong(found) or self._taken(peer, peers)

    def _taken(self, peer: Peer, peers: Registry) -> str:
        """Whether an address of its own is that of somebody who stays, by a file that says so too."""
        for address in peer.single.addresses:
            holder = self._holders.get(address)
            if holder is not None and address in holder.single.addresses and holder not in self.replaced(peer, peers):
                return f"its own address {address} is that of client {holder.name} too, by its file, who is there"
        return ""

    def displaced(self, peer: Peer) -> list[Peer]:
        """Whoever has an address of the pool that is another's by his file, gives it back."""
        over: dict[int, Peer] = {}
        for address in peer.single.addresses:
            holder = self._holders.pop(address, None)
            if holder is None:
                continue
            over[holder.number] = holder
            if holder.lease is not None and holder.lease.ip == address:
                self._pool.release(holder.lease.ip)
                holder.lease = None
            elif holder.lease6 is not None:
                self._pool6.release(holder.lease6.ip)
                holder.lease6 = None
        return list(over.values())

    def _wrong(self, single: OneClient) -> str:
        """What of a client's own addresses cannot be."""
        servers = (self._pool.server, self._pool6.server)
        if single.ifconfig is not None:
            address, other = single.ifconfig
            try:
                IPv4Interface((address, self._mask(other)))
            except ValueError:
                return f"'ifconfig-push' with topology subnet needs a netmask, not {other}"
            if address in servers:
                return f"'ifconfig-push' gives it the server's own address {address}"
        if single.ifconfig6 is not None:
            if single.ifconfig6[0].ip in servers:
                return f"'ifconfig-ipv6-push' gives it the server's own address {single.ifconfig6[0].ip}"
            if self._pool6.server is None and single.ifconfig6[1] is None:
                return "'ifconfig-ipv6-push' must say the server's address where there is no 'server-ipv6'"
        if len(single.networks) > self._config.max_routes_per_client:
            return "more networks are behind it than 'max-routes-per-client' lets be"
        return ""

    def _mask(self, other: IPv4Address) -> str:
        """Of a client's own address: what its file says, but that with a far end there is no network on the link."""
        return str(other) if self._config.topology == "subnet" else "255.255.255.255"

    def admit(self, peer: Peer) -> None:
        """Give it an address of each family there is: its own, or one of the pool."""
        single = peer.single
        if single.ifconfig is not None:
            self._pool.claim(single.ifconfig[0])
            peer.lease = IPv4Interface((single.ifconfig[0], self._mask(single.ifconfig[1])))
        elif not self._unleased:
            peer.lease = self._pool.lease(peer.identity)
        if single.ifconfig6 is not None:
            self._pool6.claim(single.ifconfig6[0].ip)
            peer.lease6 = single.ifconfig6[0]
        elif self._pool6.gives:
            peer.lease6 = self._pool6.lease(peer.identity)
        self._holders |= dict.fromkeys(self.addresses(peer) or (), peer)

    @property
    def _unleased(self) -> bool:
        """Whether clients may be without an address of ours: frames bear addresses of their own, and IPv6 its own."""
        return self._config.network is None or (self._config.common.ethernet and self._config.pool == ())

    def dismiss(self, peer: Peer) -> None:
        """Take its addresses back."""
        for address in self.addresses(peer) or ():
            self._holders.pop(address, None)
        if peer.lease is not None:
            self._pool.release(peer.lease.ip)
        if peer.lease6 is not None:
            self._pool6.release(peer.lease6.ip)

    def introduce(self, peer: Peer) -> str:
        """A server says nothing of itself."""
        return ""

    def unasked(self, peer: Peer) -> bool:
        """A client may tell that it takes a push without asking."""
        return bool(peer.can.proto & IvProto.REQUEST_PUSH)

    def tell(self, peer: Peer) -> list[str]:
        """The push."""
        return build_push_reply(push_options(peer, self._config, self._pool, self._pool6))

    def farewell(self, peer: Peer) -> str:
        """It shall come back; we may only be starting again."""
        return "RESTART"

    def addresses(self, peer: Peer) -> tuple[IPv4Address | IPv6Address, ...] | None:
        """Its leases."""
        return tuple(lease.ip for lease in (peer.lease, peer.lease6) if lease is not None)

    def limits(self, peer: Peer) -> tuple[int, PeerLimits]:
        """Peers are told apart by their number where they can say it."""
        config = self._config
        peer_id = peer.number if peer.can.proto & IvProto.DATA_V2 else NO_PEER_ID
        timers = config.common.timers
        return peer_id, peer_limits(
            config.common,
            peer.proto,
            peer.endpoint,
            cipher=peer.cipher,
            ping=timers.ping,
            silence=timers.ping_restart,
            peer_id=peer_id != NO_PEER_ID,
            epoch=peer.epoch,
            floats=peer.proto is Proto.UDP,
        )

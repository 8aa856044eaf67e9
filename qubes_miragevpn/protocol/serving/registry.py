# SPDX-License-Identifier: BSD-2-Clause
"""Who a server knows: every peer by its number and by where it is, and when it needs attention next."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from qubes_miragevpn.base.deadlines import Deadlines
from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.config.model import Proto
from qubes_miragevpn.dataplane.interface import NO_PEER_ID, Link, SockAddr
from qubes_miragevpn.protocol.serving.crowd import Crowd
from qubes_miragevpn.protocol.serving.peer import Peer
from qubes_miragevpn.protocol.session import Session

MAX_CANDIDATES = 256
"""Handshakes under way at once; each holds a TLS session (~100 KB), so 25 MB at the very most."""

MAX_FROM_ONE = 64
"""And from one source, so that a single host leaves three quarters of them to others."""

Source = tuple[int, bytes]
"""Who can hardly be more than one: an IPv4 address, or a /64 of IPv6, which is what a host is given."""

Key = TypeVar("Key", bound=Hashable)


def source_of(endpoint: SockAddr) -> Source:
    """Where `endpoint` belongs."""
    address = plain_address(endpoint)
    return (4, address.packed) if address.version == 4 else (6, address.packed[:8])


def plain_address(endpoint: SockAddr) -> IPv4Address | IPv6Address:
    """Where somebody is; a socket for both families shows an IPv4 address inside of one of IPv6."""
    address = ip_address(endpoint[0].partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


class Registry:
    """The peers of one server; what is asked for each packet, handshake and farewell costs the same for any number."""

    def __init__(self, hand_window: float) -> None:
        self._hand_window = hand_window
        self._peers: dict[int, Peer] = {}
        self._admitted: dict[int, Peer] = {}
        self._by_place: dict[tuple[Link, SockAddr], list[Peer]] = {}
        self._by_link: dict[Link, dict[int, Peer]] = {}
        self._by_name: dict[str, dict[int, Peer]] = {}  # of those who are admitted
        self._candidates: Crowd[int] = Crowd(MAX_CANDIDATES, MAX_FROM_ONE, "handshakes under way")
        self._deadlines = Deadlines()
        self._next_number = 0

    def __iter__(self) -> Iterator[Peer]:
        """A copy, so that peers may go meanwhile."""
        return iter(list(self._peers.values()))

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: Peer) -> bool:
        return self._peers.get(peer.number) is peer

    def get(self, number: int) -> Peer | None:
        """The peer of this number."""
        return self._peers.get(number)

    def at(self, link: Link, endpoint: SockAddr) -> list[Peer]:
        """The peers at one place: a client, and candidates that want to follow it."""
        return list(self._by_place.get((link, endpoint), ()))

    def on(self, link: Link) -> list[Peer]:
        """The peers of one link."""
        return list(self._by_link.get(link, {}).values())

    @property
    def admitted(self) -> list[Peer]:
        """Those who are authenticated."""
        return list(self._admitted.values())

    def named(self, identity: str) -> list[Peer]:
        """The admitted ones of this name."""
        return list(self._by_name.get(identity, {}).values())

    def admit(self, peer: Peer) -> None:
        """The peer is authenticated, and keeps its name from now on."""
        peer.admitted = True
        self._admitted[peer.number] = peer
        self._candidates.remove(peer.number)
        self._by_name.setdefault(peer.identity, {})[peer.number] = peer

    def require_place(self, most: int) -> None:
        """Raise `PeerError` (end of session) unless fewer than `most` are admitted."""
        if len(self._admitted) >= most:
            raise PeerError("max-clients is reached", Consequence.END_SESSION)

    def require_room(self, most: int, endpoint: SockAddr) -> Peer | None:
        """The candidate that has to go for one from `endpoint`, if any; those whose login is judged go last.

        Raises `PeerError` (drop) if there is no room for it, beside `most` who are admitted.
        """
        goes = self._candidates.room(source_of(endpoint), last=lambda number: self._peers[number].judged)
        if goes is None and len(self._peers) >= most + MAX_CANDIDATES:
            raise PeerError("too many clients")
        return None if goes is None else self._peers[goes]

    def add(self, link: Link, endpoint: SockAddr, session: Session, now: float, proto: Proto) -> Peer:
        """Take in a candidate."""
        peer = Peer(self._new_number(), link, endpoint, session, now, proto)
        self._peers[peer.number] = peer
        self._by_link.setdefault(link, {})[peer.number] = peer
        self._candidates.add(peer.number, source_of(endpoint))
        self._by_place.setdefault((link, endpoint), []).append(peer)
        return peer

    def _new_number(self) -> int:
        """The next free peer id: 24 bits, and `NO_PEER_ID` is none."""
        while self._next_number in self._peers:
            self._next_number = (self._next_number + 1) % NO_PEER_ID
        number = self._next_number
        self._next_number = (number + 1) % NO_PEER_ID
        return number

    def remove(self, peer: Peer) -> None:
        """Take the peer out of everything."""
        del self._peers[peer.number]
        _drop(self._by_link, peer.link, peer)
        if self._admitted.pop(peer.number, None) is not None:
            _drop(self._by_name, peer.identity, peer)
        self._candidates.remove(peer.number)
        self._deadlines.set(peer.number, None)
        self._leave_place(peer)

    def move(self, peer: Peer, endpoint: SockAddr) -> None:
        """The peer is at `endpoint` now."""
        self._leave_place(peer)
        peer.endpoint = endpoint
        self._by_place.setdefault((peer.link, endpoint), []).append(peer)

    def _leave_place(self, peer: Peer) -> None:
        place = (peer.link, peer.endpoint)
        self._by_place[place].remove(peer)
        if not self._by_place[place]:
            del self._by_place[place]

    # --- time

    def reschedule(self, peer: Peer) -> None:
        """Note when `peer` needs us next; called after everything that may have changed that."""
        if peer not in self:
            return
        times = [peer.leaves_at]
        if not peer.on_trial and (deadline := peer.session.next_deadline(renew=not peer.judged)) is not None:
            times.append(deadline)
        if peer.judged_until is not None:
            times.append(peer.judged_until)
        elif not peer.served and not peer.refused:
            times.append(peer.began + self._hand_window)
        self._deadlines.set(peer.number, None if min(times) == float("inf") else min(times))

    def next_deadline(self) -> float | None:
        """When the first of them needs us."""
        return self._deadlines.next()

    def take_due(self, now: float) -> list[Peer]:
        """Those that need us now; each is to be rescheduled."""
        return [self._peers[number] for number in self._deadlines.take_due(now)]


def _drop(index: dict[Key, dict[int, Peer]], key: Key, peer: Peer) -> None:
    del index[key][peer.number]
    if not index[key]:
        del index[key]

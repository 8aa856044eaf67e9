# SPDX-License-Identifier: BSD-2-Clause
"""The way in: from the packet of somebody unknown to a candidate, whichever of the server's places it came to.

A *place* is an entry of the configuration's `places`. One of UDP is a link of its own, with the place's number; every
other link is a connection that one of TCP accepted. Datagrams are answered without keeping anything (see `admission`);
a connection has a hand-window for its first packet. Candidates and silent connections are bounded, in all and
for each source, so that a crowd from one place leaves room for others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import PointServer, Proto, ServerConfig, TlsCryptV2Server
from qubes_miragevpn.dataplane.interface import Link, SockAddr
from qubes_miragevpn.protocol.contract import Transmit
from qubes_miragevpn.protocol.control.endpoints import Endpoints
from qubes_miragevpn.protocol.control.legality import Role
from qubes_miragevpn.protocol.happenings import Introduction
from qubes_miragevpn.protocol.serving.admission import Admission, Rate, needs_state, require_first_packet
from qubes_miragevpn.protocol.serving.crowd import Crowd
from qubes_miragevpn.protocol.serving.peer import Peer
from qubes_miragevpn.protocol.serving.registry import (
    MAX_CANDIDATES,
    MAX_FROM_ONE,
    Registry,
    plain_address,
    source_of,
)
from qubes_miragevpn.protocol.serving.vetting import trial_of
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.wire.packet import SID_SIZE, read_head
from qubes_miragevpn.protocol.wrap.clientkey import server_door
from qubes_miragevpn.protocol.wrap.keys import Opened
from qubes_miragevpn.protocol.wrap.state import WrapState

TIME_TO_SPEAK = 5.0
"""Seconds that a connection has for its first packet however many others want to come; a client sends it at once."""


@dataclass(frozen=True)
class Surroundings:
    """What a session is made with: chance, the wall clock, TLS."""

    entropy: Callable[[int], bytes]
    unix_time: Callable[[], int]
    endpoints: Endpoints


class Entrance:
    """The candidates of one server. `most` are admitted at once; `forget` takes a peer out of everything."""

    def __init__(
        self,
        config: ServerConfig | PointServer,
        peers: Registry,
        around: Surroundings,
        *,
        most: int,
        forget: Callable[[Peer, str], None],
    ) -> None:
        common = config.common
        self._common = common
        self._places = config.places
        self._only = () if isinstance(config, ServerConfig) else config.only
        self._peers = peers
        self._around = around
        self.most = most
        self._forget = forget
        self._door = server_door(common.wrap, around.unix_time)
        own_keys = common.wrap if isinstance(common.wrap, TlsCryptV2Server) else None
        self._stateless_only = own_keys is not None and own_keys.force_cookie
        self._vets = own_keys is not None and bool(own_keys.verify)
        self._admission = Admission(around.entropy(32), common.timers.hand_window, config.first_packets)
        self._beginnings = None if config.new_clients is None else Rate(config.new_clients)
        self._silent: Crowd[Link] = Crowd(MAX_CANDIDATES, MAX_FROM_ONE, "connections without a session")
        self._since: dict[Link, float] = {}  # since when each of them is there

    def proto(self, link: Link) -> Proto:
        """What `link` is: a socket for datagrams, or a connection."""
        udp = 0 <= link < len(self._places) and self._places[link].proto is Proto.UDP
        return Proto.UDP if udp else Proto.TCP

    # --- connections

    def connected(self, link: Link, endpoint: SockAddr, now: float) -> Link | None:
        """A connection was accepted; the one that is to be closed for it, if any.

        Raises `PeerError` if it is one too many. Where there is no room, somebody of the largest crowd leaves it to a
        newcomer; if the newcomer is of the largest himself, who was silent longest does, once it had its time to speak.
        """
        source = source_of(endpoint)
        goes = self._silent.room(source, yields=lambda each: now >= self._since[each] + TIME_TO_SPEAK)
        if goes is not None:
            self.disconnected(goes)
        self._silent.add(link, source)
        self._since[link] = now
        return goes

    def disconnected(self, link: Link) -> None:
        """It has gone, or has spoken."""
        self._silent.remove(link)
        self._since.pop(link, None)

    def next_deadline(self) -> float | None:
        """When the first connection has been silent for too long; they are in the order in which they came."""
        first = next(iter(self._since.values()), None)
        return None if first is None else first + self._common.timers.hand_window

    def take_overdue(self, now: float) -> list[Link]:
        """The connections that are to be closed for their silence."""
        overdue = []
        while (deadline := self.next_deadline()) is not None and now >= deadline:
            overdue.append(next(iter(self._since)))
            self.disconnected(overdue[-1])
        return overdue

    # --- packets

    def arrived(self, link: Link, endpoint: SockAddr, packet: bytes, now: float) -> tuple[Peer, Opened] | Transmit:
        """Whose packet it is, and what is in it; or the answer to a stranger. Raises `PeerError` (drop)."""
        if self._only and plain_address(endpoint) not in self._only:
            raise PeerError("from an address other than 'remote' says")
        sid = read_head(packet).sid
        for peer in self._peers.at(link, endpoint):
            if peer.session.peer_sid == sid:
                return peer, peer.session.open(packet)
        opened = self._door.open(packet)
        found = self._first_packet(link, endpoint, opened, now)
        return found if isinstance(found, Transmit) else (found, opened)

    def _first_packet(self, link: Link, endpoint: SockAddr, opened: Opened, now: float) -> Peer | Transmit:
        """A packet of no session that we know: answer a reset, or begin the session it proves."""
        if self._vets:
            trial_of(opened)  # first: a key that nobody can judge takes nobody's place, and its connection stays silent
        if self.proto(link) is Proto.TCP:
            if link not in self._silent:
                raise PeerError("a second session on one connection")
            require_first_packet(opened)
            self._require_room(endpoint, now)
            self.disconnected(link)
            peer = self._add_candidate(link, endpoint, opened, self._around.entropy(SID_SIZE), now)
            peer.session.start(now)
            return peer
        if needs_state(opened):
            return self._stateful_answer(link, endpoint, opened, now)
        place = (link, endpoint)
        try:
            sid = self._admission.confirm(opened, place, now)
        except PeerError:
            reply = self._admission.answer_reset(opened, place, now, self._around.unix_time())
            return Transmit(link, endpoint, reply)
        self._require_room(endpoint, now)
        peer = self._add_candidate(link, endpoint, opened, sid, now)
        peer.session.start_after_cookie(opened.head.sid, now)
        return peer

    def _stateful_answer(self, link: Link, endpoint: SockAddr, opened: Opened, now: float) -> Peer:
        """A tls-crypt-v2 client from before OpenVPN 2.6 sends its key once only, so its session begins at once."""
        if self._stateless_only:
            raise PeerError("tls-crypt-v2 client without early negotiation (force-cookie)")
        self._admission.require_ration(opened, endpoint, now)
        self._require_room(endpoint, now)
        peer = self._add_candidate(link, endpoint, opened, self._around.entropy(SID_SIZE), now)
        peer.session.start(now, place_proved=False)
        return peer

    def _require_room(self, endpoint: SockAddr, now: float) -> None:
        crowded_out = self._peers.require_room(self.most, endpoint)
        if self._beginnings is not None and not self._beginnings.take(now):
            raise PeerError("more handshakes than 'connect-freq' lets begin")
        if crowded_out is not None:
            self._forget(crowded_out, "others want to come in")

    def admit(self, peer: Peer) -> None:
        """A candidate is authenticated."""
        self._peers.admit(peer)
        if peer.proto is Proto.UDP:
            self._admission.welcomed(peer.endpoint)

    def _add_candidate(self, link: Link, endpoint: SockAddr, opened: Opened, sid: bytes, now: float) -> Peer:
        trial = trial_of(opened) if self._vets else None
        for older in self._peers.at(link, endpoint):
            if not older.admitted:
                self._forget(older, "the client began again")
        stream = self.proto(link) is Proto.TCP
        session = Session(
            Role.SERVER,
            self._common,
            own_sid=sid,
            # Packet id 1 was spent on the stateless answer.
            wrap=WrapState(opened.keys, started=self._around.unix_time(), first_id=1 if stream else 2),
            tls=self._around.endpoints.new,
            entropy=self._around.entropy,
            introduction=_never_introduced,
            stream=stream,
        )
        peer = self._peers.add(link, endpoint, session, now, self.proto(link))
        peer.trial = trial
        return peer


def _never_introduced() -> Introduction:
    raise AssertionError("a server does not introduce itself")

# SPDX-License-Identifier: BSD-2-Clause
"""An attacker for the world of both roles: what it throws, and what must be true of a machine all the same."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Protocol

from qubes_miragevpn.dataplane.interface import KeyExhausted, KeyInUse, PeerExited, PeerSilent
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from qubes_miragevpn.protocol.control.reliability import MAX_QUEUED, PACKET_COST, RECEIVE_WINDOW, SEND_WINDOW
from qubes_miragevpn.protocol.conversation import Conversation
from qubes_miragevpn.protocol.server import Server
from qubes_miragevpn.protocol.serving.registry import MAX_CANDIDATES, MAX_FROM_ONE
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.wire.packet import Body, Opcode
from tests.pair.link import flip
from tests.pair.world import SERVER_AT, Side, World

STRANGER = ("203.0.113.66", 6666)
MAX_EFFECTS = 80
"""Of one event for one session: a flight is a dozen packets, a push brings settings and up to 65 lines about them."""


class Driven(Protocol):
    """Something that drives a machine."""

    @property
    def machine(self) -> Client | Server: ...


def sessions(machine: Client | Server) -> list[Session]:
    """The sessions that a machine holds now."""
    if isinstance(machine, Server):
        return [peer.session for peer in machine._peers]
    return [machine._state._session] if isinstance(machine._state, Conversation) else []


def require_sound(side: Driven, effects: Iterable[c.Effect]) -> None:
    """Texts are printable, and nothing that a peer can fill grows beyond its bound."""
    machine = side.machine
    for effect in effects:
        for text in vars(effect).values():
            if isinstance(text, str) and not isinstance(effect, c.AskCredentials | c.Resolve):
                assert text.isprintable() and text.isascii(), effect
    for session in sessions(machine):
        assert len(session._slots) <= 3 and not session._happenings
        for slot in session._slots.values():
            layer = slot.reliability
            assert len(layer._early) < RECEIVE_WINDOW and len(layer._flying) <= SEND_WINDOW
            assert sum(len(payload) + PACKET_COST for _, payload in layer._waiting) == layer._queued <= MAX_QUEUED
            assert len(layer._to_ack) <= 4 * RECEIVE_WINDOW
    if isinstance(machine, Server):
        candidates = [peer for peer in machine._peers if not peer.admitted]
        assert len(candidates) <= MAX_CANDIDATES and len(machine._entrance._silent) <= MAX_CANDIDATES
        assert {peer.number for peer in candidates} == set(machine._peers._candidates)
        assert max(machine._peers._candidates._of.values(), default=0) <= MAX_FROM_ONE
        assert set(machine._entrance._since) == set(machine._entrance._silent)
        assert sum(map(len, machine._peers._by_place.values())) == len(machine._peers)


class Attacker:
    """Throws packets and events at one side; sees everything on the wire."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)

    def event(self, side: Side, event: c.Event) -> list[c.Effect]:
        """Hand `event` to the side and check what came of it; returns the effects."""
        seen, sent = len(side.seen), len(side.sent)
        side.event(event)
        effects: list[c.Effect] = side.seen[seen:]
        packets = side.sent[sent:]
        assert len(effects) + len(packets) <= MAX_EFFECTS, (event, effects)
        require_sound(side, effects)
        return [*effects, *(c.Transmit(0, STRANGER, packet) for packet in packets)]

    def throw(self, side: Side, packet: bytes, endpoint: tuple[str, int] | None = None) -> list[c.Effect]:
        """One packet from the other side's address, or from `endpoint`."""
        if endpoint is None:
            endpoint = self.world.clients[0].place if side is self.world.server else SERVER_AT  # type: ignore[assignment]
        return self.event(side, c.PacketReceived(side.link, endpoint, packet))  # type: ignore[arg-type]

    def noise(self) -> bytes:
        """Random bytes, mostly with an opcode of the control channel in front."""
        first = self.dice.choice((3, 4, 5, 7, 8, self.dice.randrange(32))) << 3 | self.dice.choice((0, 0, 0, 1, 7))
        return bytes((first,)) + self.dice.randbytes(self.dice.choice((0, 3, 8, 13, 25, 53, 65, 300, 1400, 2047, 3000)))

    def mutation(self) -> bytes:
        """A packet that was on the wire, damaged."""
        while (damaged := self._damaged(original := self.recorded())) == original:
            pass
        return damaged

    def _damaged(self, original: bytes) -> bytes:
        packet = bytearray(original)
        match self.dice.randrange(6):
            case 0:
                return flip(bytes(packet), self.dice.randrange(8 * len(packet)))
            case 1:
                return bytes(packet[: self.dice.randrange(len(packet))])
            case 2:
                return bytes(packet) + self.dice.randbytes(self.dice.randrange(1, 40))
            case 3:
                packet[0] = self.dice.randrange(256)
            case 4:
                at = self.dice.randrange(len(packet))
                packet[at : at + 4] = self.dice.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case _:
                for _ in range(8):
                    packet[self.dice.randrange(len(packet))] = self.dice.randrange(256)
        return bytes(packet)

    def recorded(self) -> bytes:
        """A control packet as it was on the wire."""
        return self.dice.choice([packet for _, packet in self.world.wire if packet[0] >> 3 not in (6, 9)][-200:])

    def insider(self, side: Side) -> bytes:
        """A well-formed packet without protection, of somebody who knows both session ids."""
        known = sessions(side.machine)
        if not known:
            return self.noise()
        session = self.dice.choice(known)
        sid = session.peer_sid if session.peer_sid is not None and self.dice.random() < 0.9 else self.dice.randbytes(8)
        acks = tuple(self.dice.choice((0, 1, 2, 3, 9, 2**32 - 1)) for _ in range(self.dice.randrange(9)))
        opcode = self.dice.choice((3, 4, 4, 4, 5, 7, 8))
        message_id = None if opcode == Opcode.ACK else self.dice.choice((0, 1, 2, 3, 4, 5, 11, 12, 2**32 - 1))
        payload = (
            b"" if message_id is None else self.dice.choice((b"", self.dice.randbytes(50), b"\x16\x03\x03\xff\xff"))
        )
        body = Body(acks, session.own_sid if acks else None, message_id, payload)
        return bytes((opcode << 3 | self.dice.choice((0, 0, 0, 1, 2)),)) + sid + body.encode()

    def odd_event(self, side: Side) -> c.Event:
        """An event that is stale, or concerns nobody; none of these may end a tunnel."""
        stale, peer = 10_000 + self.dice.randrange(5), 77_777
        return self.dice.choice(
            (
                c.TransportDown(stale, "gone \x1b[31m"),
                c.NameResolved(stale, ()),
                c.ResolutionFailed(stale, "no \n such name"),
                c.PacketReceived(stale, STRANGER, self.noise()),
                c.TimerExpired(),
                c.CredentialsRefused("no"),
                KeyExhausted(peer, 9),
                KeyInUse(peer, 9),
                c.UserCommand(c.Command.CONNECT),
                *((PeerSilent(peer), PeerExited(peer)) if side is self.world.server else ()),
            )
        )

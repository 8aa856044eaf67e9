# SPDX-License-Identifier: BSD-2-Clause
"""Every opcode under every key id in three shapes, in every state that somebody can be in at a server.

The control channel is in clear and the sender knows all session ids, so that nothing but the state decides. What the
table does not name must be dropped without an answer and change nothing; what it names is answered by one datagram at
the most. Beside each of them a client is connected, who must not notice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials
from qubes_miragevpn.dataplane.interface import KeyExhausted, SockAddr
from qubes_miragevpn.dataplane.reference import DATA_OPCODES
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.wire.packet import Body, Opcode
from tests.interop.pki import Pki
from tests.pair.hostile.means.attacker import STRANGER, sessions
from tests.pair.test_handshake import connected, transfer
from tests.pair.test_server import reset
from tests.pair.test_server_login import Desk, right
from tests.pair.world import Side, World, up

SID = b"strange!"
SHAPES = ("first", "next", "ack")
"""A reset's body; a message after the first, with an acknowledgement; an acknowledgement alone."""


@dataclass
class Scene:
    """Somebody at a server: where, under which session ids, and `client` if he is one of the world's."""

    world: World
    bystander: Side
    place: SockAddr
    sid: bytes
    server_sid: bytes
    client: Side | None = None

    def packet(self, opcode: int, key_id: int, shape: str) -> bytes:
        """Such a packet of his."""
        body = {
            "first": Body((), None, 0),
            "next": Body((0,), self.server_sid, 1),
            "ack": Body((0,), self.server_sid, None),
        }[shape]
        return bytes((opcode << 3 | key_id,)) + self.sid + body.encode()

    def throw(self, packet: bytes) -> tuple[list[bytes], list[c.Effect]]:
        """What is sent for it, by whichever channel, and all else that comes of it."""
        seen, carried = len(self.world.server.seen), len(self.world.wire)
        self.world.server.arrives(0, self.place, packet)
        return [each for _, each in self.world.wire[carried:]], self.world.server.seen[seen:]


def photo(world: World) -> list[Any]:
    """All that the server knows of anybody, but for counts of what it dropped."""
    machine: Any = world.server.machine
    found: list[Any] = []
    for peer in machine._peers:
        session = peer.session
        slots = {
            key_id: (type(slot.state), slot.active, slot.reliability._next_receive, slot.reliability._next_send,
                     list(slot.reliability._to_ack), list(slot.reliability._flying), list(slot.reliability._early))
            for key_id, slot in session._slots.items()
        }  # fmt: skip
        found.append((peer.number, peer.endpoint, peer.admitted, peer.served, peer.judged, peer.leaves_at, slots))
    return [*found, len(machine._entrance._silent), machine.next_deadline()]


def _desk(pki: Pki) -> tuple[Desk, Side]:
    """A server that judges logins, of bob never; and somebody who is connected."""

    def judge(world: World, asked: c.VerifyLogin) -> None:
        if asked.username != "bob":
            right(world, asked)

    desk = Desk(pki, judge=judge, duplicate_cn=True)
    bystander = desk.client()
    connected(desk.world, bystander)
    desk.world.run(5)
    return desk, bystander


def unknown(pki: Pki) -> Scene:
    desk, bystander = _desk(pki)
    return Scene(desk.world, bystander, STRANGER, SID, b"whatever")


def answered(pki: Pki) -> Scene:
    scene = unknown(pki)
    [answer], _ = scene.throw(reset())
    scene.server_sid = answer[1:9]
    return scene


def handshaking(pki: Pki) -> Scene:
    scene = answered(pki)
    scene.throw(scene.packet(Opcode.ACK, 0, "ack"))
    return scene


def _as_client(desk: Desk, bystander: Side, client: Side) -> Scene:
    """Whoever the client is, from now on somebody else speaks for it."""
    desk.world.clients.remove(client)
    machine: Any = client.machine
    session = machine._state._session
    return Scene(desk.world, bystander, client.place, session.own_sid, session.peer_sid, client)


def judged(pki: Pki) -> Scene:
    desk, bystander = _desk(pki)
    bob = desk.client(Credentials("bob", Secret(b"slow")))
    desk.world.run(5)
    assert [peer.judged for peer in desk.peers] == [False, True] and not up(bob)
    return _as_client(desk, bystander, bob)


def established(pki: Pki) -> Scene:
    desk, bystander = _desk(pki)
    client = desk.client()
    connected(desk.world, client)
    desk.world.run(5)
    return _as_client(desk, bystander, client)


def renegotiating(pki: Pki) -> Scene:
    """The server began; the client has not answered."""
    scene = established(pki)
    machine: Any = scene.world.server.machine
    [number] = [peer.number for peer in machine._peers if peer.endpoint == scene.place]
    scene.world.server.event(KeyExhausted(number, 0))
    return scene


def ended(pki: Pki) -> Scene:
    desk, bystander = _desk(pki)
    client = desk.client()
    connected(desk.world, client)
    machine: Any = client.machine
    session = machine._state._session
    client.event(c.UserCommand(c.Command.DISCONNECT))
    desk.world.run(5)
    assert len(desk.peers) == 1
    return Scene(desk.world, bystander, client.place, session.own_sid, session.peer_sid)


def established_with_dynamic_keys(pki: Pki) -> Scene:
    """As most are: renegotiations have a protection of their own, without which they are nothing."""
    return established(pki)


State = Callable[[Pki], Scene]
BEGINS = (4, 0, "next"), (5, 0, "ack"), (5, 0, "next")
"""What proves an address by our session id, and so begins a session; what follows an acknowledgement is not read."""
RESET, REPEATED = (7, 0, "first"), ((4, 0, "first"), (4, 0, "next"))
TAKEN: dict[State, frozenset[tuple[int, int, str]]] = {
    unknown: frozenset({RESET}),
    answered: frozenset({RESET, *BEGINS}),
    handshaking: frozenset({RESET, *REPEATED, *BEGINS}),
    judged: frozenset({RESET, *REPEATED, *BEGINS}),
    established: frozenset({RESET, *REPEATED, *BEGINS, (3, 1, "first")}),
    established_with_dynamic_keys: frozenset({RESET, *REPEATED, *BEGINS}),
    renegotiating: frozenset(
        {RESET, *REPEATED, *BEGINS, (3, 1, "first"), (4, 1, "next"), (5, 1, "ack"), (5, 1, "next")}
    ),
    ended: frozenset({RESET, *BEGINS}),
}  # fmt: skip
"""Opcode, key id and shape of what is not dropped."""

SPOILT = (renegotiating, (4, 1, "next"))
"""An empty message stands where the client's TLS would begin: who can say that for it, in clear, can end it."""

LONGEST_ANSWER = {True: 26, False: 9 + 1 + 8 * 4 + 8}
"""Bytes; to somebody whose address is not proved (True) and to others, who get acknowledgements again as well."""


@pytest.fixture(params=TAKEN, ids=lambda state: state.__name__)
def state(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> State:
    if request.param is not established_with_dynamic_keys:
        monkeypatch.setattr(Session, "protect_renegotiations", lambda self: None)
    found: State = request.param
    return found


def undisturbed(scene: Scene) -> None:
    """Who is connected still is; and a client that was spoken for goes on from where it was."""
    client, world = scene.client, scene.world
    if client is not None:
        world.clients.append(client)
        machine: Any = world.server.machine
        for peer in machine._peers:
            if peer.judged:
                world.server.event(c.LoginJudged(peer.number, peer.attempt, True))
        connected(world, client)
        transfer(world, client)
    transfer(world, scene.bystander)


def test_whatever_the_state_does_not_take_is_dropped_and_changes_nothing(pki: Pki, state: State) -> None:
    scene = state(pki)
    before = photo(scene.world)
    for opcode, key_id, shape in itertools.product(range(32), range(8), SHAPES):
        if (opcode, key_id, shape) not in TAKEN[state]:
            sent, seen = scene.throw(scene.packet(opcode, key_id, shape))
            assert not sent, (opcode, key_id, shape)
            expected = [] if opcode in DATA_OPCODES else [c.Drop]
            assert [type(effect) for effect in seen] == expected, (opcode, key_id, shape, seen)
            assert photo(scene.world) == before, (opcode, key_id, shape)
    undisturbed(scene)


def test_what_the_state_takes_is_answered_by_one_datagram_at_the_most(pki: Pki, state: State) -> None:
    for opcode, key_id, shape in sorted(TAKEN[state]):
        scene = state(pki)
        known = len(sessions(scene.world.server.machine))
        stranger = scene.client is None and state is not handshaking
        packet = scene.packet(opcode, key_id, shape)
        sent, seen = scene.throw(packet)
        assert len(sent) <= 1 and not seen, (opcode, key_id, shape, seen)
        assert all(len(answer) <= LONGEST_ANSWER[stranger] for answer in sent), (opcode, key_id, shape, sent)
        began = len(sessions(scene.world.server.machine)) - known
        assert began == (stranger and (opcode, key_id, shape) in BEGINS), "an address that is proved, and nothing else"
        if (state, (opcode, key_id, shape)) == SPOILT:
            scene.client = None
        undisturbed(scene)

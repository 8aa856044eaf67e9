# SPDX-License-Identifier: BSD-2-Clause
"""The legality table, walked whole: each role, phase, opcode and key id against real sessions.

What may be taken stands here once more, written out; everything else must be refused and leave no trace.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Common, NoWrap
from qubes_miragevpn.protocol.control.keyslot import phase_of
from qubes_miragevpn.protocol.control.legality import LEGAL, Phase, Role, require_legal
from qubes_miragevpn.protocol.control.tls import TlsEndpoint, make_context
from qubes_miragevpn.protocol.happenings import ClientIntroduced, Introduction
from qubes_miragevpn.protocol.session import Session
from qubes_miragevpn.protocol.wire.packet import WITH_WRAPPED_KEY, Body, Opcode
from qubes_miragevpn.protocol.wrap.keys import wrap_keys
from qubes_miragevpn.protocol.wrap.state import WrapState
from tests.interop.pki import Pki
from tests.pair.world import client_config, server_config

ACK, CONTROL, SOFT = Opcode.ACK, Opcode.CONTROL, Opcode.SOFT_RESET
HARD = {Role.CLIENT: Opcode.HARD_RESET_SERVER, Role.SERVER: Opcode.HARD_RESET_CLIENT}  # what the role may receive


class Duo:
    """A client's and a server's session in one memory, without a role machine around them."""

    def __init__(self, pki: Pki) -> None:
        self._dice = random.Random(7)
        self.client = self._session(Role.CLIENT, client_config(pki).common)
        self.server = self._session(Role.SERVER, server_config(pki).common)
        self.client.start(0.0)
        self.server.start(0.0)

    def _session(self, role: Role, common: Common) -> Session:
        server = role is Role.SERVER
        context = make_context(common.identity, common.peer, common.tls, server=server)
        return Session(
            role,
            common,
            own_sid=self._dice.randbytes(8),
            wrap=WrapState(wrap_keys(NoWrap(), server=server), started=0),
            tls=lambda: TlsEndpoint(context, common.peer, server=server),
            entropy=self._dice.randbytes,
            introduction=lambda: Introduction("V4", "IV_PROTO=142\n", "", Secret(b"")),
            stream=True,
        )

    def one_way(self, sender: Session) -> bool:
        """Carry what `sender` has to send; tell whether there was anything."""
        receiver = self.server if sender is self.client else self.client
        packets, happenings = sender.drain()
        for packet in packets:
            receiver.receive(receiver.open(packet), 0.0)
        for happening in happenings:
            if isinstance(happening, ClientIntroduced):
                self.introduced = happening
        return bool(packets)

    def both_ways(self) -> None:
        while self.one_way(self.client) | self.one_way(self.server):
            pass

    def answer(self) -> None:
        self.server.answer(self.introduced.key_id, self.introduced.hello, "V4", 0.0)
        self.both_ways()


def awaiting(duo: Duo) -> None:
    """Nobody has heard of the other."""


def handshaking(duo: Duo) -> None:
    duo.one_way(duo.client)
    duo.one_way(duo.server)


def exchanging(duo: Duo) -> None:
    duo.both_ways()


def established(duo: Duo) -> None:
    duo.both_ways()
    duo.answer()
    for session in (duo.client, duo.server):
        session.use_first_key()


def renegotiating(duo: Duo) -> None:
    established(duo)
    duo.client.renegotiate(1.0)
    duo.server.renegotiate(1.0)


def renegotiated(duo: Duo) -> None:
    renegotiating(duo)
    duo.both_ways()
    duo.answer()


OWN_PHASE = {
    awaiting: {0: Phase.AWAIT_RESET},
    handshaking: {0: Phase.HANDSHAKING},
    exchanging: {0: Phase.EXCHANGING},
    established: {0: Phase.ESTABLISHED},
    renegotiating: {0: Phase.ESTABLISHED, 1: Phase.AWAIT_RESET},
    renegotiated: {0: Phase.ESTABLISHED, 1: Phase.ESTABLISHED},
}
Situation = Callable[[Duo], None]


def taken(role: Role, situation: Situation) -> set[tuple[Opcode, int]]:
    """What `role` may take there, as (opcode, key id): the table once more, by hand."""
    first = {(HARD[role], 0), (CONTROL, 0), (ACK, 0)}
    second = {(SOFT, 1), (CONTROL, 1), (ACK, 1)}
    return {
        awaiting: {(HARD[role], 0)},  # of a peer that is not known yet
        handshaking: first,
        exchanging: first,
        established: first | {(SOFT, 1)},
        renegotiating: first | second,
        renegotiated: first | second | {(SOFT, 2)},
    }[situation]


def trace(session: Session) -> object:
    """All that a packet may change."""
    slots = {
        key_id: (
            slot.state, slot.active, slot.use_by, slot.reliability._next_send, slot.reliability._next_receive,
            list(slot.reliability._waiting), sorted(slot.reliability._flying), sorted(slot.reliability._early),
            list(slot.reliability._to_ack), list(slot.reliability._acked),
            [(packet.due, packet.timeout, packet.passed) for packet in slot.reliability._flying.values()],
        )
        for key_id, slot in session._slots.items()
    }  # fmt: skip
    roles = [slot and slot.key_id for slot in (session._current, session._next, session._lame)]
    return slots, roles, session.peer_sid, session.next_deadline(), list(session._packets), list(session._happenings)


def sides(duo: Duo, role: Role) -> tuple[Session, bytes]:
    """The session under test and the session id of its peer."""
    one, other = (duo.client, duo.server) if role is Role.CLIENT else (duo.server, duo.client)
    return one, other.own_sid


def packet(session: Session, opcode: int, key_id: int, sid: bytes) -> bytes:
    """A packet that is well-formed and beyond reproach but for its opcode and key id."""
    slot = session._slots.get(key_id)
    message_id = slot.reliability._next_receive + 1 if slot is not None and opcode == CONTROL else 0
    acknowledges = opcode == ACK or (session.role is Role.CLIENT and session.peer_sid is None)
    body = Body((0,) if acknowledges else (), session.own_sid if acknowledges else None, message_id)
    if opcode == ACK:
        body = Body(body.acks, body.remote_sid, None)
    return bytes((opcode << 3 | key_id,)) + sid + body.encode()


SITUATIONS = pytest.mark.parametrize("situation", OWN_PHASE, ids=lambda situation: situation.__name__)
ROLES = pytest.mark.parametrize("role", Role)


@SITUATIONS
@ROLES
def test_what_is_not_in_the_table_is_refused_and_leaves_no_trace(pki: Pki, role: Role, situation: Situation) -> None:
    duo = Duo(pki)
    situation(duo)
    session, sid = sides(duo, role)
    session.drain()
    before = trace(session)
    refused = 0
    for opcode, key_id in itertools.product(range(32), range(8)):
        if (opcode, key_id) in taken(role, situation):
            continue
        with pytest.raises(PeerError) as caught:
            session.receive(session.open(packet(session, opcode, key_id, sid)), 2.0)
        assert caught.value.consequence is Consequence.DROP, (opcode, key_id)
        assert trace(session) == before, (opcode, key_id)
        refused += 1
    assert refused == 256 - len(taken(role, situation))


@SITUATIONS
@ROLES
def test_what_is_in_the_table_is_taken(pki: Pki, role: Role, situation: Situation) -> None:
    for opcode, key_id in taken(role, situation):
        duo = Duo(pki)
        situation(duo)
        session, sid = sides(duo, role)
        session.drain()
        session.receive(session.open(packet(session, opcode, key_id, sid)), 2.0)


@SITUATIONS
@ROLES
def test_the_situations_are_what_they_are_called(pki: Pki, role: Role, situation: Situation) -> None:
    duo = Duo(pki)
    situation(duo)
    session, _ = sides(duo, role)
    assert {key_id: phase_of(slot) for key_id, slot in session._slots.items()} == OWN_PHASE[situation]


def tampered(session: Session, sid: bytes) -> Iterator[tuple[str, bytes]]:
    """Packets that are legal but for one thing."""
    hard, own = HARD[session.role], session.own_sid
    known = session.peer_sid is not None
    if known:
        for opcode in (CONTROL, hard, SOFT):
            yield "another sender", bytes((opcode << 3,)) + b"stranger" + Body((), None, 9).encode()
        yield "another sender", bytes((ACK << 3,)) + b"stranger" + Body((0,), own, None).encode()
        yield "another receiver", bytes((ACK << 3,)) + sid + Body((0,), b"somebody", None).encode()
        yield "another receiver", bytes((CONTROL << 3,)) + sid + Body((0,), b"somebody", 9).encode()
        yield "beyond the window", bytes((CONTROL << 3,)) + sid + Body((), None, 2**32 - 1).encode()
    for key_id, message_id in itertools.product(range(8), (1, 2, 12, 2**31, 2**32 - 1)):
        for opcode in (hard, SOFT):
            yield (
                "a reset that is not first",
                bytes((opcode << 3 | key_id,)) + sid + Body((0,), own, message_id).encode(),
            )
    yield "a reset for somebody else", bytes((hard << 3,)) + sid + Body((0,), b"somebody", 0).encode()
    yield "nine acknowledgements", bytes((CONTROL << 3,)) + sid + b"\x09" + bytes(36) + own + bytes(4)
    yield "nothing behind the head", bytes((CONTROL << 3,)) + sid


@SITUATIONS
@ROLES
def test_legal_packets_with_one_thing_wrong_leave_no_trace(pki: Pki, role: Role, situation: Situation) -> None:
    duo = Duo(pki)
    situation(duo)
    session, sid = sides(duo, role)
    session.drain()
    before = trace(session)
    for what, wrong in tampered(session, sid):
        with pytest.raises(PeerError) as caught:
            session.receive(session.open(wrong), 2.0)
        assert caught.value.consequence is Consequence.DROP, what
        assert trace(session) == before, what


def test_the_table_itself() -> None:
    for role, opcode, phase in itertools.product(Role, Opcode, Phase):
        if (role, opcode, phase) in LEGAL:
            require_legal(role, opcode, phase)
            continue
        with pytest.raises(PeerError):
            require_legal(role, opcode, phase)
    spoken = {opcode for _, opcode, _ in LEGAL}
    assert spoken == {ACK, CONTROL, SOFT, *HARD.values()} | WITH_WRAPPED_KEY
    assert {opcode for _, opcode, phase in LEGAL if phase is Phase.VACANT} == {SOFT}


@ROLES
def test_acknowledgements_of_what_was_never_sent_change_nothing(pki: Pki, role: Role) -> None:
    duo = Duo(pki)
    established(duo)
    session, sid = sides(duo, role)
    session.drain()
    before = trace(session)
    for acks in [(2**32 - 1,), (7, 8, 9), tuple(range(100, 108))]:
        session.receive(session.open(bytes((ACK << 3,)) + sid + Body(acks, session.own_sid, None).encode()), 2.0)
        assert trace(session) == before


def test_both_sides_hold_the_same_keys_by_either_derivation(pki: Pki) -> None:
    duo = Duo(pki)
    established(duo)
    for ekm in (False, True):
        ours, theirs = (session.derive(0, "AES-256-GCM", ekm=ekm, epoch=False) for session in (duo.client, duo.server))
        assert ours.send == theirs.receive and ours.receive == theirs.send and ours.send != ours.receive
        assert (len(ours.send.cipher_key), len(ours.send.implicit_iv)) == (32, 8)
    exported, by_prf = (duo.client.derive(0, "AES-256-GCM", ekm=ekm, epoch=False) for ekm in (True, False))
    assert exported.send != by_prf.send

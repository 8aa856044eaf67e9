# SPDX-License-Identifier: BSD-2-Clause
"""``tls-crypt-v2-verify`` in memory: when the question is asked, what goes on until the verdict, and what it ends."""

from __future__ import annotations

from typing import Any

import pytest

from qubes_miragevpn.config.model import Proto, Timers, TlsCrypt, TlsCryptV2Client, TlsCryptV2Server
from qubes_miragevpn.crypto.wrappedkey import user_metadata, wrap_client_key
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.serving.vetting import MAX_HELD
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode
from qubes_miragevpn.protocol.wrap import clientkey
from qubes_miragevpn.protocol.wrap.keys import Stamp
from tests.interop.pki import Pki
from tests.pair.hostile import STRANGER, Attacker
from tests.pair.link import rule
from tests.pair.test_client_key import OTHER_KEY, opcodes, peers, reset
from tests.pair.test_handshake import KEY, SERVER_KEY, connected, transfer
from tests.pair.world import Side, World, client_config, server_config, up

SERVER = TlsCryptV2Server(SERVER_KEY, verify=("/bin/judge",))
CLIENT = TlsCryptV2Client(KEY, wrap_client_key(SERVER_KEY, KEY, user_metadata(b"qube one")))


class Desk:
    """A world whose server asks for verdicts: `granted` after a while, or none at all."""

    def __init__(
        self, pki: Pki, granted: bool | None = True, *, after: float = 0.5, proto: Proto = Proto.UDP, **changes: Any
    ) -> None:
        self.pki, self.proto = pki, proto
        lost = changes.pop("lost", None)
        links = {} if lost is None else {"to_server": rule(lost, 1), "to_client": rule(lost, 2)}
        self.world = World(server_config(pki, changes.pop("wrap", SERVER), proto, **changes), **links)
        self.asked: list[c.VerifyClientKey] = []
        self.said = 0  # packets that the server had sent when it was asked
        apply = self.world.server._apply

        def listen(effect: c.Effect) -> None:
            if isinstance(effect, c.VerifyClientKey):
                self.asked.append(effect)
                self.said = len(self.world.server.sent)
                if granted is not None:
                    verdict = c.ClientKeyJudged(effect.peer, granted, "the program ended with 1")
                    self.world._at(self.world.now + after, lambda: self.world.server.event(verdict))
            apply(effect)

        self.world.server._apply = listen  # type: ignore[method-assign]

    def client(self, wrap: TlsCryptV2Client | TlsCrypt = CLIENT, **changes: Any) -> Side:
        return self.world.client(client_config(self.pki, wrap, self.proto, **changes))


@pytest.fixture
def old_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client from before early negotiation."""
    monkeypatch.setattr(clientkey.ClientKeys, "first_id", 1)


@pytest.mark.parametrize("proto", Proto)
def test_it_is_asked_once_and_then_all_goes_on_at_once(pki: Pki, proto: Proto) -> None:
    desk = Desk(pki, proto=proto)
    client = desk.client()
    began = desk.world.now
    connected(desk.world, client)
    assert desk.world.now - began < 1.5, "what was held is taken in with the verdict, without a repetition"
    assert [(each.kind, each.metadata) for each in desk.asked] == [(0, b"qube one")]
    assert desk.asked[0].endpoint == client.place
    transfer(desk.world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert desk.world.run(30, lambda: 1 in client.keys and 1 in desk.world.server.keys)
    assert len(desk.asked) == 1, "the same session is not judged again"


@pytest.mark.usefixtures("old_client")
def test_an_old_client_is_asked_about_once_it_is_known_to_hear_us(pki: Pki) -> None:
    desk = Desk(pki)
    client = desk.client()
    connected(desk.world, client)
    assert opcodes(desk.world.server)[0] is Opcode.HARD_RESET_SERVER and desk.said == 1 and len(desk.asked) == 1
    transfer(desk.world, client)


@pytest.mark.parametrize("packet_id", [1, earlyneg.FIRST_PACKET_ID], ids=["old", "new"])
def test_a_forged_address_starts_no_program(pki: Pki, packet_id: int) -> None:
    """Whoever captured somebody's first packets, and sends them from elsewhere, has nothing judged."""
    desk = Desk(pki)
    attacker = Attacker(desk.world, 1)
    key = clientkey.ClientKeys(CLIENT)
    attacker.throw(desk.world.server, reset(packet_id), STRANGER)
    for number, opcode in enumerate((Opcode.CONTROL_WKC, Opcode.CONTROL), 2):
        for acks, sid in (((), None), ((0,), b"anything")):
            packet = key.seal(Head(opcode, 0, b"client!!"), Stamp(number, 1_700_001_000), Body(acks, sid, 1).encode())
            effects = attacker.throw(desk.world.server, packet, STRANGER)
            assert [type(effect) for effect in effects] == [c.Drop]
    desk.world.run(90)
    assert not desk.asked and len(desk.world.server.sent) == 1 and not peers(desk.world)


@pytest.mark.parametrize("proto", Proto)
def test_who_is_refused_hears_nothing(pki: Pki, proto: Proto) -> None:
    desk = Desk(pki, False, proto=proto)
    client = desk.client(timers=Timers(connect_timeout=4))
    desk.world.run(3)
    stateless = 0 if proto is Proto.TCP else 1
    assert desk.asked and not up(client) and len(desk.world.server.sent) == stateless and not peers(desk.world)
    notes = [(each.client, each.text) for each in desk.world.server.effects(c.Notify)]
    assert notes[0] == ("192.0.2.1:40000", "its key is refused: the program ended with 1")
    assert bool(desk.world.server.effects(c.CloseTransport)) == (proto is Proto.TCP)


@pytest.mark.parametrize("proto", Proto)
def test_without_a_verdict_nothing_is_said_and_little_kept(pki: Pki, proto: Proto) -> None:
    desk = Desk(pki, None, proto=proto, timers=Timers(hand_window=20))
    client = desk.client(timers=Timers(connect_timeout=100))
    desk.world.run(15)
    machine: Any = desk.world.server.machine
    (peer,) = machine._peers
    assert len(desk.asked) == 1 and len(peer.trial.held) <= MAX_HELD
    assert len(desk.world.server.sent) == (0 if proto is Proto.TCP else 1)
    assert all(type(effect) is not c.ForgetClientKey for effect in desk.world.server.seen)
    desk.world.run(6)
    assert c.ForgetClientKey(desk.asked[0].peer) in desk.world.server.seen
    late = c.ClientKeyJudged(desk.asked[0].peer, True)
    if proto is Proto.TCP:
        desk.world.server.event(late)
        assert not peers(desk.world) and not up(client)


def test_a_verdict_that_nobody_waits_for(pki: Pki) -> None:
    desk = Desk(pki)
    client = desk.client()
    connected(desk.world, client)
    for number in (desk.asked[0].peer, 77):
        desk.world.server.event(c.ClientKeyJudged(number, False, "late"))
    transfer(desk.world, client)


def test_whose_connection_ends_is_judged_no_more(pki: Pki) -> None:
    desk = Desk(pki, None, proto=Proto.TCP)
    desk.client()
    desk.world.run(1)
    (asked,) = desk.asked
    machine: Any = desk.world.server.machine
    desk.world.server.event(c.TransportDown(machine._peers.get(asked.peer).link, "reset by peer"))
    assert desk.world.server.seen[-2:] == [c.ForgetClientKey(asked.peer), c.CloseTransport(100)] or not peers(
        desk.world
    )
    assert c.ForgetClientKey(asked.peer) in desk.world.server.seen


def test_a_slow_verdict_over_a_bad_link(pki: Pki) -> None:
    desk = Desk(pki, after=4.0, lost="loss 20% dup 20% reorder 30%")
    client = desk.client(timers=Timers(hand_window=120, connect_timeout=120, tls_timeout=1))
    connected(desk.world, client, 120)
    transfer(desk.world, client)


def test_a_static_key_beside_is_not_judged(pki: Pki) -> None:
    wrap = TlsCryptV2Server(SERVER_KEY, beside=TlsCrypt(OTHER_KEY), verify=("/bin/judge",))
    desk = Desk(pki, False, wrap=wrap)
    connected(desk.world, desk.client(TlsCrypt(OTHER_KEY)))
    assert not desk.asked


def test_a_key_that_says_nothing_is_refused_unasked(pki: Pki) -> None:
    desk = Desk(pki)
    client = desk.client(TlsCryptV2Client(KEY, wrap_client_key(SERVER_KEY, KEY, b"")), timers=Timers(connect_timeout=4))
    desk.world.run(3)
    assert not desk.asked and not up(client) and not peers(desk.world)


def test_a_damaged_packet_under_a_key_that_is_not_judged_yet_ends_nothing(pki: Pki) -> None:
    """Whoever has any client key, be it a revoked one, could else end the server with two packets."""
    desk = Desk(pki)
    attacker = Attacker(desk.world, 1)
    attacker.throw(desk.world.server, reset(1), STRANGER)
    key = clientkey.ClientKeys(CLIENT)
    for number, body in enumerate((b"", b"\x01\0\0\0\0", b"\xff" * 40), 2):
        packet = key.seal(Head(Opcode.CONTROL, 0, b"client!!"), Stamp(number, 1_700_001_000), body)
        effects = attacker.throw(desk.world.server, packet, STRANGER)
        assert [type(effect) for effect in effects] == [c.Drop]
    assert not desk.asked and peers(desk.world) == 1


def test_a_connection_with_a_key_that_says_nothing_is_closed_like_a_silent_one(pki: Pki) -> None:
    """Else its bearer fills the server with connections that nobody counts."""
    desk = Desk(pki, proto=Proto.TCP, timers=Timers(hand_window=20))
    nothing = TlsCryptV2Client(KEY, wrap_client_key(SERVER_KEY, KEY, b""))
    desk.client(nothing, timers=Timers(hand_window=100, connect_timeout=100))
    desk.world.run(1)
    assert desk.world.server.effects(c.Drop) and not desk.world.server.effects(c.CloseTransport)
    desk.world.run(21)
    assert desk.world.server.effects(c.CloseTransport)

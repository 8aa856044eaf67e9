# SPDX-License-Identifier: BSD-2-Clause
"""A client with a good certificate and bad intentions: only its own session may suffer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.dataplane.interface import Floated
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.serving.peer import MOVES_TOLD
from qubes_miragevpn.protocol.wire import keymethod2
from qubes_miragevpn.protocol.wire.keymethod2 import KeyMethod2
from tests.interop.pki import Pki
from tests.pair.hostile import Attacker, require_sound, sessions
from tests.pair.test_handshake import connected, transfer
from tests.pair.test_server import identity
from tests.pair.world import Side, World, client_config, inner_packet, server_config, up

RECORDS: dict[str, bytes] = {
    "no NUL": b"PUSH_REQUEST",
    "many NULs": bytes(16000),
    "line ends": b"PUSH_REQUEST\r\nEXIT\r\n\0",
    "escape sequences": b"\x1b]0;owned\x07\x1b[31mEXIT\0",
    "high bytes": bytes(range(0x80, 0x100)) + b"\0",
    "2 KB": b"x" * 2048 + b"\0",
    "a whole record": b"y" * 16383 + b"\0",
    "16 messages": b"INFO,hello\0" * 16,
    "a thousand messages": b"EXITS\0" * 1000,
    "what only servers say": b"AUTH_FAILED\0PUSH_REPLY,route 0.0.0.0\0PUSH_UPDATE,-route\0RESTART\0HALT\0",
    "answers to no question": b"CR_RESPONSE," + b"A" * 4096 + b"\0",
}


def speak(world: World, client: Side, record: bytes) -> None:
    """Say `record` to the server, inside of the client's TLS session."""
    session: Any = client.machine._state._session  # type: ignore[union-attr]
    tls = session._current.state.tls
    tls.write(record)
    session._pull_tls(session._current, tls)
    for _ in range(8):  # the window is smaller than a record
        session._flush(world.now)
        for packet in session.drain()[0]:
            world.carry(client, client.link, world.server.place, packet)
        world.run(0.2)


@pytest.mark.parametrize("what", RECORDS)
def test_records_of_any_kind(pki: Pki, what: str) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    connected(world, client)
    for _ in range(4):
        speak(world, client, RECORDS[what])
    require_sound(world.server, world.server.seen)
    assert len(world.server.effects(c.Notify)) == 1, "that it is connected, and no more"
    assert not world.server.effects(c.RemovePeer)
    transfer(world, client)


def introduce(monkeypatch: pytest.MonkeyPatch, bad: Callable[[KeyMethod2], bytes]) -> None:
    """Clients introduce themselves with what `bad` makes of it."""
    honest = keymethod2.encode

    def encode(hello: KeyMethod2) -> bytes:
        return bad(hello) if hello.source.pre_master.reveal() else honest(hello)

    monkeypatch.setattr(keymethod2, "encode", encode)


_encode = keymethod2.encode
INTRODUCTIONS: dict[str, Callable[[KeyMethod2], bytes]] = {
    "key method 0": lambda hello: _encode(hello)[:4] + b"\0" + _encode(hello)[5:],
    "key method 1": lambda hello: _encode(hello)[:4] + b"\1" + _encode(hello)[5:],
    "key method 3": lambda hello: _encode(hello)[:4] + b"\3" + _encode(hello)[5:],
    "not five bytes": lambda hello: bytes(4),
    "cut in the keys": lambda hello: _encode(hello)[:80],
    "a string longer than the rest": lambda hello: _encode(hello)[:117] + b"\xff\xff" + _encode(hello)[119:],
    "a string without NUL": lambda hello: _encode(hello)[:117] + b"\0\4abcd",
    "a name of 4096 bytes": lambda hello: _encode(replace(hello, username="u" * 4095, password=Secret(b"p"))),
}


@pytest.mark.parametrize("what", INTRODUCTIONS)
def test_a_bad_introduction_ends_that_session_alone(pki: Pki, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    world = World(server_config(pki))
    honest = world.client(client_config(pki))
    connected(world, honest)
    with monkeypatch.context() as patch:
        introduce(patch, INTRODUCTIONS[what])
        bad = world.client(client_config(pki, identity=identity(pki.second_client)))
        world.run(4)
        require_sound(world.server, world.server.seen)
        served = len(world.server.effects(c.AddPeer))
        assert served == 1 or what.startswith("a name"), "a long name is refused or taken, and nothing else"
    bad.event(c.UserCommand(c.Command.DISCONNECT))
    transfer(world, honest)


PEER_INFO = {
    "1500 lines": "IV_VER=x\n" * 1500,
    "no equals sign": "IV_PROTO\nIV_CIPHERS\nIV_MTU\n",
    "twice": "IV_PROTO=2\nIV_PROTO=99999999\nIV_CIPHERS=AES-256-GCM\nIV_CIPHERS=none\n",
    "huge": f"IV_PROTO={'9' * 400}\nIV_MTU={'9' * 400}\n",
    "negative": "IV_PROTO=-1\nIV_MTU=-1\nIV_CIPHERS=-1\n",
    "hexadecimal": "IV_PROTO=0x3ff\nIV_CIPHERS=0x41\n",
    "control characters": "IV_GUI_VER=\x1b[2J\x07\nIV_SSO=\x9b\nUV_NAME=\x85\n",
    "no cipher that we have": "IV_PROTO=2\nIV_CIPHERS=BF-CBC:none:\n",
}


@pytest.mark.parametrize("what", PEER_INFO)
def test_odd_peer_info(pki: Pki, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    world = World(server_config(pki))
    honest = world.client(client_config(pki))
    connected(world, honest)
    with monkeypatch.context() as patch:
        introduce(patch, lambda hello: _encode(replace(hello, peer_info=PEER_INFO[what])))
        odd = world.client(client_config(pki, identity=identity(pki.second_client)))
        world.run(4)
    require_sound(world.server, world.server.seen)
    assert len(world.server.effects(c.Notify)) <= 6, "few lines, whatever is said"
    odd.event(c.UserCommand(c.Command.DISCONNECT))
    transfer(world, honest)


def test_nothing_of_a_replaced_session_is_sent_any_more(pki: Pki) -> None:
    """It has a soft reset under way that nobody acknowledges when the same client comes back from elsewhere."""
    world = World(server_config(pki))
    first = world.client(client_config(pki))
    connected(world, first)
    [old] = sessions(world.server.machine)
    first.place = ("192.0.2.200", 1)  # where nothing reaches it any more
    world.server.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert old.next_deadline() is not None
    world.clients.remove(first)
    again = world.client(client_config(pki))
    connected(world, again)
    sent = len(world.server.sent)
    world.run(100)
    assert all(packet[1:9] != old.own_sid for packet in world.server.sent[sent:])
    assert old not in sessions(world.server.machine)
    transfer(world, again)


def test_a_thousand_moves_in_a_renegotiation(pki: Pki) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    connected(world, client)
    number = world.server.peer
    assert number is not None
    attacker = Attacker(world, 1)
    world.server.event(c.UserCommand(c.Command.RENEGOTIATE))
    before = len(world.server.effects(c.Notify))
    for n in range(1000):
        attacker.event(world.server, Floated(number, (f"203.0.113.{n % 250 + 1}", 1000 + n)))
    assert len(world.server.effects(c.Notify)) - before <= MOVES_TOLD.most
    attacker.event(world.server, Floated(number, client.place))
    assert world.run(20, lambda: 1 in client.keys and 1 in world.server.keys), "and the renegotiation is done"
    transfer(world, client)


def test_a_probe_in_another_clients_name_reaches_nobody(pki: Pki) -> None:
    world = World(server_config(pki))
    one = world.client(client_config(pki))
    connected(world, one)
    two = world.client(client_config(pki, identity=identity(pki.second_client)))
    connected(world, two)
    theirs = str(one.effects(c.TunnelUp)[-1].settings.ipv4.ip)
    for destination in ("198.51.100.1", "203.0.113.5", "10.8.0.1", theirs):
        two.send(inner_packet(theirs, destination, b"probe"))
    world.run(1)
    assert not world.server.tun and not one.tun
    assert up(one) and up(two)
    transfer(world, one)

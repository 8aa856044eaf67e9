# SPDX-License-Identifier: BSD-2-Clause
"""tls-crypt-v2 between both roles: with and without state before the cookie, old clients, stolen and stale packets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ControlWrap, Proto, Timers, TlsCrypt, TlsCryptV2Client, TlsCryptV2Server
from qubes_miragevpn.crypto.wrappedkey import timestamp_metadata, wrap_client_key
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.serving.registry import MAX_CANDIDATES
from qubes_miragevpn.protocol.wire import earlyneg
from qubes_miragevpn.protocol.wire.packet import MAX_CONTROL_PACKET, Body, Head, Opcode
from qubes_miragevpn.protocol.wrap import clientkey
from qubes_miragevpn.protocol.wrap.keys import Stamp
from tests.interop.pki import Pki
from tests.pair.hostile import STRANGER, Attacker
from tests.pair.link import rule
from tests.pair.test_handshake import KEY, SERVER_KEY, WRAPPED, WRAPS, connected, transfer
from tests.pair.world import Side, World, client_config, server_config, up

CLIENT, SERVER = WRAPS["tls-crypt-v2"]
OTHER_KEY = Secret(bytes(255) + b"\7")
OLD = wrap_client_key(SERVER_KEY, KEY, timestamp_metadata(1_700_000_000 - 86400))
LARGEST = wrap_client_key(SERVER_KEY, KEY, bytes(734))


def opcodes(side: Side) -> list[Opcode]:
    return [Opcode(packet[0] >> 3) for packet in side.sent]


def peers(world: World) -> int:
    machine: Any = world.server.machine
    return len(machine._peers)


@pytest.fixture
def old_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client from before early negotiation."""
    monkeypatch.setattr(clientkey.ClientKeys, "first_id", 1)
    yield


@pytest.mark.parametrize("wrapped", [WRAPPED, LARGEST], ids=["usual", "largest"])
def test_the_stateless_way(pki: Pki, wrapped: bytes) -> None:
    world = World(server_config(pki, SERVER))
    client = world.client(client_config(pki, TlsCryptV2Client(KEY, wrapped)))
    world.run(0.06)
    assert peers(world) == 0 and opcodes(world.server) == [Opcode.HARD_RESET_SERVER]
    connected(world, client)
    assert opcodes(client)[:2] == [Opcode.HARD_RESET_CLIENT_V3, Opcode.CONTROL_WKC]
    assert opcodes(client).count(Opcode.CONTROL_WKC) == 1
    assert max(len(packet) for packet in client.sent) <= 1250
    transfer(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert world.run(30, lambda: 1 in client.keys and 1 in world.server.keys)


def test_over_tcp_the_key_is_sent_once(pki: Pki) -> None:
    world = World(server_config(pki, SERVER, Proto.TCP))
    client = world.client(client_config(pki, CLIENT, Proto.TCP))
    connected(world, client)
    assert opcodes(client).count(Opcode.HARD_RESET_CLIENT_V3) == 1 and Opcode.CONTROL_WKC not in opcodes(client)


@pytest.mark.usefixtures("old_client")
@pytest.mark.parametrize("link", ["loss 0%", "loss 30%", "loss 20% dup 20% reorder 30%"])
@pytest.mark.parametrize("seed", range(3))
def test_an_old_client_where_it_is_allowed(pki: Pki, link: str, seed: int) -> None:
    timers = Timers(hand_window=300, connect_timeout=300, tls_timeout=1, ping_restart=0)
    world = World(
        server_config(pki, TlsCryptV2Server(SERVER_KEY), timers=timers),
        to_server=rule(link, seed), to_client=rule(link, seed + 50), seed=seed,
    )  # fmt: skip
    client = world.client(client_config(pki, CLIENT, timers=timers))
    connected(world, client, 300)
    assert Opcode.CONTROL_WKC not in opcodes(client)
    transfer(world, client)


@pytest.mark.usefixtures("old_client")
def test_an_old_client_where_it_is_not(pki: Pki) -> None:
    world = World(server_config(pki, SERVER))
    client = world.client(client_config(pki, CLIENT, timers=Timers(connect_timeout=20)))
    world.run(15)
    assert not up(client) and not world.server.sent and not peers(world)


def test_an_unproved_address_is_answered_once_per_packet(pki: Pki) -> None:
    """A captured first packet from a forged address makes no stream of packets to it."""
    world = World(server_config(pki, TlsCryptV2Server(SERVER_KEY)))
    attacker = Attacker(world, 1)
    for n in range(1, 4):
        attacker.throw(world.server, reset(n), STRANGER)
        world.run(10)
        assert len(world.server.sent) == n
    assert sum(map(len, world.server.sent)) < 3 * len(reset())
    world.run(60)
    assert len(world.server.sent) == 3 and peers(world) == 0


def reset(packet_id: int = earlyneg.FIRST_PACKET_ID, sid: bytes = b"client!!", key: Secret = KEY) -> bytes:
    """A first packet of a client that has the right key."""
    wrapped = wrap_client_key(SERVER_KEY, key, timestamp_metadata(0))
    head = Head(Opcode.HARD_RESET_CLIENT_V3, 0, sid)
    stamp = Stamp(packet_id, 1_700_001_000)
    return clientkey.ClientKeys(TlsCryptV2Client(key, wrapped)).seal(head, stamp, Body((), None, 0).encode())


def test_sessions_of_old_clients_are_bounded(pki: Pki) -> None:
    world = World(server_config(pki, TlsCryptV2Server(SERVER_KEY)))
    attacker = Attacker(world, 1)
    for n in range(400):
        attacker.throw(world.server, reset(1, n.to_bytes(8, "big")), (f"203.0.113.{n % 250}", n + 1))
        world.run(0.05)
    assert 0 < peers(world) <= MAX_CANDIDATES and len(world.server.sent) <= 300  # 100 in 10 s


def test_a_flood_of_valid_first_packets_leaves_nothing(pki: Pki) -> None:
    world = World(server_config(pki, TlsCryptV2Server(SERVER_KEY)))
    attacker = Attacker(world, 1)
    for n in range(300):
        attacker.throw(world.server, reset(), (f"203.0.113.{n % 250}", n + 1))
    assert peers(world) == 0 and len(world.server.sent) == 100
    assert all(len(packet) == 72 for packet in world.server.sent)


@pytest.mark.parametrize("place", [("203.0.113.66", 6666), ("192.0.2.1", 40001)])
def test_a_stolen_second_packet_is_of_no_use_elsewhere(pki: Pki, place: tuple[str, int]) -> None:
    world = World(server_config(pki, SERVER))
    client = world.client(client_config(pki, CLIENT))
    world.run(0.11)
    stolen = client.sent[1]
    assert Opcode(stolen[0] >> 3) is Opcode.CONTROL_WKC
    Attacker(world, 1).throw(world.server, stolen, place)
    assert peers(world) == 0
    connected(world, client)


def test_first_packets_inside_a_session(pki: Pki) -> None:
    """A repeated reset and a repeated CONTROL_WKC are acknowledged again; those of another client's key are dropped."""
    world = World(server_config(pki, SERVER))
    client = world.client(client_config(pki, CLIENT))
    connected(world, client)
    machine: Any = client.machine
    session = machine._state._session
    attacker = Attacker(world, 1)
    for opcode, message_id in ((Opcode.HARD_RESET_CLIENT_V3, 0), (Opcode.CONTROL_WKC, 1)):
        head, body = Head(opcode, 0, session.own_sid), Body((), None, message_id, b"again").encode()
        effects = attacker.throw(world.server, session._wrap.seal(head, body))
        assert [type(effect) for effect in effects] == [c.Transmit]
        foreign = clientkey.ClientKeys(TlsCryptV2Client(OTHER_KEY, wrap_client_key(SERVER_KEY, OTHER_KEY, b"")))
        effects = attacker.throw(world.server, foreign.seal(head, Stamp(9, 2_000_000_000), body))
        assert [type(effect) for effect in effects] == [c.Drop]
    for key_id, message_id in ((0, 2), (0, 0), (1, 1)):
        head = Head(Opcode.CONTROL_WKC, key_id, session.own_sid)
        packet = session._wrap.seal(head, Body((), None, message_id).encode())
        assert [type(effect) for effect in attacker.throw(world.server, packet)] == [c.Drop]
    transfer(world, client)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (TlsCryptV2Client(KEY, wrap_client_key(Secret(bytes(128)), KEY, b"")), SERVER),
        (TlsCryptV2Client(KEY, OLD), TlsCryptV2Server(SERVER_KEY, max_age_days=1)),
        (TlsCrypt(KEY), SERVER),
        (CLIENT, TlsCrypt(KEY)),
        (CLIENT, WRAPS["none"][1]),
    ],
    ids=["another server key", "too old", "static key", "static server", "bare server"],
)
@pytest.mark.parametrize("proto", Proto)
def test_who_does_not_fit_is_not_answered(pki: Pki, proto: Proto, ours: ControlWrap, theirs: ControlWrap) -> None:
    world = World(server_config(pki, theirs, proto))
    client = world.client(client_config(pki, ours, proto, timers=Timers(connect_timeout=20)))
    world.run(15)
    assert not up(client) and not world.server.sent and not peers(world)


def test_clients_with_a_static_key_beside_those_with_their_own(pki: Pki) -> None:
    world = World(server_config(pki, TlsCryptV2Server(SERVER_KEY, beside=TlsCrypt(OTHER_KEY)), duplicate_cn=True))
    for wrap in (CLIENT, TlsCrypt(OTHER_KEY)):
        client = world.client(client_config(pki, wrap))
        connected(world, client)
        transfer(world, client)


# --- a malicious server


@pytest.mark.parametrize("wrap", [name for name in WRAPS if name != "tls-crypt-v2"])
def test_a_server_that_asks_for_a_key_that_the_client_has_not(
    pki: Pki, wrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Body, "encode", _asking(Body.encode))
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs))
    client = world.client(client_config(pki, ours))
    connected(world, client)
    assert Opcode.CONTROL_WKC not in opcodes(client) and Opcode.HARD_RESET_CLIENT_V3 not in opcodes(client)


def _asking(encode: Any) -> Any:
    def changed(body: Body) -> bytes:
        is_answer = body.acks == (0,) and body.message_id == 0 and not body.payload
        return encode(body) + (earlyneg.ask_wrapped_key() if is_answer else b"")  # type: ignore[no-any-return]

    return changed


@pytest.mark.parametrize("payload", ["00", "00010002", "0001ffff0001", "000100010a", "0001000300010a"])
def test_a_malformed_reset_is_dropped_and_the_real_one_still_works(pki: Pki, payload: str) -> None:
    world = World(server_config(pki))
    client = world.client(client_config(pki))
    world.run(0.01)
    machine: Any = client.machine
    own = machine._state._session.own_sid
    body = Body((0,), own, 0, bytes.fromhex(payload)).encode()
    effects = Attacker(world, 1).throw(client, Head(Opcode.HARD_RESET_SERVER, 0, b"attacker").encode() + body)
    assert [type(effect) for effect in effects] == [c.Drop]
    connected(world, client)


@pytest.mark.parametrize("size", [0, 1, 40, 54, 343, 1250, MAX_CONTROL_PACKET, 4000])
def test_noise_under_the_new_opcodes(pki: Pki, size: int) -> None:
    world = World(server_config(pki, TlsCryptV2Server(SERVER_KEY)))
    client = world.client(client_config(pki, CLIENT))
    connected(world, client)
    attacker = Attacker(world, size)
    for opcode in (10, 11):
        for key_id in range(8):
            packet = bytes((opcode << 3 | key_id,)) + attacker.dice.randbytes(size)
            for target, place in ((world.server, STRANGER), (world.server, client.place), (client, None)):
                effects = attacker.throw(target, packet, place)  # type: ignore[arg-type]
                assert [type(effect) for effect in effects] == [c.Drop]
    transfer(world, client)

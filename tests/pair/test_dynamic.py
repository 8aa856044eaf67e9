# SPDX-License-Identifier: BSD-2-Clause
"""Dynamic tls-crypt: renegotiations under a key of the session's own, over each kind of base protection."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Timers
from qubes_miragevpn.crypto.ctr import aes256_ctr
from qubes_miragevpn.crypto.digests import hmac_digest
from qubes_miragevpn.crypto.statickey import split_key2
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.wire import peerinfo
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode, read_body
from qubes_miragevpn.protocol.wrap.clientkey import client_keys, server_door
from qubes_miragevpn.protocol.wrap.dynamic import dynamic_keys
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp
from tests.interop.pki import Pki
from tests.pair.hostile import Attacker
from tests.pair.link import rule
from tests.pair.test_handshake import WRAPS, connected, transfer
from tests.pair.world import World, client_config, server_config

RENEGOTIATE = c.UserCommand(c.Command.RENEGOTIATE)
SLOW = Timers(ping=5, ping_restart=0, reneg_sec=0, tls_timeout=1, hand_window=300, connect_timeout=300)
VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "tls_crypt_v2.json").read_text())["dynamic"]


def later_packets(world: World) -> list[bytes]:
    """Control packets of renegotiations."""
    return [packet for _, packet in world.wire if packet[0] & 7 and packet[0] >> 3 in (3, 4, 5)]


def test_published_packet() -> None:
    """The vector has no head; what our keys add to it is the head alone."""
    exported, plain = bytes.fromhex(VECTOR["exported_byte"]) * 256, VECTOR["plaintext"].encode()
    expected = bytes.fromhex(VECTOR["packet"])
    for base in (None, Secret(bytes(256))):
        key = bytes(256) if base is None else base.reveal()
        half = split_key2(bytes(a ^ b for a, b in zip(exported, key, strict=True)))[0]
        tag = hmac_digest("SHA256", half.hmac.reveal()[:32], expected[:8] + plain)
        assert expected == expected[:8] + tag + aes256_ctr(half.cipher.reveal()[:32], tag[:16], plain)
        head = Head(Opcode.CONTROL, 1, bytes(8))
        packet = dynamic_keys(Secret(exported), base, server=False).seal(head, Stamp(1, 0), plain)
        tag = hmac_digest("SHA256", half.hmac.reveal()[:32], packet[:17] + plain)
        assert packet[17:] == tag + aes256_ctr(half.cipher.reveal()[:32], tag[:16], plain)


@pytest.mark.parametrize("who", ["client", "server", "both"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_renegotiations_use_it(pki: Pki, wrap: str, who: str) -> None:
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs))
    client = world.client(client_config(pki, ours))
    connected(world, client)
    machine: Any = client.machine
    session = machine._state._session
    for expected in range(1, 9):
        for side in (client, world.server):
            if who in ("both", "client" if side is client else "server"):
                side.event(RENEGOTIATE)
        assert world.run(70, lambda: len(client.effects(c.InstallKey)) == expected + 1)  # noqa: B023
        world.run(70)
    transfer(world, client)
    packets = later_packets(world)
    assert len(packets) > 8 * 6
    base = client_keys(ours)
    for packet in packets:
        with pytest.raises(PeerError):
            opened = base.open(packet)
            if opened.stamp is None:
                require_body(opened)
    assert session._wrap.overhead(1) == 40


def require_body(opened: Opened) -> None:
    """Raise if this is no body without protection: the first byte of a stamp is 0, as if nothing were acknowledged."""
    body = read_body(opened.head.opcode, opened.body)
    if body.payload[:1] not in (b"", b"\x14", b"\x15", b"\x16", b"\x17"):
        raise PeerError("these are no TLS records")
    if opened.head.opcode is Opcode.SOFT_RESET and body.payload:
        raise PeerError("a reset with a payload")
    if body.message_id is not None and body.message_id > 1000:
        raise PeerError("this is no message id")


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("who", ["client", "both"])
@pytest.mark.parametrize("seed", range(2))
def test_under_loss_each_transmission_is_sealed_anew(pki: Pki, wrap: str, who: str, seed: int) -> None:
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs, timers=SLOW))
    client = world.client(client_config(pki, ours, timers=SLOW))
    connected(world, client)
    world.to_server, world.to_client = (rule("loss 30% dup 10% reorder 20% corrupt 5%", seed + n) for n in (0, 77))
    for key_id in (1, 2, 3):
        for side in (client, world.server)[: 2 if who == "both" else 1]:
            side.event(RENEGOTIATE)
        assert world.run(200, lambda: key_id in client.keys and key_id in world.server.keys)  # noqa: B023
        world.run(310)
    assert not client.effects(c.TunnelDown)
    packets = later_packets(world)
    assert len(packets) == len(set(packets)), "a retransmission was sent as it was"
    transfer(world, client)


@pytest.mark.parametrize("old", ["client", "server"])
def test_a_peer_that_cannot_renegotiates_as_before(pki: Pki, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without = ~peerinfo.IvProto.DYN_TLS_CRYPT
    if old == "client":
        monkeypatch.setattr(peerinfo, "OUR_PROTO", peerinfo.OUR_PROTO & without)
    else:
        parse = peerinfo.parse
        monkeypatch.setattr(peerinfo, "parse", lambda text: replace(parse(text), proto=parse(text).proto & without))
    ours, theirs = WRAPS["tls-crypt"]
    world = World(server_config(pki, theirs))
    client = world.client(client_config(pki, ours))
    connected(world, client)
    client.event(RENEGOTIATE)
    assert world.run(30, lambda: 1 in client.keys and 1 in world.server.keys)
    base = server_door(theirs, lambda: 0)
    from_client = [packet for side, packet in world.wire if side is client and packet in later_packets(world)]
    assert len(from_client) > 3
    for packet in from_client:
        base.open(packet)


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_base_protection_opens_no_renegotiation(pki: Pki, wrap: str) -> None:
    """Whoever has the static key, or sees an unprotected channel, cannot begin one nor disturb one."""
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs))
    client = world.client(client_config(pki, ours))
    connected(world, client)
    machine: Any = client.machine
    session = machine._state._session
    attacker = Attacker(world, 1)
    keys = client_keys(ours)
    for opcode, message_id in ((Opcode.SOFT_RESET, 0), (Opcode.CONTROL, 1), (Opcode.ACK, None)):
        acks = ((0,), session.peer_sid) if opcode is Opcode.ACK else ((), None)
        packet = keys.seal(Head(opcode, 1, session.own_sid), Stamp(77, 2_000_000_000), Body(*acks, message_id).encode())
        assert [type(effect) for effect in attacker.throw(world.server, packet)] == [c.Drop]
    client.event(RENEGOTIATE)
    assert world.run(30, lambda: 1 in client.keys and 1 in world.server.keys)

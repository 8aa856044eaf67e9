# SPDX-License-Identifier: BSD-2-Clause
"""TLS between two: both ends come to the same without a push, over any link, and again after either began anew."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import ClientConfig, Listen, PointServer, Proto
from qubes_miragevpn.dataplane.interface import NO_PEER_ID
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from qubes_miragevpn.protocol.control import negotiation
from qubes_miragevpn.protocol.wire import peerinfo
from qubes_miragevpn.protocol.wire.peerinfo import IvProto
from tests.interop.pki import Pki
from tests.pair.link import rule
from tests.pair.test_handshake import WRAPS
from tests.pair.world import CLIENT_AT, SERVER_AT, Side, World, client_config, inner_packet, server_config, up

BAD = "loss 20% dup 10% reorder 20% corrupt 5%"
OURS, THEIRS = ("ifconfig 10.1.0.2 10.1.0.1",), ("ifconfig 10.1.0.1 10.1.0.2",)


def waits(pki: Pki, proto: Proto = Proto.UDP, **changes: Any) -> PointServer:
    """The waiting end."""
    wrap = changes.pop("wrap", None)
    like = server_config(pki, **({"wrap": wrap} if wrap else {}))
    common = replace(like.common, **changes)
    return PointServer(ClientConfig(common, ()), THEIRS, Listen("", SERVER_AT[1], proto))


def connect(world: World, config: ClientConfig) -> Side:
    """Add the connecting end."""
    machine = Client(config, entropy=world.entropy, unix_time=world.unix_time, tunnel=OURS)
    place = (CLIENT_AT[0], CLIENT_AT[1] + len(world.clients))
    side = Side(world, machine, place, 0)
    world.clients.append(side)
    side.event(c.UserCommand(c.Command.CONNECT))
    return side


def carries(world: World, side: Side) -> bool:
    """Whether a packet of each end arrives at the other."""
    there, back = inner_packet("10.9.9.9", "10.1.0.1", b"there"), inner_packet("10.8.8.8", "10.1.0.2", b"back")
    for _ in range(20):  # as somebody who sends again
        side.send(there)
        world.server.send(back)
        if world.run(0.5, lambda: there in world.server.tun and back in side.tun):
            return True
    return False


@pytest.mark.parametrize("wrap", list(WRAPS), ids=str)
@pytest.mark.parametrize("proto", list(Proto), ids=lambda proto: proto.value)
def test_up_without_a_push(pki: Pki, proto: Proto, wrap: str) -> None:
    ours, theirs = WRAPS[wrap]
    world = World(waits(pki, proto, wrap=theirs))
    side = connect(world, client_config(pki, ours, proto))
    assert world.run(10, lambda: up(side)) and carries(world, side)
    (settings,) = (effect.settings for effect in side.effects(c.TunnelUp))
    assert str(settings.ipv4) == "10.1.0.2/32" and str(settings.ipv4_peer) == "10.1.0.1"
    (mine,), (other,) = side.effects(c.AddPeer), world.server.effects(c.AddPeer)
    assert mine.peer_id == other.peer_id != NO_PEER_ID, "both export the same"
    assert not world.server.effects(c.AssignAddresses)


@pytest.mark.parametrize("seed", range(12))
def test_over_a_bad_link(pki: Pki, seed: int) -> None:
    world = World(waits(pki), to_server=rule(BAD, seed), to_client=rule(BAD, seed + 100), seed=seed)
    side = connect(world, client_config(pki))
    assert world.run(300, lambda: up(side)), "the handshake gets through"
    assert carries(world, side)


def test_renewed_by_either_end(pki: Pki) -> None:
    world = World(waits(pki))
    side = connect(world, client_config(pki))
    assert world.run(10, lambda: up(side))
    for number, end in enumerate((side, world.server), start=1):
        end.event(c.UserCommand(c.Command.RENEGOTIATE))
        assert world.run(90, lambda n=number: {n} <= set(side.keys) & set(world.server.keys))  # type: ignore[misc]
        assert carries(world, side)


def test_whoever_is_authenticated_last_is_the_other_end(pki: Pki) -> None:
    world = World(waits(pki))
    first = connect(world, client_config(pki))
    assert world.run(10, lambda: up(first)) and carries(world, first)
    second = connect(world, client_config(pki))
    assert world.run(10, lambda: up(second)) and carries(world, second)
    assert len(world.server.effects(c.RemovePeer)) == 1 and len(world.server.machine._peers) == 1  # type: ignore[union-attr]


def test_a_stranger_ends_nothing(pki: Pki) -> None:
    """Resets of somebody who cannot prove anything leave the tunnel as it is."""
    world = World(waits(pki))
    side = connect(world, client_config(pki))
    assert world.run(10, lambda: up(side))
    refused = connect(world, client_config(pki, identity=None))
    world.run(100, lambda: up(refused))
    assert not up(refused) and not world.server.effects(c.RemovePeer) and carries(world, side)


def test_only_from_where_the_file_says(pki: Pki) -> None:
    cases = ((CLIENT_AT[0], "", True), (CLIENT_AT[0], "::ffff:", True), ("203.0.113.9", "", False))
    for address, shown, works in cases:
        world = World(replace(waits(pki), only=(ip_address(address),)))
        side = connect(world, client_config(pki))
        side.place = (f"{shown}{side.place[0]}", *side.place[1:])  # as a socket for both families shows it
        assert world.run(30, lambda side=side: up(side)) == works  # type: ignore[misc]
        assert bool(world.server.sent) == works, "who is not meant gets no answer"
        assert not any(effect.limits.floats for effect in world.server.effects(c.AddPeer)), "nor may it move"


def test_a_push_is_not_taken(pki: Pki) -> None:
    world = World(waits(pki))
    side = connect(world, client_config(pki))
    assert world.run(10, lambda: up(side))
    server: Any = world.server.machine
    (peer,) = server._peers
    server._out = []
    for message in ("PUSH_REPLY,ifconfig 10.6.6.6 10.6.6.5,redirect-gateway", "PUSH_UPDATE,redirect-gateway def1"):
        server._with(peer.number, lambda each, text=message: each.session.send_message(text, world.now), world.now)
    for effect in server._out:
        world.server._apply(effect)
    world.run(2)
    assert len(side.effects(c.TunnelUp)) == 1 and not side.effects(c.TunnelChanged)
    assert sum("not asked for it" in effect.reason for effect in side.effects(c.Drop)) == 2


def test_silence_and_farewell(pki: Pki) -> None:
    world = World(waits(pki))
    side = connect(world, client_config(pki))
    assert world.run(10, lambda: up(side))
    side.event(c.UserCommand(c.Command.DISCONNECT))
    assert world.run(10, lambda: bool(world.server.effects(c.RemovePeer)))
    again = connect(world, client_config(pki))
    assert world.run(10, lambda: up(again))
    world.server.event(c.UserCommand(c.Command.DISCONNECT))
    assert world.run(5, lambda: bool(again.effects(c.TunnelDown))), "it says so"


@pytest.mark.parametrize(
    ("server", "client", "cipher"),
    [
        ({"data_ciphers": ("AES-128-GCM", "AES-256-GCM")}, {}, "AES-128-GCM"),
        ({}, {"data_ciphers": ("CHACHA20-POLY1305",)}, "CHACHA20-POLY1305"),
        (
            {"data_ciphers": ("AES-128-GCM",), "data_ciphers_fallback": "AES-256-CBC"},
            {"data_ciphers": ("AES-256-GCM",), "data_ciphers_fallback": "AES-256-CBC"},
            "AES-256-CBC",
        ),
        ({"data_ciphers": ("AES-128-GCM",)}, {"data_ciphers": ("AES-256-GCM",)}, None),
    ],
)
def test_the_cipher(pki: Pki, server: dict[str, Any], client: dict[str, Any], cipher: str | None) -> None:
    world = World(waits(pki, **server))
    side = connect(world, client_config(pki, **client))
    assert world.run(20, lambda: up(side)) == (cipher is not None)
    if cipher is not None:
        assert carries(world, side)
        assert {keys.suite for end in (side, world.server) for keys in end.keys.values()} == {cipher}  # type: ignore[attr-defined]


def test_ends_from_before_the_agreement(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """openvpn up to 2.5 says nothing of itself: DATA_V1, the PRF, and the cipher of the options string."""
    monkeypatch.setattr(peerinfo, "build_point", lambda *_: "")
    world = World(waits(pki))
    side = connect(world, client_config(pki))
    assert world.run(10, lambda: up(side)) and carries(world, side)
    (mine,), (told,) = side.effects(c.AddPeer), side.effects(c.TunnelUp)
    assert mine.peer_id == NO_PEER_ID and "keys by PRF" in told.summary


def test_what_is_agreed_on() -> None:
    def export(label: bytes, size: int) -> Secret:
        assert (label, size) == (b"EXPORTER-OpenVPN-p2p-peerid", 3)
        return Secret(b"\1\2\3")

    def agreed(info: str) -> negotiation.PointAgreement:
        return negotiation.point_agreement(peerinfo.parse(info), export)

    everything = int(peerinfo.POINT_PROTO)
    assert agreed(f"IV_PROTO={everything}\n") == negotiation.PointAgreement(0x010203, True, True, True)
    assert agreed(f"IV_PROTO={everything - IvProto.TLS_KEY_EXPORT}\n").peer_id == 0x76706E
    assert agreed(f"IV_PROTO={everything - IvProto.DATA_V2}\n").peer_id is None
    assert agreed(f"IV_PROTO={everything - IvProto.NCP_P2P}\n") == negotiation.PointAgreement()
    assert agreed(f"IV_PROTO={everything}\nID=5ff240\n").peer_id == 0x5FF240
    for odd in ("ffffff", "", "1000000", "-1", "0x1", "zz"):
        assert agreed(f"IV_PROTO={everything}\nID={odd}\n").peer_id == 0x010203

# SPDX-License-Identifier: BSD-2-Clause
"""What goes together into one flight: how few times client and server have to wait for each other.

The counts over a real delay, against openvpn as well, are in `tests/bench/handshake.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL

from qubes_miragevpn.config.model import Proto, TlsVersions
from qubes_miragevpn.protocol.server import Server
from qubes_miragevpn.protocol.wire import keymethod2
from qubes_miragevpn.protocol.wire.packet import HEAD_SIZE, Opcode, read_body, read_head
from tests.interop.pki import Pki
from tests.pair.hostile.means.rogue import PUSH, Rogue, tls_context
from tests.pair.link import LATENCY
from tests.pair.test_handshake import WRAPS, connected
from tests.pair.world import World, client_config, server_config


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("proto", Proto)
@pytest.mark.parametrize(("tls", "round_trips"), [((1, 2), 4), ((1, 3), 3)])
def test_round_trips_from_reset_to_tunnel(
    pki: Pki, wrap: str, proto: Proto, tls: tuple[int, int], round_trips: int
) -> None:
    """Reset, TLS hello (1.2 finishes in one more), key method 2 with the push; openvpn 2.6 takes one more each."""
    ours, theirs = WRAPS[wrap]
    versions = TlsVersions(minimum=tls, maximum=tls)
    world = World(server_config(pki, theirs, proto, tls=versions))
    began = world.now
    client = world.client(client_config(pki, ours, proto, tls=versions))
    connected(world, client)
    assert world.now - began == pytest.approx(round_trips * 2 * LATENCY)


@pytest.mark.parametrize(("tls", "round_trips"), [((1, 2), 5), ((1, 3), 4)])
def test_a_server_that_waits_for_the_acknowledgement_costs_one_more(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, tls: tuple[int, int], round_trips: int
) -> None:
    """As openvpn does: it pushes when its part of the key exchange is acknowledged, not with it."""
    push = Server._serve
    waiting: list[Any] = []
    monkeypatch.setattr(Server, "_serve", lambda _, peer, now: waiting.append(peer))
    versions = TlsVersions(minimum=tls, maximum=tls)
    world = World(server_config(pki, tls=versions))
    began = world.now
    client = world.client(client_config(pki, tls=versions))
    assert world.run(5, lambda: bool(waiting))
    slot = waiting[0].session._slots[0]
    assert world.run(5, lambda: slot.reliability.idle)
    world.server.machine._out = []
    push(world.server.machine, waiting[0], world.now)  # type: ignore[arg-type]
    world.server.machine._collect(waiting[0], world.now)  # type: ignore[union-attr]
    for effect in world.server.machine._out:
        world.server._apply(effect)
    connected(world, client)
    assert world.now - began == pytest.approx(round_trips * 2 * LATENCY)


@pytest.mark.parametrize("tls", [(1, 2), (1, 3)])
def test_nothing_waits_that_could_go(pki: Pki, tls: tuple[int, int]) -> None:
    rogue = Rogue(pki, tls_context(pki, tls))
    assert [read_head(packet).opcode for packet in rogue.packets] == [Opcode.HARD_RESET_CLIENT]
    rogue.reset()
    hello = read_body(Opcode.CONTROL, rogue.packets[1][HEAD_SIZE:])
    assert hello.acks == (0,) and hello.payload[:1] == b"\x16", "the acknowledgement is in the packet with the hello"
    rogue.handshake()
    said = keymethod2.read(rogue.line.tls.recv(16384), from_client=True)
    assert said.options.startswith("V4,"), "what follows TLS's last message is in the same flight"
    with pytest.raises(SSL.WantReadError):
        rogue.line.tls.recv(16384)
    before = len(rogue.packets)
    rogue.introduce()
    kinds = [read_head(packet).opcode for packet in rogue.packets[before:]]
    assert kinds[0] is Opcode.ACK or Opcode.ACK not in kinds
    assert rogue.line.tls.recv(16384) == b"PUSH_REQUEST\0", "asked for at once"
    rogue.say(PUSH)
    assert rogue.up
    with pytest.raises(SSL.WantReadError):
        rogue.line.tls.recv(16384)

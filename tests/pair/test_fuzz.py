# SPDX-License-Identifier: BSD-2-Clause
"""Seeded noise against both machines in every state: nothing raises, nothing grows, a protected tunnel goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qubes_miragevpn.config.model import Timers
from qubes_miragevpn.protocol import contract as c
from tests.interop.pki import Pki
from tests.pair.hostile import STRANGER, Attacker
from tests.pair.test_handshake import WRAPS, connected, transfer
from tests.pair.world import World, client_config, server_config, up

PROTECTED = [name for name in WRAPS if name != "none"]
TIMERS = Timers(ping_restart=0, connect_retry_max_pause=2)


def attack(attacker: Attacker, rounds: int, *, insider: bool) -> None:
    """Some packets of each kind at both sides."""
    world = attacker.world
    for _ in range(rounds):
        for side in (world.server, world.clients[0]):
            kind = attacker.dice.choice((attacker.noise, attacker.mutation, attacker.recorded))
            packet = attacker.insider(side) if insider else kind()
            # Who plays a whole handshake back from elsewhere relays it, as a NAT does: that is no attack.
            elsewhere = up(world.clients[0]) or kind != attacker.recorded
            attacker.throw(side, packet, attacker.dice.choice((None, None, STRANGER)) if elsewhere else None)
            if attacker.dice.random() < 0.2:
                attacker.event(side, attacker.odd_event(side))


@pytest.mark.parametrize("wrap", PROTECTED)
@pytest.mark.parametrize("seed", range(4))
def test_a_protected_tunnel_comes_up_and_stays_up_under_fire(pki: Pki, wrap: str, seed: int) -> None:
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs, timers=TIMERS), seed=seed)
    client = world.client(client_config(pki, ours, timers=TIMERS))
    attacker = Attacker(world, seed)
    world.run(0.001)
    for _ in range(200):
        attack(attacker, 2, insider=False)
        if world.run(0.01, lambda: up(client)):
            break
    connected(world, client)
    for _ in range(3):
        attack(attacker, 120, insider=False)
        transfer(world, client)
        client.event(c.UserCommand(c.Command.RENEGOTIATE))
        for _ in range(30):
            attack(attacker, 4, insider=False)
            world.run(0.02)
        transfer(world, client)
    assert not client.effects(c.TunnelDown) and len(client.effects(c.InstallKey)) == 4
    assert len(world.server.effects(c.AddPeer)) == 1 and not world.server.effects(c.RemovePeer)


@pytest.mark.parametrize("seed", range(12))
def test_without_protection_an_insider_may_end_a_session_and_nothing_else(pki: Pki, seed: int) -> None:
    timers = replace(TIMERS, ping=5, ping_restart=20)
    world = World(server_config(pki, timers=timers), seed=seed)
    client = world.client(client_config(pki, timers=timers))
    attacker = Attacker(world, seed)
    world.run(0.001)
    for _ in range(60):
        attack(attacker, 4, insider=attacker.dice.random() < 0.7)
        world.run(0.3)
    world.run(90)  # handshakes and sessions that it broke die
    assert world.run(120, lambda: up(client)), "and when it has gone, all is well again"
    transfer(world, client)
    assert len(world.server.machine._peers) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("wrap", PROTECTED)
def test_no_answer_without_the_key(pki: Pki, wrap: str) -> None:
    """Whoever lacks the static key gets nothing at all, neither from a server nor from a client."""
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs))
    client = world.client(client_config(pki, ours))
    connected(world, client)
    attacker = Attacker(world, 9)
    for _ in range(3000):
        for side in (world.server, client):
            effects = attacker.throw(side, attacker.dice.choice((attacker.noise, attacker.mutation))(), STRANGER)
            assert {type(effect) for effect in effects} <= {c.Drop}


@pytest.mark.parametrize("wrap", WRAPS)
def test_first_packets_of_every_opcode_key_id_and_length(pki: Pki, wrap: str) -> None:
    """Only a hard reset of a client, key id 0, elicits a reply; never more than one, never a session."""
    world = World(server_config(pki, WRAPS[wrap][1]))
    attacker = Attacker(world, 1)
    answered = set()
    for first in range(256):
        for size in (*range(0, 90), 200, 1250, 2000):
            packet = bytes((first,)) + attacker.dice.randbytes(8)[:size] + bytes(max(size - 8, 0))
            effects = attacker.throw(world.server, packet, STRANGER)
            if sent := [effect for effect in effects if isinstance(effect, c.Transmit)]:
                answered.add((first, len(packet)))
                assert len(sent) == 1 and len(sent[0].packet) <= 26
    assert answered == ({(7 << 3, 14)} if wrap == "none" else set())
    assert not world.server.machine._peers  # type: ignore[union-attr]


def test_a_day_under_fire(pki: Pki) -> None:
    """24 hours, hourly renegotiation from both sides, noise all the time: up throughout, and no larger at the end."""
    ours, theirs = WRAPS["tls-crypt"]
    timers = replace(TIMERS, ping=60)
    world = World(server_config(pki, theirs, timers=timers, push=("ping 60", "ping-restart 300")))
    client = world.client(client_config(pki, ours, timers=timers))
    attacker = Attacker(world, 5)
    connected(world, client)
    for _ in range(24 * 6):
        attack(attacker, 40, insider=False)
        world.run(600)
    transfer(world, client)
    assert not client.effects(c.TunnelDown)
    assert len(client.effects(c.InstallKey)) in (24, 25)
    assert len(client.keys) <= 2 and len(world.server.keys) <= 2

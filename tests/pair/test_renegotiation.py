# SPDX-License-Identifier: BSD-2-Clause
"""Renegotiation: from either side and from both, quickly, for long, over bad links; keys, lame ducks, identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Proto, Timers
from qubes_miragevpn.dataplane.interface import KeyExhausted
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.control.tls import make_context
from tests.interop.pki import Pki
from tests.pair.link import rule, script
from tests.pair.test_handshake import WRAPS, connected, transfer
from tests.pair.test_server import identity
from tests.pair.world import Side, World, client_config, server_config

RENEGOTIATE = c.UserCommand(c.Command.RENEGOTIATE)
QUIET = Timers(ping=10, ping_restart=0, reneg_sec=0)


def pair(pki: Pki, client: Timers = QUIET, server: Timers = QUIET, **world: Any) -> tuple[World, Side]:
    made = World(server_config(pki, timers=server), **world)
    side = made.client(client_config(pki, timers=client))
    connected(made, side)
    return made, side


def key_ids(side: Side, kind: type[Any] = c.InstallKey) -> list[int]:
    return [effect.key_id for effect in side.effects(kind)]


def require_twins(world: World, client: Side) -> None:
    """Both sides hold the same keys under the same key ids, crosswise."""
    assert set(client.keys) == set(world.server.keys) and len(client.keys) <= 2
    for key_id, ours in client.keys.items():
        theirs: Any = world.server.keys[key_id]
        assert ours.send == theirs.receive and ours.receive == theirs.send  # type: ignore[attr-defined]


@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_from_either_side_and_from_both_at_once(pki: Pki, who: str) -> None:
    world, client = pair(pki)
    for expected in (1, 2, 3):
        for side in (client, world.server):
            if who in ("both", "client" if side is client else "server"):
                side.event(RENEGOTIATE)
        world.run(2)
        assert key_ids(client) == key_ids(world.server) == list(range(expected + 1))
        require_twins(world, client)
        transfer(world, client)


@pytest.mark.parametrize("proto", Proto)
@pytest.mark.parametrize(("ours", "theirs"), [(5, 0), (0, 5), (5, 5), (3, 7)])
def test_every_few_seconds_with_key_ids_from_7_back_to_1(pki: Pki, proto: Proto, ours: int, theirs: int) -> None:
    world = World(server_config(pki, proto=proto, timers=replace(QUIET, reneg_sec=theirs)))
    client = world.client(client_config(pki, proto=proto, timers=replace(QUIET, reneg_sec=ours)))
    connected(world, client)
    assert world.run(200, lambda: len(key_ids(client)) >= 24)
    world.run(1)
    expected = [0, *([1, 2, 3, 4, 5, 6, 7] * 8)]
    assert key_ids(client) == expected[: len(key_ids(client))]
    assert key_ids(world.server) == key_ids(client)
    require_twins(world, client)
    transfer(world, client)
    assert not client.effects(c.TunnelDown)


@pytest.mark.parametrize("seed", range(8))
def test_every_few_seconds_over_a_bad_link(pki: Pki, seed: int) -> None:
    timers = Timers(ping=10, ping_restart=0, reneg_sec=8, tls_timeout=1, hand_window=120)
    ours, theirs = WRAPS["tls-crypt"]
    text = "loss 20% dup 20% reorder 20% corrupt 5%"
    world = World(
        server_config(pki, theirs, timers=timers), to_server=rule(text, seed), to_client=rule(text, seed + 100)
    )
    client = world.client(client_config(pki, ours, timers=timers))
    connected(world, client, 120)
    for _ in range(10):
        transfer(world, client)
        world.run(12)
    assert len(key_ids(client)) >= 3 and not client.effects(c.TunnelDown)


@pytest.mark.parametrize("fates", ["x", ".x", "..x", "...x", "....x", "2", ".2", "..22", "~", ".~", "..~", "...~~"])
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
def test_single_accidents(pki: Pki, fates: str, direction: str) -> None:
    world, client = pair(pki)
    setattr(world, direction, script(fates))
    client.event(RENEGOTIATE)
    world.server.event(RENEGOTIATE)
    assert world.run(30, lambda: 1 in client.keys and 1 in world.server.keys)
    world.run(20)
    require_twins(world, client)
    transfer(world, client)


def test_the_old_key_is_used_until_the_window_has_passed(pki: Pki) -> None:
    world, client = pair(pki, replace(QUIET, hand_window=30), replace(QUIET, hand_window=30))
    client.event(RENEGOTIATE)
    world.run(29)
    assert key_ids(client, c.ActivateKey) == [0] == key_ids(world.server, c.ActivateKey)
    transfer(world, client)
    world.run(2)
    assert key_ids(client, c.ActivateKey) == [0, 1] == key_ids(world.server, c.ActivateKey)
    transfer(world, client)


def test_a_side_follows_at_once_when_the_other_uses_the_new_key(pki: Pki) -> None:
    world, client = pair(pki, replace(QUIET, hand_window=10), replace(QUIET, hand_window=300))
    client.event(RENEGOTIATE)
    world.run(9)
    assert key_ids(world.server, c.ActivateKey) == [0]
    world.run(3)
    transfer(world, client)  # the client's packets are under the new key by now
    assert key_ids(world.server, c.ActivateKey) == [0, 1]


def test_the_lame_duck_dies_after_its_time(pki: Pki) -> None:
    world, client = pair(pki, replace(QUIET, tran_window=100), replace(QUIET, tran_window=100))
    client.event(RENEGOTIATE)
    world.run(99)
    assert set(client.keys) == {0, 1} == set(world.server.keys)
    world.run(3)
    assert set(client.keys) == {1} == set(world.server.keys)
    assert key_ids(client, c.RetireKey) == [0] == key_ids(world.server, c.RetireKey)
    transfer(world, client)


def test_an_exhausted_key_is_replaced(pki: Pki) -> None:
    world, client = pair(pki)
    for side in (client, world.server):
        before = len(key_ids(side))
        for _ in range(5):  # said again while the renegotiation runs
            side.event(KeyExhausted(0, key_ids(side)[-1]))
        assert world.run(3, lambda: len(key_ids(side)) == before + 1)  # noqa: B023
        world.run(3)
        assert len(key_ids(side)) == before + 1


def test_a_flood_of_soft_resets_is_one_renegotiation(pki: Pki) -> None:
    world, client = pair(pki)
    for _ in range(100):
        client.event(RENEGOTIATE)
        world.server.event(RENEGOTIATE)
    world.run(5)
    assert key_ids(client) == [0, 1] == key_ids(world.server)


def test_a_renegotiation_that_is_never_answered_ends_the_session(pki: Pki) -> None:
    world, client = pair(pki)
    world.to_server = lambda packet: [] if packet[0] >> 3 in (3, 4, 5) else [(0.05, packet)]
    client.event(RENEGOTIATE)
    world.run(59)
    transfer(world, client)
    world.run(3)
    assert [down.reason for down in client.effects(c.TunnelDown)] == ["no TLS handshake within 60 s"]


def other_identity(client: Side, pki: Pki) -> None:
    """From now on the client shows another certificate of the same CA."""
    machine: Any = client.machine
    common = machine._config.common
    context = make_context(identity(pki.second_client), common.peer, common.tls, server=False)
    machine._beginning._endpoints._context = context


def test_another_certificate_in_a_renegotiation_ends_the_session(pki: Pki) -> None:
    world, client = pair(pki)
    other_identity(client, pki)
    client.event(RENEGOTIATE)
    world.run(1)
    assert key_ids(world.server) == [0] and world.server.effects(c.RemovePeer)


def test_another_user_name_in_a_renegotiation_ends_the_session(pki: Pki) -> None:
    world = World(server_config(pki, timers=QUIET))
    client = world.client(
        client_config(pki, timers=QUIET, auth_user_pass=True, credentials=Credentials("one", Secret(b"x")))
    )
    connected(world, client)
    client.machine._login._credentials = Credentials("two", Secret(b"x"))  # type: ignore[union-attr]
    client.event(RENEGOTIATE)
    world.run(1)
    assert key_ids(world.server) == [0] and world.server.effects(c.RemovePeer)


@pytest.mark.parametrize("leap", [3600, 86400, 68 * 365 * 86400])
def test_a_leap_of_the_clock(pki: Pki, leap: float) -> None:
    """A machine that slept: whatever is due is done, nothing raises, and the tunnel works again soon."""
    timers = Timers(ping=10, ping_restart=60)
    world, client = pair(pki, timers, timers)
    for _ in range(3):
        world.now += leap
        world.run(200)
    assert world.run(60, lambda: len(client.effects(c.TunnelUp)) > len(client.effects(c.TunnelDown)))
    transfer(world, client)


@pytest.mark.parametrize("leap", [-86400, 86400, -(2**31), 2**31, 2**32])
def test_a_leap_of_the_wall_clock_does_not_disturb_a_tunnel(pki: Pki, leap: int) -> None:
    ours, theirs = WRAPS["tls-crypt"]
    world = World(server_config(pki, theirs, timers=QUIET))
    client = world.client(client_config(pki, ours, timers=QUIET))
    connected(world, client)
    own: Any = client.machine
    other: Any = world.server.machine
    for machine in (own._beginning, other):
        machine._unix_time = lambda: 1_700_000_000 + leap
    client.event(RENEGOTIATE)
    world.run(3)
    require_twins(world, client)
    client.event(c.UserCommand(c.Command.RECONNECT))
    connected(world, client)
    transfer(world, client)

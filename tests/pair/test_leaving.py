# SPDX-License-Identifier: BSD-2-Clause
"""A client that leaves: because it was told to, because nothing is carried; and how the server learns of it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from qubes_miragevpn.config.model import Timers
from qubes_miragevpn.dataplane.inband import OCC_EXIT
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.leaving import Farewell, Lifetime
from tests.interop.pki import Pki
from tests.pair.test_client import DISCONNECT, saying
from tests.pair.test_handshake import connected
from tests.pair.world import Side, World, client_config, inner_packet, server_config, up

OLD_SERVER = "PUSH_REPLY,ifconfig 10.8.0.2 255.255.255.0,topology subnet,cipher AES-256-GCM"
"""It knows no EXIT on the control channel."""


def stop(side: Side) -> c.Stop:
    [found] = side.effects(c.Stop)
    assert isinstance(found, c.Stop)
    return found


def joined(pki: Pki, timers: Timers, *push: str) -> tuple[World, Side]:
    world = World(server_config(pki, push=("ping 10", "ping-restart 60", *push)))
    client = world.client(client_config(pki, timers=timers))
    connected(world, client)
    return world, client


@pytest.mark.parametrize(
    ("own", "pushed", "expected"),
    [(40, None, 40), (0, "inactive 30", 30), (40, "inactive 20", 20), (40, "inactive 0", None)],
)
def test_a_tunnel_that_carries_nothing_ends_pings_or_not(
    pki: Pki, own: float, pushed: str | None, expected: float | None
) -> None:
    world, client = joined(pki, Timers(inactive=own), *([pushed] if pushed else []))
    began = world.now
    assert world.run(100, lambda: bool(client.effects(c.Stop))) is (expected is not None)
    if expected is not None:
        assert expected <= world.now - began <= expected * 1.2 + 1
        assert stop(client).kind is c.StopKind.CONNECTION and "inactive" in stop(client).reason
        world.run(3)
        assert world.server.effects(c.RemovePeer), "the server was told"


@pytest.mark.parametrize(("least", "lives"), [(0, True), (400, True), (4000, False)])
def test_traffic_keeps_it_up_if_it_is_enough(pki: Pki, least: int, lives: bool) -> None:
    world, client = joined(pki, Timers(inactive=20, inactive_bytes=least))
    address = str(client.effects(c.TunnelUp)[-1].settings.ipv4.ip)
    assert ip_address(address).is_private
    for _ in range(6):
        if up(client):
            client.send(inner_packet(address, "10.8.0.1", bytes(500)))
        world.run(10)
    assert up(client) is lives


def test_an_unsure_farewell_is_repeated_every_second(pki: Pki) -> None:
    world, client = saying(pki, OLD_SERVER, early=True, explicit_exit_notify=3)
    connected(world, client)
    client.event(DISCONNECT)
    began = world.now
    for command in (c.Command.RECONNECT, c.Command.RENEGOTIATE, c.Command.CONNECT):
        client.event(c.UserCommand(command))
    assert client.effects(c.SendInner) == [c.SendInner(0, OCC_EXIT)] and not client.effects(c.Stop)
    assert world.run(10, lambda: bool(client.effects(c.Stop))) and world.now == pytest.approx(began + 2)
    assert client.effects(c.SendInner) == [c.SendInner(0, OCC_EXIT)] * 3
    assert stop(client) == c.Stop(c.StopKind.ASKED, "disconnected")


@pytest.mark.parametrize("impatience", [DISCONNECT, c.TransportDown(1, "gone")])
def test_nobody_must_wait_for_it(pki: Pki, impatience: c.Event) -> None:
    world, client = saying(pki, OLD_SERVER, early=True, explicit_exit_notify=5)
    connected(world, client)
    client.event(DISCONNECT)
    client.event(impatience)
    assert stop(client).kind is c.StopKind.ASKED


def test_a_sure_farewell_is_said_once(pki: Pki) -> None:
    _, client = saying(pki, explicit_exit_notify=5)
    client.event(DISCONNECT)
    assert stop(client).kind is c.StopKind.ASKED and not client.effects(c.SendInner)


def test_a_farewell_has_an_end() -> None:
    farewell, said, now = Farewell(1000, 0.0), 1, 0.0
    while not farewell.over:
        now = farewell.at
        said += farewell.due(now)
    assert (said, now) == (5, 4.0), "within the time that a driver gives"


def test_a_lifetime_without_limits_asks_for_nothing() -> None:
    life = Lifetime(5.0)
    assert life.deadline is None and not life.over(1e9) and not life.look(1e9) and not life.too_idle(0, 1e9)

# SPDX-License-Identifier: BSD-2-Clause
"""Settings that change while the tunnel works, how long it may last, and where its server is looked for."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_address
from typing import Any

import pytest

from qubes_miragevpn.config.model import Proto, Remote
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.pushes import MAX_PARTS, UPDATES
from tests.interop.pki import Pki
from tests.pair.test_handshake import connected, transfer
from tests.pair.test_login import Office, accept, last, stop, waits
from tests.pair.test_renegotiation import QUIET
from tests.pair.world import SERVER_AT, Side, World, client_config, server_config, up


def working(pki: Pki, monkeypatch: pytest.MonkeyPatch, **config: Any) -> tuple[World, Office, Side]:
    world = World(server_config(pki, push=("ping 10", "route 10.1.0.0 255.255.0.0"), timers=QUIET))
    office = Office(world, monkeypatch, accept)
    client = world.client(client_config(pki, timers=QUIET, **config))
    connected(world, client)
    return world, office, client


def routes(side: Side) -> list[IPv4Network]:
    return [route.network for route in last(side, c.TunnelChanged).settings.routes]


def test_an_update_is_applied_and_the_tunnel_goes_on(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = working(pki, monkeypatch)
    office.say("PUSH_UPDATE,route 10.2.0.0 255.255.0.0,route 10.3.0.0 255.255.0.0,?nonsense x")
    assert routes(client) == [IPv4Network("10.2.0.0/16"), IPv4Network("10.3.0.0/16")]
    office.say("PUSH_UPDATE,-route,dhcp-option DNS 10.8.0.1,push-continuation 2")
    assert len(client.effects(c.TunnelChanged)) == 1
    office.say("PUSH_UPDATE,tun-mtu 1400,push-continuation 1")
    changed = last(client, c.TunnelChanged).settings
    assert routes(client) == [] and changed.mtu == 1400 and changed.dns.servers == (ip_address("10.8.0.1"),)
    assert not client.effects(c.TunnelDown)
    transfer(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    waits(world, lambda: 1 in client.keys)


def test_an_update_that_changes_nothing_is_none(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    _, office, client = working(pki, monkeypatch)
    for text in ("PUSH_UPDATE", "PUSH_UPDATE,route 10.1.0.0 255.255.0.0", "PUSH_UPDATE,?cipher none,?up /bin/sh"):
        office.say(text)
    assert not client.effects(c.TunnelChanged) and up(client)


@pytest.mark.parametrize(
    "update",
    ["?-route", "-", "?", "-?", "cipher AES-128-GCM", "peer-id 7", "up /bin/sh", "route-up x", "setenv A b",
     "-ifconfig,route-gateway 10.9.9.9,nonsense", "tun-mtu 3"],
)  # fmt: skip
def test_what_cannot_be_changed_takes_a_new_connection(pki: Pki, monkeypatch: pytest.MonkeyPatch, update: str) -> None:
    world, office, client = working(pki, monkeypatch)
    office.say(f"PUSH_UPDATE,{update}")
    assert client.effects(c.TunnelDown) and not client.effects(c.TunnelChanged)
    connected(world, client)
    assert [r.network for r in last(client, c.TunnelUp).settings.routes] == [IPv4Network("10.1.0.0/16")], "clean again"


def test_updates_without_end_end_the_session(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world, office, client = working(pki, monkeypatch)
    for n in range(UPDATES.most):
        office.say(f"PUSH_UPDATE,route 10.{n + 2}.0.0 255.255.0.0")
    assert len(client.effects(c.TunnelChanged)) == UPDATES.most and not client.effects(c.TunnelDown)
    world.run(UPDATES.period)
    office.say("PUSH_UPDATE,route 10.200.0.0 255.255.0.0")
    assert not client.effects(c.TunnelDown)
    for n in range(UPDATES.most):
        if not client.effects(c.TunnelDown):
            office.say(f"PUSH_UPDATE,route 10.{n + 2}.0.0 255.255.0.0")
    assert client.effects(c.TunnelDown)


def test_parts_without_end_end_the_session(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    _, office, client = working(pki, monkeypatch)
    for n in range(MAX_PARTS + 1):
        if not client.effects(c.TunnelDown):
            office.say(f"PUSH_UPDATE,route 10.{n}.0.0 255.255.0.0,push-continuation 2")
    assert client.effects(c.TunnelDown) and not client.effects(c.TunnelChanged)


def test_an_update_before_the_push_changes_nothing(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(server_config(pki, timers=QUIET))
    Office(world, monkeypatch, lambda _: ["PUSH_UPDATE,route 10.9.0.0 255.255.0.0"])
    client = world.client(client_config(pki, timers=QUIET))
    world.run(3)
    assert not client.effects(c.TunnelChanged) and not up(client)
    assert [drop for drop in client.effects(c.Drop) if "PUSH_UPDATE" in drop.reason]


# --- how long


@pytest.mark.parametrize(("own", "pushed", "expected"), [(50, None, 50), (0, 30, 30), (50, 20, 20), (50, 0, None)])
def test_session_timeout(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, own: float, pushed: int | None, expected: float | None
) -> None:
    push = () if pushed is None else (f"session-timeout {pushed}",)
    world = World(server_config(pki, push=("ping 10", *push), timers=QUIET))
    client = world.client(client_config(pki, timers=QUIET, session_timeout=own))
    connected(world, client)
    began = world.now
    assert world.run(100, lambda: bool(client.effects(c.Stop))) is (expected is not None)
    if expected is not None:
        assert world.now - began == pytest.approx(expected, abs=0.1)
        assert stop(client).kind is c.StopKind.CONNECTION and "session-timeout" in stop(client).reason
        world.run(3)
        assert world.server.effects(c.RemovePeer), "the server was told"


# --- where


def test_a_random_name_is_looked_up(pki: Pki) -> None:
    world = World(server_config(pki))
    remotes = (Remote("vpn.example", SERVER_AT[1], Proto.UDP),)
    client = world.client(client_config(pki, remotes=remotes, remote_random_hostname=True))
    client.event(c.ResolutionFailed(last(client, c.Resolve).request, "no"))
    world.run(5)
    names = [effect.host for effect in client.effects(c.Resolve)]
    assert len(set(names)) == len(names) >= 2
    assert all(len(name) == 24 and name.endswith(".vpn.example") and int(name[:12], 16) >= 0 for name in names)
    literal = world.client(client_config(pki, remote_random_hostname=True))
    assert not literal.effects(c.Resolve)


def test_the_last_good_address_is_remembered_when_names_fail(pki: Pki) -> None:
    world = World(server_config(pki))
    remotes = (Remote("vpn.example", SERVER_AT[1], Proto.UDP), Remote("other.example", SERVER_AT[1], Proto.UDP))
    client = world.client(client_config(pki, remotes=remotes))
    client.event(c.NameResolved(last(client, c.Resolve).request, (ip_address(SERVER_AT[0]),)))
    connected(world, client)
    world.run(60)
    client.event(c.UserCommand(c.Command.RECONNECT))
    client.event(c.TransportDown(client.link, "gone"))
    asked = last(client, c.Resolve)
    client.event(c.ResolutionFailed(asked.request, "no network"))
    for _ in range(3):
        if not up(client) and last(client, c.Resolve) != asked:
            asked = last(client, c.Resolve)
            client.event(c.ResolutionFailed(asked.request, "no network"))
    connected(world, client)
    assert [notify for notify in client.effects(c.Notify) if "where it was last time" in notify.text]

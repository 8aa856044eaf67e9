# SPDX-License-Identifier: BSD-2-Clause
"""What the operator of a server changes while clients are connected: the configuration, and what was pushed."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from qubes_miragevpn.config.model import Common, Listen, Operating, OutputFile, Proto, ServerConfig, Timers
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.serving.peer import tag
from qubes_miragevpn.protocol.serving.reload import reload
from qubes_miragevpn.protocol.wire import peerinfo
from tests.interop.pki import Pki
from tests.pair.hostile.means.attacker import STRANGER, Attacker
from tests.pair.test_handshake import transfer
from tests.pair.test_login import last
from tests.pair.test_renegotiation import QUIET
from tests.pair.test_server import join
from tests.pair.world import CLIENT_AT, Side, World, client_config, inner_packet, server_config, up


def change(world: World, *options: str, client: Side | None = None) -> None:
    told = [each for each in world.server.effects(c.AssignAddresses) if client is None or each.endpoint == client.place]
    for each in told:
        assert each.updatable
        world.server.event(c.ChangeSettings(each.peer, options))
    world.run(2)


def routes(side: Side) -> list[str]:
    return [str(route.network) for route in last(side, c.TunnelChanged).settings.routes]


def test_an_update_for_one_and_for_all(pki: Pki) -> None:
    world = World(server_config(pki, push=("route 10.1.0.0 255.255.0.0",), timers=QUIET))
    one, two = join(world, pki, timers=QUIET), join(world, pki, pki.second_client, timers=QUIET)
    change(world, "route 10.2.0.0 255.255.0.0", client=one)
    assert routes(one) == ["10.2.0.0/16"] and not two.effects(c.TunnelChanged)
    change(world, "-route", "dhcp-option DNS 10.8.0.1")
    for client in (one, two):
        assert routes(client) == []
        assert [str(each) for each in last(client, c.TunnelChanged).settings.dns.servers] == ["10.8.0.1"]
        assert not client.effects(c.TunnelDown)
        transfer(world, client)


def test_an_update_in_parts(pki: Pki) -> None:
    world = World(server_config(pki, timers=QUIET))
    client = join(world, pki, timers=QUIET)
    options = [f"route 10.{n}.0.0 255.255.0.0" for n in range(10, 110)]
    change(world, *options)
    assert len(client.effects(c.TunnelChanged)) == 1, "one change, in whatever parts it came"
    assert len(routes(client)) == 100


def test_a_client_that_takes_no_updates_gets_none(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peerinfo, "OUR_PROTO", peerinfo.OUR_PROTO & ~peerinfo.IvProto.PUSH_UPDATE)
    world = World(server_config(pki))
    client = join(world, pki)
    [told] = world.server.effects(c.AssignAddresses)
    assert not told.updatable
    sent = len(world.server.sent)
    world.server.event(c.ChangeSettings(told.peer, ("-route",)))
    assert len(world.server.sent) == sent and isinstance(world.server.seen[-1], c.Drop)
    world.server.event(c.ChangeSettings(77, ("-route",)))
    assert up(client)


def test_a_new_configuration_counts_for_those_who_come(pki: Pki) -> None:
    running = server_config(pki, push=("route 10.1.0.0 255.255.0.0",))
    world = World(running)
    one = join(world, pki)
    done = reload(running, replace(running, push=("route 10.2.0.0 255.255.0.0",), max_clients=2))
    assert done.changed == ("push", "max-clients") and not done.left
    world.server.event(c.Reconfigured(done.config))
    two = join(world, pki, pki.second_client)
    assert [str(route.network) for route in last(two, c.TunnelUp).settings.routes] == ["10.2.0.0/16"]
    assert not one.effects(c.TunnelChanged) and not one.effects(c.TunnelDown)
    transfer(world, one)
    third = world.client(client_config(pki))
    world.server.event(c.Reconfigured(replace(done.config, max_clients=1)))
    assert len(world.server.effects(c.RemovePeer)) == 0, "nobody is sent away because fewer may come"
    assert third is not None


SERVER_CHANGES: dict[str, Any] = {
    "push": ("route 10.9.0.0 255.255.0.0",),
    "max_clients": 5,
    "duplicate_cn": True,
    "client_to_client": True,
    "network": IPv4Network("10.77.0.0/24"),
    "listen": Listen("", 443, Proto.TCP),
    "topology": "net30",
    "operating": Operating(status=OutputFile("s", 5)),
}


@pytest.mark.parametrize("name", SERVER_CHANGES)
def test_what_changes_and_what_stays(pki: Pki, name: str) -> None:
    running = server_config(pki)
    written = replace(running, **{name: SERVER_CHANGES[name]})
    done = reload(running, written)
    live = name in ("push", "max_clients", "duplicate_cn", "operating")
    assert done.config == (written if live else running)
    assert bool(done.changed) is live and bool(done.left) is not live


def test_keepalive_changes_and_other_times_stay(pki: Pki) -> None:
    running = server_config(pki, timers=Timers(ping=10, ping_restart=60, hand_window=30))
    written = server_config(pki, timers=Timers(ping=5, ping_restart=20, hand_window=99))
    done = reload(running, written)
    assert done.config.common.timers == Timers(ping=5, ping_restart=20, hand_window=30)
    assert done.changed == ("keepalive",) and done.left == ("hand-window, reneg-sec and other times",)


def test_revoked_certificates_are_no_change_of_the_configuration(pki: Pki) -> None:
    running = server_config(pki)
    peer = replace(running.common.peer, reread=lambda: (b"", None))
    written = replace(running, common=replace(running.common, peer=replace(peer, crl_pem=b"other")))
    assert not reload(replace(running, common=replace(running.common, peer=peer)), written).left


def test_every_field_is_compared(pki: Pki) -> None:
    """A field that nobody thought of takes a new start: it is never dropped in silence."""
    running = server_config(pki)
    for field in fields(Common):
        if field.name not in ("timers", "peer", "identity"):
            written = replace(running, common=replace(running.common, **{field.name: object()}))
            assert reload(running, written).left and reload(running, written).config == running
    for field in fields(ServerConfig):
        if field.name not in ("common", "operating", "login"):
            written = replace(running, **{field.name: object()})
            done = reload(running, written)
            assert done.changed or done.left, field.name


class Unlisted(dict[Any, Any]):
    """A dictionary of which nobody may look at everything."""

    def __iter__(self) -> Any:
        raise AssertionError("the cost of one client grows with the number of all")

    items = values = keys = __iter__


def test_what_one_client_costs_does_not_grow_with_their_number(pki: Pki) -> None:
    """Coming, coming again from elsewhere, renewing keys, moving, leaving: nobody looks at all the others."""
    world = World(server_config(pki, timers=QUIET))
    peers: Any = world.server.machine._peers  # type: ignore[union-attr]
    peers._peers, peers._admitted = Unlisted(), Unlisted()
    join(world, pki, timers=QUIET)
    two = join(world, pki, pki.second_client, timers=QUIET)
    again = join(world, pki, timers=QUIET)
    assert len(peers) == 2
    again.event(c.UserCommand(c.Command.RENEGOTIATE))
    world.run(5)
    two.place = ("203.0.113.9", 9)
    two.send(inner_packet(str(last(two, c.TunnelUp).settings.ipv4.ip), "10.8.0.1", b"here"))
    world.run(1)
    two.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(5)
    assert len(peers) == 1 and not peers.on(7) and len(peers.on(0)) == 1
    world.server.event(c.TransportDown(7, "gone"))
    transfer(world, again)


def test_lines_about_a_client_bear_its_tag(pki: Pki) -> None:
    """Whatever happens to it: it comes, sends nonsense, and leaves; and a stranger's have his place only."""
    world = World(server_config(pki))
    client = join(world, pki)
    attacker = Attacker(world, 5)
    attacker.throw(world.server, attacker.noise())
    attacker.throw(world.server, attacker.noise(), STRANGER)
    client.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(5)
    notes = [(each.client, each.text.split()[0]) for each in world.server.effects(c.Notify)]
    assert notes == [(f"qube-one/{CLIENT_AT[0]}:{CLIENT_AT[1]}", word) for word in ("has", "is")]
    places = {each.client.rpartition("/")[2] for each in world.server.effects(c.Drop)}
    assert places == {f"{CLIENT_AT[0]}:{CLIENT_AT[1]}", f"{STRANGER[0]}:{STRANGER[1]}"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [("", ""), ("a", "a/"), ("a b/c", "a_b_c/"), ("x\n1", "x\\x0a1/"), ("n" * 99, "n" * 64 + ".../")],
)
def test_a_tag_is_one_word_whatever_the_name(name: str, shown: str) -> None:
    assert tag(("192.0.2.1", 5), name) == f"{shown}192.0.2.1:5"
    assert tag(("2001:db8::1", 5, 0, 0), name) == f"{shown}[2001:db8::1]:5"

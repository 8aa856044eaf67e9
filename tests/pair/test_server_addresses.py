# SPDX-License-Identifier: BSD-2-Clause
"""What is inside at a client's end: addresses of both families, and what of them the server lets through."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol import server
from tests.interop.pki import Pki
from tests.pair.test_server import join, machine
from tests.pair.test_server_login import ASKING, Desk
from tests.pair.world import Side, World, inner_packet, server_config, up

NETWORK6 = IPv6Network("fd42:8::/64")


def inner6(source: str, destination: str, payload: bytes) -> bytes:
    """A minimal IPv6 packet (next header 253, for experiments)."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    return b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + b"\xfd\x40" + addresses + payload


def arrives(world: World, sender: Side, receiver: Side, packet: bytes) -> bool:
    before = len(receiver.tun)
    sender.send(packet)
    world.run(0.1)
    return packet in receiver.tun[before:]


def test_a_client_has_an_address_of_each_family(pki: Pki) -> None:
    world = World(server_config(pki, network6=NETWORK6))
    one, two = join(world, pki), join(world, pki, pki.second_client)
    settings = [side.effects(c.TunnelUp)[-1].settings for side in (one, two)]
    assert [str(each.ipv6) for each in settings] == ["fd42:8::1000/64", "fd42:8::1001/64"]
    assert [str(each.gateway6) for each in settings] == ["fd42:8::1"] * 2
    given = [tuple(map(str, each.addresses)) for each in world.server.effects(c.AssignAddresses)]
    assert given == [("10.8.0.2", "fd42:8::1000"), ("10.8.0.3", "fd42:8::1001")]
    assert arrives(world, one, world.server, inner6("fd42:8::1000", "fd42:8::1", b"up"))
    assert arrives(world, world.server, two, inner6("fd42:8::1", "fd42:8::1001", b"down"))
    assert arrives(world, world.server, one, inner_packet("10.8.0.1", "10.8.0.2", b"down"))


@pytest.mark.parametrize(
    "packet",
    [
        inner6("fd42:8::1001", "fd42:8::1", b"another client's"),
        inner6("2001:db8::1", "fd42:8::1", b"nobody's"),
        inner6("fe80::1", "fd42:8::1", b"of the link"),
        inner_packet("10.8.0.3", "10.8.0.1", b"another client's"),
    ],
)
def test_a_client_sends_by_its_own_addresses_alone(pki: Pki, packet: bytes) -> None:
    world = World(server_config(pki, network6=NETWORK6))
    one, _ = join(world, pki), join(world, pki, pki.second_client)
    assert not arrives(world, one, world.server, packet)
    assert arrives(world, one, world.server, inner6("fd42:8::1000", "fd42:8::1", b"its own"))


def test_addresses_are_taken_back_and_given_again(pki: Pki) -> None:
    world = World(server_config(pki, network6=NETWORK6, duplicate_cn=True))
    one, two = join(world, pki), join(world, pki)
    ours = [side.effects(c.TunnelUp)[-1].settings.ipv6 for side in (one, two)]
    assert len(set(ours)) == 2
    for each in (one, two):
        each.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(400, lambda: not len(machine(world)._peers))
    assert not machine(world)._welcome._pool6._leases.used


SPELLED = {
    "own": IPv4Address("10.8.0.7"),
    "pool": (IPv4Address("10.8.0.9"), IPv4Address("10.8.0.10")),
    "network6": NETWORK6,
    "own6": IPv6Address("fd42:8::7"),
    "pool6": (IPv6Address("fd42:8::100"),),
}


def test_addresses_in_their_long_form(pki: Pki) -> None:
    """The server is not the first host, and pools begin elsewhere."""
    world = World(server_config(pki, **SPELLED))
    one, two = join(world, pki), join(world, pki, pki.second_client)
    settings = [side.effects(c.TunnelUp)[-1].settings for side in (one, two)]
    assert [(str(each.ipv4), str(each.ipv6)) for each in settings] == [
        ("10.8.0.9/24", "fd42:8::100/64"), ("10.8.0.10/24", "fd42:8::101/64")
    ]  # fmt: skip
    assert {(str(each.gateway4), str(each.gateway6)) for each in settings} == {("10.8.0.7", "fd42:8::7")}
    assert arrives(world, one, world.server, inner6("fd42:8::100", "fd42:8::7", b"up"))


@pytest.mark.parametrize("pool6", [None, (IPv6Address("fd42:8::100"),)])
def test_ipv6_alone(pki: Pki, pool6: tuple[IPv6Address, ...] | None) -> None:
    world = World(server_config(pki, network=None, pool=(), network6=NETWORK6, pool6=pool6))
    one = join(world, pki)
    settings = one.effects(c.TunnelUp)[-1].settings
    given = "fd42:8::1000" if pool6 is None else "fd42:8::100"
    assert settings.ipv4 is None and str(settings.ipv6) == given + "/64"
    assert arrives(world, one, world.server, inner6(given, "fd42:8::1", b"up"))
    assert not arrives(world, one, world.server, inner_packet("10.8.0.2", "10.8.0.1", b"there is no IPv4"))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (SPELLED, ("qube-one", "10.8.0.10", "fd42:8::105")),
        ({"network": None, "pool": (), "network6": NETWORK6}, ("qube-one", "", "fd42:8::1005")),
        ({}, ("qube-one", "10.8.0.99", "")),
        ({"pool": (), "network6": NETWORK6, "pool6": ()}, None),
    ],
)
def test_every_kind_of_pool_remembers(pki: Pki, changes: dict[str, Any], kept: tuple[str, str, str] | None) -> None:
    """What a file says of before is given again, in each family that has a pool, and nothing beyond the pool."""
    world = World(server_config(pki, **changes))
    for address in (*(kept or ())[1:], "10.9.0.9", "fd43::1"):
        if address:
            machine(world).recall("qube-one", ip_address(address))
    assert machine(world).leases() == (() if kept is None else (kept,))
    if kept is not None:
        settings = join(world, pki).effects(c.TunnelUp)[-1].settings
        given = tuple("" if each is None else str(each.ip) for each in (settings.ipv4, settings.ipv6))
        assert given == kept[1:] and machine(world).leases() == (kept,)


def test_names_are_compared_whole(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that begin alike, and are cut for the log, are two; one that is longer than a name may be is none."""
    monkeypatch.setattr(server, "MAX_NAME", 125)  # openvpn's clients and ours say no longer names than 127
    desk = Desk(pki, replace(ASKING, name_is_username=True))
    names = ("x" * 100 + "1", "x" * 100 + "2", "x" * 126)
    one, two, three = (desk.client(Credentials(name, Secret(b"right"))) for name in names)
    assert desk.world.run(20, lambda: up(one) and up(two))
    desk.world.run(5)
    assert not up(three) and sum(peer.served for peer in desk.peers) == 2
    assert "longer than 125 bytes" in desk.notes()

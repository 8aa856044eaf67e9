# SPDX-License-Identifier: BSD-2-Clause
"""``client-config-dir``: addresses, networks and pushes of single clients; who may not enter; combinations."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Interface, IPv6Network, ip_network
from typing import Any

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.model import ClientDir, OneClient
from qubes_miragevpn.protocol import contract as c
from tests.interop.pki import Pki
from tests.pair.test_server import address, identity, join, machine
from tests.pair.test_server_addresses import arrives, inner6
from tests.pair.test_server_login import ADA, ASKING, Desk
from tests.pair.world import World, client_config, inner_packet, server_config, up

MASK = IPv4Address("255.255.255.0")
OWN = OneClient(
    ifconfig=(IPv4Address("10.8.0.77"), MASK),
    ifconfig6=(IPv6Interface("fd42:8::77/64"), None),
    networks=(ip_network("10.5.0.0/16"), ip_network("fd05::/32")),
)


def serving(pki: Pki, files: dict[str, OneClient | str], *, exclusive: bool = False, **changes: Any) -> World:
    """A server with a file for each name; a text is what is wrong with one."""
    changes = {"client_dir": ClientDir("ccd", exclusive), "network6": IPv6Network("fd42:8::/64"), **changes}
    world = World(server_config(pki, **changes))

    def single(name: str) -> OneClient | None:
        said = files.get(name)
        if isinstance(said, str):
            raise ConfigError(said, file="ccd/" + name, line=3)
        return said

    machine(world)._welcome._single = single
    return world


def notes(world: World) -> str:
    return "\n".join(each.text for each in world.server.effects(c.Notify))


def test_its_own_addresses_and_networks(pki: Pki) -> None:
    world = serving(pki, {"qube-one": OWN})
    one, two = join(world, pki), join(world, pki, pki.second_client)
    settings = one.effects(c.TunnelUp)[-1].settings
    assert (str(settings.ipv4), str(settings.ipv6)) == ("10.8.0.77/24", "fd42:8::77/64")
    assert address(two) == "10.8.0.2", "the pool goes on"
    for packet in (
        inner_packet("10.8.0.77", "10.8.0.1", b"from itself"),
        inner_packet("10.5.1.1", "192.0.2.9", b"from behind"),
        inner6("fd05::1", "2001:db8::9", b"from behind"),
    ):
        assert arrives(world, one, world.server, packet)
        assert not arrives(world, two, world.server, packet), "not from another client"
    for packet in (inner_packet("192.0.2.9", "10.5.1.1", b"to it"), inner6("2001:db8::9", "fd05::1", b"to it")):
        assert arrives(world, world.server, one, packet)
    assert not arrives(world, world.server, one, inner_packet("192.0.2.9", "10.6.1.1", b"to nobody"))


@pytest.mark.parametrize("together", [False, True])
def test_clients_reach_networks_behind_each_other_where_they_may(pki: Pki, together: bool) -> None:
    world = serving(pki, {"qube-one": OWN}, client_to_client=together)
    world.server.channel._client_to_client = together
    one, two = join(world, pki), join(world, pki, pki.second_client)
    packet = inner_packet("10.8.0.2", "10.5.1.1", b"over")
    assert arrives(world, two, one, packet) is together and packet not in world.server.tun


def test_the_longest_prefix_counts(pki: Pki) -> None:
    narrow = OneClient(networks=(ip_network("10.5.7.0/24"),))
    world = serving(pki, {"qube-one": OWN, "qube-two": narrow})
    one, two = join(world, pki), join(world, pki, pki.second_client)
    assert arrives(world, world.server, two, inner_packet("192.0.2.9", "10.5.7.1", b"narrow"))
    assert arrives(world, world.server, one, inner_packet("192.0.2.9", "10.5.8.1", b"wide"))
    assert not arrives(world, one, world.server, inner_packet("10.5.7.1", "10.8.0.1", b"the other's"))
    two.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(400, lambda: len(machine(world)._peers) == 1)
    assert arrives(world, world.server, one, inner_packet("192.0.2.9", "10.5.7.1", b"wide again"))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (OneClient(disabled=True), "its file says 'disable'"),
        ("odd word", "ccd/qube-one:3: odd word"),
        (None, "it has no file in client-config-dir"),
        (OneClient(ifconfig=(IPv4Address("10.8.0.1"), MASK)), "the server's own address 10.8.0.1"),
        (OneClient(ifconfig=(IPv4Address("10.8.0.9"), IPv4Address("10.8.0.1"))), "needs a netmask, not 10.8.0.1"),
        (OneClient(ifconfig6=(IPv6Interface("fd42:8::1/64"), None)), "the server's own address fd42:8::1"),
        (replace(OWN, networks=OWN.networks * 2), "'max-routes-per-client'"),
    ],
)
@pytest.mark.parametrize("login", [False, True])
def test_who_may_not_enter_is_told_and_changes_nothing(pki: Pki, said: Any, why: str, login: bool) -> None:
    files: dict[str, Any] = {} if said is None else {"qube-one": said}
    changes: dict[str, Any] = {"client_dir": ClientDir("ccd", exclusive=True), "max_routes_per_client": 3}
    changes["network6"] = IPv6Network("fd42:8::/64")
    world = Desk(pki, ASKING, **changes).world if login else World(server_config(pki, **changes))
    machine(world)._welcome._single = machine(serving(pki, files))._welcome._single
    entry = {"auth_user_pass": True, "credentials": ADA} if login else {}
    client = world.client(client_config(pki, **entry))
    assert world.run(30, lambda: bool(client.effects(c.Stop)))
    assert client.effects(c.Stop)[0].kind is c.StopKind.AUTH
    assert why in notes(world) and not world.server.effects(c.AddPeer)
    world.run(5)
    assert not machine(world)._peers and not machine(world)._welcome._pool._leases.used


def test_a_bad_file_does_not_end_the_session_that_is_there(pki: Pki) -> None:
    files: dict[str, Any] = {}
    world = serving(pki, files)
    one = join(world, pki)
    files["qube-one"] = "odd word"
    again = world.client(client_config(pki))
    world.run(10)
    assert not up(again) and not world.server.effects(c.RemovePeer)
    assert arrives(world, world.server, one, inner_packet("10.8.0.1", "10.8.0.2", b"still"))


def test_pushes_of_its_own(pki: Pki) -> None:
    less = OneClient(pushes=(("remove", "dhcp-option"), ("push", "route 10.9.0.0 255.255.0.0")))
    pushed = ("ping 10", "dhcp-option DNS 10.8.0.1")
    world = serving(pki, {"qube-one": less}, push=pushed)
    one, two = join(world, pki), join(world, pki, pki.second_client)
    ours, theirs = (side.effects(c.TunnelUp)[-1].settings for side in (one, two))
    assert not ours.dns.servers and [str(route.network) for route in ours.routes] == ["10.9.0.0/16"]
    assert len(theirs.dns.servers) == 1 and not theirs.routes


FIRST = OneClient(ifconfig=(IPv4Address("10.8.0.2"), MASK))
FIRST6 = OneClient(ifconfig6=(IPv6Interface("fd42:8::1000/64"), None))


@pytest.mark.parametrize(
    "files", [{"qube-one": FIRST, "qube-two": FIRST}, {"qube-one": FIRST6, "qube-two": FIRST6}]
)
def test_one_address_of_two_files_is_his_who_came_first(pki: Pki, files: dict[str, OneClient | str]) -> None:
    """If the newcomer got it, both would take it from each other without end; so he is refused, and told."""
    world = serving(pki, files)
    one = join(world, pki)
    late = world.client(client_config(pki, identity=identity(pki.second_client)))
    assert world.run(20, lambda: bool(late.effects(c.Stop))) and late.effects(c.Stop)[0].kind is c.StopKind.AUTH
    assert "is that of client qube-one too, by its file" in notes(world) and up(one)
    assert not world.server.effects(c.RemovePeer)
    assert arrives(world, one, world.server, inner_packet(address(one), "10.8.0.1", b"still its own"))
    one.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(400, lambda: not machine(world)._peers.admitted)
    again = join(world, pki, pki.second_client)
    own = int(files["qube-one"] is FIRST6)
    assert given(again)[own] == given(one)[own], "now it is free"


@pytest.mark.parametrize("own", [True, False])
def test_of_one_name_whoever_comes_again_takes_his_own_address(pki: Pki, own: bool) -> None:
    """Whoever lost his way and connects anew is not kept out by what he was before, ``duplicate-cn`` or not."""
    world = serving(pki, {"qube-one": FIRST} if own else {}, duplicate_cn=True)
    one = join(world, pki)
    again = join(world, pki)
    assert (given(again)[0] == given(one)[0]) is own
    assert len(machine(world)._peers.admitted) == (1 if own else 2)
    assert arrives(world, again, world.server, inner_packet(address(again), "10.8.0.1", b"his"))


@pytest.mark.parametrize("fixed", [FIRST, FIRST6])
def test_an_address_of_the_pool_is_his_whose_file_says_so(pki: Pki, fixed: OneClient) -> None:
    """Whoever had it from the pool is sent away, comes back by himself and gets another; its owner may come and go."""
    world = serving(pki, {"qube-one": fixed})
    two = join(world, pki, pki.second_client)
    assert given(two) == ("10.8.0.2", "fd42:8::1000")
    one = join(world, pki)
    other = ("10.8.0.3", "fd42:8::1000") if fixed is FIRST else ("10.8.0.2", "fd42:8::1001")
    assert world.run(60, lambda: up(two) and given(two) == other), given(two)
    own = given(one)[0 if fixed is FIRST else 1]
    assert own == ("10.8.0.2" if fixed is FIRST else "fd42:8::1000")
    assert "had an address that is client qube-one's by its file" in notes(world)
    assert arrives(world, one, world.server, inner_packet(given(one)[0], "10.8.0.1", b"its own"))
    assert arrives(world, world.server, two, inner_packet("10.8.0.1", given(two)[0], b"the other one's"))
    one.event(c.UserCommand(c.Command.RECONNECT))
    assert world.run(60, lambda: len(one.effects(c.TunnelUp)) == 2)
    world.run(5)
    assert given(one)[0 if fixed is FIRST else 1] == own and len(machine(world)._peers.admitted) == 2
    pool = machine(world)._welcome._pool._leases.used
    assert len(pool) == 2 and len(machine(world)._welcome._holders) == 4


def given(side: Any) -> tuple[str, str]:
    settings = side.effects(c.TunnelUp)[-1].settings
    return str(settings.ipv4.ip), str(settings.ipv6.ip)


def test_with_far_ends(pki: Pki) -> None:
    fixed = OneClient(ifconfig=(IPv4Address("10.8.0.78"), IPv4Address("10.8.0.77")))
    world = serving(pki, {"qube-one": fixed}, topology="net30")
    settings = join(world, pki).effects(c.TunnelUp)[-1].settings
    assert (str(settings.ipv4), str(settings.ipv4_peer)) == ("10.8.0.78/32", "10.8.0.77")

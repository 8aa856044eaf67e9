# SPDX-License-Identifier: BSD-2-Clause
"""A server of many with ``dev tap``: what clients are pushed, in a bridge and not, and frames between them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from qubes_miragevpn.config.model import Bridge, ClientDir, OneClient
from qubes_miragevpn.protocol import contract as c
from tests.interop.pki import Pki
from tests.pair.test_server import join, machine
from tests.pair.test_server_addresses import arrives
from tests.pair.world import Side, World, server_config

BRIDGED = {
    "bridge": Bridge(IPv4Address("10.8.0.4")),
    "pool": (IPv4Address("10.8.0.128"), IPv4Address("10.8.0.129")),
}
BY_DHCP = {"bridge": Bridge(), "network": None, "pool": ()}


def serving(pki: Pki, **changes: Any) -> World:
    world = World(server_config(pki, ethernet=True, **changes))
    world.server.channel._client_to_client = changes.get("client_to_client", False)
    return world


def pushed(world: World, pki: Pki) -> tuple[Side, list[str]]:
    """A client and the options that it was pushed."""
    client = join(world, pki, ethernet=True)
    (peer,) = machine(world)._peers.admitted
    options = [option for reply in machine(world)._welcome.tell(peer) for option in reply.split(",")[1:]]
    return client, [option for option in options if option.startswith(("ifconfig", "route", "topology", "tun-ipv6"))]


@pytest.mark.parametrize(
    ("changes", "options", "given"),
    [
        ({}, ["route-gateway 10.8.0.1", "ifconfig 10.8.0.2 255.255.255.0"], "10.8.0.2/24"),
        (BRIDGED, ["route-gateway 10.8.0.4", "ifconfig 10.8.0.128 255.255.255.0"], "10.8.0.128/24"),
        (BY_DHCP, ["route-gateway dhcp"], "None"),
        ({**BY_DHCP, "bridge": Bridge(dhcp_gateway=False)}, [], "None"),
        ({"pool": ()}, ["route-gateway 10.8.0.1"], "None"),
    ],
)
def test_what_is_pushed(pki: Pki, changes: dict[str, Any], options: list[str], given: str) -> None:
    client, told = pushed(serving(pki, **changes), pki)
    assert told == options
    settings = client.effects(c.TunnelUp)[-1].settings
    assert str(settings.ipv4) == given and settings.ethernet


def test_addresses_of_its_own(pki: Pki) -> None:
    """Beside a DHCP server, from the file of one client; and IPv6 beside IPv4 where no bridge gives it."""
    own = OneClient(ifconfig=(IPv4Address("192.168.7.9"), IPv4Address("255.255.255.0")))
    world = serving(pki, client_dir=ClientDir("ccd"), **BY_DHCP)
    machine(world)._welcome._single = lambda name: own
    _, told = pushed(world, pki)
    assert told == ["route-gateway dhcp", "ifconfig 192.168.7.9 255.255.255.0"]
    both = serving(pki, network6=IPv6Network("fd42:8::/64"), network=IPv4Network("10.8.0.0/30"))
    _, told = pushed(both, pki)
    assert told[-2:] == ["ifconfig-ipv6 fd42:8::1000/64 fd42:8::1", "ifconfig 10.8.0.2 255.255.255.252"]


def frame(source: int, destination: bytes, text: bytes) -> bytes:
    return destination + bytes([2, 0, 0, 0, 0, source]) + b"\x88\xb5" + text


@pytest.mark.parametrize("together", [False, True])
def test_frames(pki: Pki, together: bool) -> None:
    world = serving(pki, client_to_client=together, **BY_DHCP)
    one, two = (join(world, pki, pem, ethernet=True) for pem in (pki.client, pki.second_client))
    everybody = b"\xff" * 6
    asks = frame(1, everybody, b"who is there?")
    assert arrives(world, one, world.server, asks) and (asks in two.tun) is together
    assert asks not in one.tun
    answer = frame(9, bytes([2, 0, 0, 0, 0, 1]), b"the server's side")
    assert arrives(world, world.server, one, answer) and answer not in two.tun
    assert not arrives(world, two, world.server, frame(1, everybody, b"another's")), "it does not pass for another"
    assert arrives(world, world.server, two, frame(9, everybody, b"all")) and frame(9, everybody, b"all") in one.tun
    one.event(c.UserCommand(c.Command.DISCONNECT))
    world.run(400, lambda: len(machine(world)._peers) == 1)
    assert arrives(world, two, world.server, frame(1, everybody, b"now it is free"))

# SPDX-License-Identifier: BSD-2-Clause
"""What a server and a waiting end say about settings: answers to a peer's questions, and warnings where they differ."""

from __future__ import annotations

import pytest

from qubes_miragevpn.config.model import ClientConfig, Compression, ServerConfig
from qubes_miragevpn.dataplane.inband import OCC_MAGIC
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.inquiry import (
    ANSWER_EVERY,
    LOAD,
    LOAD_REQUEST,
    REPLY,
    REQUEST,
    SIZES_REPLY,
    SIZES_REQUEST,
)
from tests.interop.pki import Pki
from tests.pair.test_point import connect, waits
from tests.pair.world import Side, World, client_config, server_config, up


def joined(config: ServerConfig, client: ClientConfig) -> tuple[World, Side]:
    world = World(config)
    side = world.client(client)
    assert world.run(20, lambda: up(side))
    world.run(1)
    return world, side


def warnings(side: Side) -> list[str]:
    return [note.text for note in side.effects(c.Notify) if note.level is c.Level.WARNING]


def answers(world: World, client: Side, question: bytes) -> list[bytes]:
    """Ask through the tunnel, and see what the server sends in answer."""
    before = len(world.server.effects(c.SendInner))
    client._apply(c.SendInner(0, OCC_MAGIC + question))
    client._drain()
    world.run(1)
    return [said.payload for said in world.server.effects(c.SendInner)[before:]]


def test_a_server_answers_what_a_client_asks_about_settings_and_sizes(pki: Pki) -> None:
    world, client = joined(server_config(pki), client_config(pki))
    (options,) = answers(world, client, bytes([REQUEST]))
    assert options.startswith(OCC_MAGIC + bytes([REPLY]) + b"V4,dev-type tun,") and options.endswith(b"tls-server\0")
    (load,) = answers(world, client, bytes([LOAD_REQUEST]) + (900).to_bytes(2, "big"))
    assert load.startswith(OCC_MAGIC + bytes([LOAD]) + (900).to_bytes(2, "big")) and 800 < len(load) < 900
    (sizes,) = answers(world, client, bytes([SIZES_REQUEST]))
    assert sizes[:17] == OCC_MAGIC + bytes([SIZES_REPLY]) and int.from_bytes(sizes[-2:], "big") == 900
    assert not answers(world, client, bytes([REPLY]) + b"V4,dev-type tun\0")


def test_the_waiting_end_between_two_answers_and_compares_as_well(pki: Pki) -> None:
    world = World(waits(pki))
    client = connect(world, client_config(pki, tun_mtu=1400))
    assert world.run(20, lambda: up(client))
    world.run(1)
    assert [text for text in warnings(world.server) if "'tun-mtu' is used inconsistently, local='tun-mtu 1500'" in text]
    (options,) = answers(world, client, bytes([REQUEST]))
    assert options.startswith(OCC_MAGIC + bytes([REPLY]) + b"V4,") and b",tun-mtu 1500," in options


def test_a_server_rations_its_answers(pki: Pki) -> None:
    world, _ = joined(server_config(pki), client_config(pki))
    event = c.OccMessage(world.server.effects(c.AddPeer)[0].peer, bytes([REQUEST]), 60)
    before = len(world.server.effects(c.SendInner))
    for _ in range(50):
        world.server.event(event)
    assert len(world.server.effects(c.SendInner)) == before + 1
    world.run(ANSWER_EVERY)
    world.server.event(event)
    assert len(world.server.effects(c.SendInner)) == before + 2
    world.server.event(c.OccMessage(4711, bytes([REQUEST]), 60))
    assert len(world.server.effects(c.SendInner)) == before + 2


@pytest.mark.parametrize("compares", [True, False])
def test_a_server_tells_how_a_clients_settings_differ(pki: Pki, compares: bool) -> None:
    world, _ = joined(
        server_config(pki, disable_occ=not compares), client_config(pki, compression=Compression.LZO, tun_mtu=1400)
    )
    told = [text for text in warnings(world.server) if "present in remote config" in text or "inconsistently" in text]
    assert bool(told) is compares
    if compares:
        (text,) = told  # tun-mtu is pushed to who takes it
        assert "'comp-lzo' is present in remote config but missing in local" in text


def test_equal_settings_are_nothing_to_tell(pki: Pki) -> None:
    world, client = joined(server_config(pki), client_config(pki))
    assert not warnings(world.server) and not warnings(client)

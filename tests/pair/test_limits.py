# SPDX-License-Identifier: BSD-2-Clause
"""What a configuration sets about time and size of the control channel, seen from the wire."""

from __future__ import annotations

from typing import Any

import pytest

from qubes_miragevpn.config.model import Proto, Timers
from qubes_miragevpn.protocol import contract as c
from tests.interop.pki import Pki
from tests.pair.link import rule, script
from tests.pair.test_handshake import WRAPS, connected, transfer
from tests.pair.test_renegotiation import QUIET, key_ids
from tests.pair.world import World, client_config, server_config, up

OUTER = {Proto.UDP: 48, Proto.TCP: 62}  # of IPv6, which the bound allows for


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("proto", Proto)
@pytest.mark.parametrize("size", [154, 300, 576, 1250, 2048])
def test_max_packet_size(pki: Pki, wrap: str, proto: Proto, size: int) -> None:
    ours, theirs = WRAPS[wrap]
    world = World(server_config(pki, theirs, proto, max_packet_size=size))
    client = world.client(client_config(pki, ours, proto, max_packet_size=size))
    connected(world, client)
    client.event(c.UserCommand(c.Command.RENEGOTIATE))
    assert world.run(30, lambda: 1 in client.keys and 1 in world.server.keys)
    packets = [packet for packet in (*client.sent, *world.server.sent) if packet[0] >> 3 not in (10, 11)]
    least = 9 + 72 + 29 + 64  # what a packet with the longest tags carries all the same
    assert max(map(len, packets)) <= max(size - OUTER[proto], least)
    if size >= 576:  # and the room is used
        assert max(map(len, packets)) > min(size, 1300) - OUTER[proto] - 60


@pytest.mark.parametrize(
    ("side", "least", "earliest", "latest"),
    [("client", None, 100, 100), ("client", 40, 40, 100), ("server", None, 90, 100), ("server", 50, 50, 100)],
)
def test_the_moment_of_a_renewal(pki: Pki, side: str, least: float | None, earliest: float, latest: float) -> None:
    timers = Timers(ping=10, ping_restart=0, reneg_sec=100, reneg_sec_least=least)
    moments = set()
    for seed in range(12):
        ours, theirs = (timers, QUIET) if side == "client" else (QUIET, timers)
        world = World(server_config(pki, timers=theirs), seed=seed)
        client = world.client(client_config(pki, timers=ours))
        connected(world, client)
        began = world.now
        assert world.run(110, lambda: len(key_ids(client)) == 2)  # noqa: B023
        moments.add(round(world.now - began - 0.35))
    assert earliest - 1 <= min(moments) and max(moments) <= latest + 1
    assert len(moments) == 1 if earliest == latest else max(moments) - min(moments) > (latest - earliest) / 3


def test_a_pushed_renewal_time_counts(pki: Pki) -> None:
    world = World(server_config(pki, push=("reneg-sec 90",), timers=QUIET))
    client = world.client(client_config(pki, timers=Timers(ping=10, ping_restart=0, reneg_sec=3000)))
    connected(world, client)
    world.run(89)
    assert key_ids(client) == [0]
    world.run(3)
    assert key_ids(client) == [0, 1]


@pytest.mark.parametrize("timeout", [1, 3])
def test_tls_timeout_is_the_first_pause_and_doubles(pki: Pki, timeout: float) -> None:
    world = World(server_config(pki), to_server=script("x" * 50))
    client = world.client(client_config(pki, timers=Timers(tls_timeout=timeout, connect_timeout=70, hand_window=70)))
    moments = []
    while world.now < 1000 + 11 * timeout:
        before = len(client.sent)
        world.run(0.25)
        moments += [world.now] * (len(client.sent) - before)
    assert [round((after - moments[0]) / timeout) for after in moments] == [0, 1, 3, 7]


@pytest.mark.parametrize("window", [7, 20])
def test_hand_window_ends_a_handshake(pki: Pki, window: float) -> None:
    world = World(server_config(pki, timers=Timers(hand_window=window)), to_server=script(".x" + "x" * 99))
    client = world.client(client_config(pki, timers=Timers(hand_window=window, connect_retry=50)))
    assert world.run(window + 1, lambda: bool(client.effects(c.CloseTransport)))
    assert world.now == pytest.approx(1000 + window, abs=0.2) and not up(client)
    machine: Any = world.server.machine
    world.run(window)
    assert not machine._peers


def test_everything_is_carried_at_the_smallest_size(pki: Pki) -> None:
    """A flight of more packets than fit into the window, over a link that loses."""
    timers = Timers(tls_timeout=1, hand_window=300, connect_timeout=300, ping=5, ping_restart=0)
    ours, theirs = WRAPS["tls-crypt-v2"]
    world = World(
        server_config(pki, theirs, timers=timers, max_packet_size=154),
        to_server=rule("loss 20%", 1), to_client=rule("loss 20%", 2),
    )  # fmt: skip
    client = world.client(client_config(pki, ours, timers=timers, max_packet_size=154))
    connected(world, client, 300)
    transfer(world, client)

# SPDX-License-Identifier: BSD-2-Clause
"""A server's peers among each other and the networks behind them, with either data plane, compared with the rules.

    kernel -- tun pair -- [pump] -- one UDP socket -- peers 0, 1, 2
                                 -- a stream pair --- peer 3
"""

from __future__ import annotations

import asyncio
import random
import socket
from ipaddress import ip_address, ip_network

import pytest

from qubes_miragevpn.dataplane.framing import FrameReader, frame
from qubes_miragevpn.dataplane.interface import PeerLimits, SockAddr
from qubes_miragevpn.dataplane.reference import DataChannel
from qubes_miragevpn.runtime import pump
from tests.unit.dataplane.packets import HERE, data_keys, ip_packet, tcp_packet, wire
from tests.unit.runtime import test_pump
from tests.unit.runtime.test_pump import receive, run, scene, stream_pair

PEERS = range(4)
LIMITS = PeerLimits(mss4=1300)
MSS_1400 = b"\x02\x04\x05\x78"
NETWORKS = {
    0: ("10.20.0.0/16", "fd20::/16"),
    1: ("10.20.30.0/24", "10.40.0.1/32"),
    3: ("10.8.0.2/32", "0.0.0.0/0"),  # the first is peer 0's own address, which counts more
}
PLACES = ("10.8.0.1", "10.8.0.2", "10.8.0.3", "10.8.0.4", "10.8.0.5", "10.8.0.9", "10.20.1.1", "10.20.30.1",
          "10.40.0.1", "192.0.2.77", "fd00::2", "fd00::3", "fd20::7", "fd21::7")  # fmt: skip


class Far:
    """A peer's end, and how it reaches the server."""

    def __init__(self, handle: int, hub: socket.socket) -> None:
        self.channel = DataChannel()
        self.channel.add_peer(1, 1, HERE, handle, PeerLimits())
        self.channel.install_key(1, 0, data_keys(seed=1 + 20 * handle), 0.0)
        self.channel.activate_key(1, 0, 0.0)
        self.stream = handle == 3
        self.theirs: socket.socket | None = None
        if self.stream:
            self.theirs, self.sock = stream_pair()
        else:
            self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.connect(hub.getsockname())
        self.sock.setblocking(False)
        self.link = 2 if self.stream else 1
        self.endpoint: SockAddr = HERE if self.stream else self.sock.getsockname()

    async def next(self) -> bytes | None:
        """The inner packet that comes next."""
        packet = await receive(self.sock)
        if self.stream:
            (packet,) = FrameReader().feed(packet)
        return self.channel.receive(1, None, packet, 0.0)


def server(plane: DataChannel | pump.Pump, far: list[Far], *now: float) -> None:
    """The same peers in a pump or in a bare data channel, which is told the time."""
    for handle, peer in enumerate(far):
        plane.add_peer(handle, peer.link, peer.endpoint, handle, LIMITS)
        inner = (ip_address(f"10.8.0.{handle + 2}"), ip_address(f"fd00::{handle + 2}"))
        plane.set_addresses(handle, inner, tuple(ip_network(each) for each in NETWORKS.get(handle, ())))
        plane.install_key(handle, 0, data_keys(seed=1 + 20 * handle, reverse=True), *now)
        plane.activate_key(handle, 0, *now)


@pytest.fixture(params=["reference", pytest.param("native", marks=pytest.mark.needs_native)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scenes of `test_pump` have either."""
    if request.param == "native":
        from qubes_miragevpn.runtime.nativepump import NativePump

        monkeypatch.setattr(test_pump, "Pump", NativePump)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("among", [True, False], ids=["client-to-client", "apart"])
def test_who_reaches_whom(among: bool) -> None:
    """Any source to any destination; whoever gets what, and what is counted, is what the readable rules say."""

    async def play() -> None:
        dice = random.Random(3)
        hub = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hub.bind(("127.0.0.1", 0))
        far = [Far(handle, hub) for handle in PEERS]
        rules = DataChannel(server=True, client_to_client=among)
        server(rules, far, 0.0)
        async with scene(server=True, client_to_client=among) as here:
            here.pump.attach_link(1, hub, None)
            assert far[3].theirs is not None
            here.pump.attach_link(2, far[3].theirs, HERE)
            server(here.pump, far)
            passed, refused = 0, 0
            for turn in range(400):
                sender, (source, destination) = dice.choice(PEERS), dice.choices(PLACES, k=2)
                if turn >= 400 - len(PEERS):  # the last of each comes through, so that all before it was looked at
                    sender, source, destination = turn % len(PEERS), f"10.8.0.{turn % len(PEERS) + 2}", "10.8.0.1"
                    if rules._peers.find(ip_address(destination).packed):
                        source, destination = f"fd00::{sender + 2}", "fd21::7"
                if (":" in source) != (":" in destination):
                    continue
                inner = tcp_packet(source, destination, MSS_1400) if turn % 3 == 0 else ip_packet(source, destination)
                packet = wire(far[sender].channel, inner)
                for_tun = rules.receive(far[sender].link, far[sender].endpoint, packet, 0.0)
                await asyncio.get_running_loop().sock_sendall(
                    far[sender].sock, frame(packet) if far[sender].stream else packet
                )
                if for_tun is not None:
                    assert await receive(here.kernel) == for_tun
                elif rules.outbox:
                    ((link, endpoint, sealed),) = rules.outbox
                    rules.outbox.clear()
                    (to,) = (each for each in far if (each.link, each.endpoint) == (link, endpoint))
                    came = await to.next()
                    expected = twin(far.index(to)).receive(1, None, sealed, 0.0)
                    assert came == expected
                    passed += 1
                else:
                    refused += 1
            assert refused > 100 and (passed > 30) == among
            for handle in PEERS:
                assert here.pump.counters(handle) == rules.counters(handle)
        for peer in far:
            peer.sock.close()

    run(play)


def twin(handle: int) -> DataChannel:
    """Another far end with the same keys, which has seen nothing."""
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, handle, PeerLimits())
    channel.install_key(1, 0, data_keys(seed=1 + 20 * handle), 0.0)
    return channel


@pytest.mark.usefixtures("backend")
def test_a_peer_that_goes_takes_its_own_along_and_no_more() -> None:
    """What another peer was given since stays that one's."""

    async def play() -> None:
        hub = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hub.bind(("127.0.0.1", 0))
        far = [Far(handle, hub) for handle in range(3)]
        async with scene(server=True) as here:
            here.pump.attach_link(1, hub, None)
            server(here.pump, far)
            here.pump.set_addresses(2, (ip_address("10.8.0.2"),), (ip_network("10.20.30.0/24"),))
            here.pump.remove_peer(0)
            here.pump.remove_peer(1)
            # Alone on its link: found without its number, and still held to its addresses.
            for place in ("10.8.0.2", "10.20.30.9"):
                far[2].sock.send(wire(far[2].channel, ip_packet("10.8.0.3", "10.8.0.1")))
                up = ip_packet(place, "10.8.0.1")
                far[2].sock.send(wire(far[2].channel, up))
                assert await receive(here.kernel) == up
                for gone in ("10.8.0.3", "10.20.1.1", "fd00::2"):
                    here.kernel.send(ip_packet("fd00::1" if ":" in gone else "10.8.0.1", gone))
                down = ip_packet("10.8.0.1", place)
                here.kernel.send(down)
                assert await far[2].next() == down
            assert here.pump.counters(2).dropped_other == 2
        for peer in far:
            peer.sock.close()

    run(play)

# SPDX-License-Identifier: BSD-2-Clause
"""The native data plane behind the same interface: what `test_pump` plays with the reference, and what is its own.

The tests that are imported run here with the native pump in the place of the other; those left out are about the
reference's innards (its system calls, its batches) or about what this backend is never chosen for (relays).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import select
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.dataplane.interface import (
    ControlPacket,
    Counters,
    KeyInUse,
    LinkFailed,
    PeerLimits,
    TunFailed,
)
from qubes_miragevpn.runtime.tun import Tun, open_tun
from tests.unit.dataplane.packets import HERE, data_keys, ip_packet, wire
from tests.unit.runtime import test_pump
from tests.unit.runtime.netns import in_netns, ip
from tests.unit.runtime.test_links import udp_pair
from tests.unit.runtime.test_pump import (  # noqa: F401 - collected here a second time
    BACK,
    CONTROL,
    INNER,
    far_channel,
    receive,
    run,
    scene,
    test_a_clients_server_that_moves_is_followed_if_it_may,
    test_a_slow_stream_stops_the_tun_and_loses_nothing_that_was_taken,
    test_a_stream_that_ends_or_makes_no_sense_fails_once,
    test_a_udp_server_with_two_peers,
    test_close_forgets_and_closes_everything,
    test_control_packets_are_framed_on_a_stream,
    test_control_packets_wait_up_to_a_bound,
    test_junk_from_the_network_changes_nothing,
    test_messages_about_settings_are_handed_up,
    test_nothing_works_before_start,
    test_send_inner_and_the_farewell,
    test_the_owner_may_close_the_link_while_it_is_told,
    test_timers_ping_and_report_silence,
    test_two_pumps_back_to_back,
    test_unknown_links_are_our_own_fault,
    test_what_is_later_than_the_time_for_it_is_a_replay,
    test_what_is_not_data_goes_up_unread,
    test_with_several_links_a_slow_one_does_not_stop_the_tun,
    test_without_a_tun_data_is_counted_and_dropped,
)

MAX_CONTROL = 1024  # native/linux/src/events.rs
UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h
TUNSETOFFLOAD, TCP_AND_UDP = 0x400454D0, 0x67  # linux/if_tun.h
WAITING = 6  # packets, of which a socket pair takes ten (net.unix.max_dgram_qlen)

pytestmark = pytest.mark.needs_native


@pytest.fixture(autouse=True)
def in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scenes of `test_pump` have this pump."""
    from qubes_miragevpn.runtime.nativepump import NativePump

    monkeypatch.setattr(test_pump, "Pump", NativePump)


def test_a_refused_udp_port_is_no_end() -> None:
    async def play() -> None:
        left, right = udp_pair()
        address = right.getsockname()
        right.close()
        async with scene() as here:
            here.client_of(left)
            for _ in range(3):
                here.kernel.send(INNER)
                await asyncio.sleep(0.01)
            late = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            late.bind(address)
            late.connect(left.getsockname())
            late.send(wire(far_channel(), BACK))
            assert await receive(here.kernel) == BACK
            assert await here.event(KeyInUse) == KeyInUse(1, 0)
            assert len(here.events) == 1
            late.close()

    run(play)


def test_a_flood_of_control_packets_delays_no_data() -> None:
    async def play() -> None:
        left, right = udp_pair()
        right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        async with scene() as here:
            here.client_of(left)
            far = far_channel()
            for _ in range(100):
                for _ in range(20):
                    right.send(CONTROL)
                right.send(wire(far, BACK))
                here.kernel.send(INNER)
                # Nobody lets the loop run, which is where control packets are waiting for.
                assert select.select([here.kernel], [], [], 5)[0] and here.kernel.recv(2048) == BACK
                assert select.select([right], [], [], 5)[0] and right.recv(2048)
            await here.event(ControlPacket)
            assert sum(isinstance(event, ControlPacket) for event in here.events) == MAX_CONTROL

    run(play)


def test_what_waits_at_the_tun_leaves_in_one_row() -> None:
    async def play() -> None:
        left, right = udp_pair()
        right.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        async with scene() as here:
            here.client_of(left)
            here.pump.detach_tun()
            for _ in range(WAITING):
                here.kernel.send(INNER)
            here.pump.attach_tun(here.tun.fileno())
            row = await receive(right)
            one = len(wire(far_channel(), INNER))
            assert len(row) == WAITING * one
            far = far_channel()
            opened = [far.receive(1, None, row[at : at + one], 0.0) for at in range(0, len(row), one)]
            assert opened == [INNER] * WAITING
        right.close()

    run(play)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_the_larger_the_packets_the_fewer_may_wait() -> None:
    async def play() -> None:
        tun = open_tun("tun0", headers=True)
        ip("address add 10.9.0.1/24 dev tun0")
        ip(f"link set tun0 mtu 65000 txqueuelen {tun.queue} up")
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        async with scene() as here:
            for size, count, shortest, longest in ((100, tun.queue, 400, 512), (60_000, 8, 32, 40)):
                async with asyncio.timeout(30):
                    while not shortest <= json.loads(ip("-j link show tun0"))[0]["txqlen"] <= longest:
                        here.pump.detach_tun()
                        for _ in range(count):
                            sender.sendto(bytes(size), ("10.9.0.2", 9))
                        here.pump.attach_tun(tun.fd)  # what waits is found in one turn
                        await asyncio.sleep(0.005)
        sender.close()
        tun.close()

    in_netns(play)


def gives_rows(tun: Tun) -> bool:
    """Have the TUN hand over rows of datagrams in one piece; before Linux 6.2 they come one by one, and leave so."""
    try:
        fcntl.ioctl(tun.fd, TUNSETOFFLOAD, TCP_AND_UDP)
    except OSError:
        return False
    return True


async def payloads(sock: socket.socket, count: int) -> list[int]:
    """Bytes of UDP in each of the next `count` inner packets of IPv4 that come to `sock`."""
    far, sizes = far_channel(), list[int]()
    while len(sizes) < count:
        inner = far.receive(1, None, await receive(sock), 0.0)
        if inner is not None and inner[0] >> 4 == 4:
            sizes.append(len(inner) - 28)
    return sizes


@pytest.mark.needs_root
@pytest.mark.needs_tun
@pytest.mark.parametrize(("rows", "row"), [(3, 5000), (1, 40000)], ids=["copied", "too large to copy"])
def test_who_sends_little_goes_ahead_of_large_packets_of_others(rows: int, row: int) -> None:
    """And nothing overtakes what is of its own flow, not even the short rest of it."""
    part, rest, other = 1000, 50, 70

    async def play() -> None:
        tun = open_tun("tun0", headers=True)
        ip("address add 10.9.0.1/24 dev tun0")
        ip("link set tun0 txqueuelen 100 up")
        left, right = udp_pair()
        much, little = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        async with scene() as here:
            here.client_of(left)
            here.pump.detach_tun()
            first, last = ([other], []) if gives_rows(tun) else ([], [other])
            much.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, part)
            for size in [row] * rows + [rest]:
                much.sendto(bytes(size), ("10.9.0.2", 9))
            little.sendto(bytes(other), ("10.9.0.2", 10))
            here.pump.attach_tun(tun.fd)
            sizes = await payloads(right, rows * row // part + 2)
        assert sizes == [*first, *[part] * (rows * row // part), rest, *last]
        for sock in (right, much, little):
            sock.close()
        tun.close()

    in_netns(play)


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_those_who_go_ahead_do_so_for_one_turn() -> None:
    """However many they are, each of a flow of its own, a large packet waits for so many of them only."""
    part, parts, little, most = 1000, 5, 70, 128

    async def play() -> None:
        tun = open_tun("tun0", headers=True)
        ip("address add 10.9.0.1/24 dev tun0")
        ip("link set tun0 txqueuelen 500 up")
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            here.pump.detach_tun()
            large = gives_rows(tun)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, part)
                sender.sendto(bytes(parts * part), ("10.9.0.2", 9))
                for port in range(1000, 1000 + most + 50):
                    sender.sendto(bytes(little), ("10.9.0.2", port))
            here.pump.attach_tun(tun.fd)
            sizes = await payloads(right, parts + most + 50)
        assert 0 < sizes.index(part) < most if large else sizes[:parts] == [part] * parts
        right.close()
        tun.close()

    in_netns(play)


def test_a_bug_in_the_threads_is_reported_and_the_next_link_works(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            # What the threads say when one of them met a bug; Rust's own tests hold that they do.
            here.pump._broken("a bug\nof ours")  # type: ignore[attr-defined]
            assert here.events == [LinkFailed(1, "the data plane failed"), TunFailed("the data plane failed")]
            here.kernel.send(INNER)
            here.pump.retire_key(1, 0)
            assert here.pump.counters(1) == Counters()
            here.pump.remove_peer(1)
            here.pump.detach_link(1)
            right.close()
            left, right = udp_pair()
            here.pump.attach_link(2, left, HERE)
            here.pump.add_peer(1, 2, HERE, 7, PeerLimits())
            here.pump.install_key(1, 0, data_keys())
            here.pump.activate_key(1, 0)
            here.pump.attach_tun(here.tun.fileno())
            assert far_channel().receive(1, None, await receive(right), 0.0) == INNER
        right.close()

    run(play)
    assert [record.message.count("\n") for record in caplog.records if record.levelno == logging.ERROR] == [0]


@pytest.mark.needs_root
@pytest.mark.needs_tun
def test_what_is_answered_at_once_finds_a_peer_that_has_just_moved() -> None:
    async def play() -> None:
        tun = open_tun("tun0", headers=True)
        ip("address add 10.9.0.1/24 dev tun0")
        ip("link set tun0 up")
        hub = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hub.bind(("127.0.0.1", 0))
        port = (5000).to_bytes(2, "big") + (9).to_bytes(2, "big") + (8).to_bytes(2, "big") + bytes(2)
        question = ip_packet("10.9.0.2", "10.9.0.1", port)  # to a port that is closed, which the kernel says at once
        async with scene(server=True) as here:
            here.pump.attach_tun(tun.fd)
            here.pump.attach_link(1, hub, None)
            here.pump.add_peer(1, 1, ("127.0.0.1", 9), 7, PeerLimits(floats=True))
            here.pump.set_addresses(1, (ip_address("10.9.0.2"),))
            here.pump.install_key(1, 0, data_keys())
            here.pump.activate_key(1, 0)
            far = far_channel()
            for _ in range(3):
                place = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                place.connect(hub.getsockname())
                place.setblocking(False)
                place.send(wire(far, question))
                answer = far.receive(1, None, await receive(place), 0.0)
                assert answer is not None and answer[9] == 1 and answer[28 : 28 + len(question)] == question
                place.close()
        tun.close()

    in_netns(play)


def test_what_a_peer_costs_is_bounded() -> None:
    """With all the keys that one may have, and after packets for it that nobody can open."""
    peers, most = 1000, 16 * 1024

    async def play() -> None:
        own, near = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        own.bind(("127.0.0.1", 0))
        own.setblocking(False)
        async with scene(server=True) as here:
            here.pump.attach_link(1, own, None)
            before = resident()
            for peer in range(1, peers + 1):
                here.pump.add_peer(peer, 1, ("192.0.2.1", peer), peer, PeerLimits())
                for key_id in range(3):
                    here.pump.install_key(peer, key_id, data_keys())
                near.sendto(bytes([9 << 3]) + peer.to_bytes(3, "big") + bytes(100), own.getsockname())
            near.sendto(CONTROL, own.getsockname())
            await here.event(ControlPacket)  # and with it everything in front
            assert resident() - before < peers * most
            with pytest.raises(MisuseError):
                here.pump.install_key(1, 3, data_keys())
        near.close()

    run(play)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

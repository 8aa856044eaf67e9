# SPDX-License-Identifier: BSD-2-Clause
"""The pump between socket pairs that stand for the TUN, and sockets on the loopback.

test -- tun pair -- [pump] -- UDP, or a stream pair -- [far end: a bare DataChannel, or a second pump]
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.dataplane.framing import FrameReader, frame
from qubes_miragevpn.dataplane.interface import (
    ControlPacket,
    Envelope,
    Floated,
    KeyInUse,
    LinkFailed,
    OccMessage,
    PeerExited,
    PeerLimits,
    PeerSilent,
    PlaneEvent,
    TunFailed,
)
from qubes_miragevpn.dataplane.reference import OCC_EXIT, OCC_MAGIC, DataChannel
from qubes_miragevpn.runtime import pump as pump_module
from qubes_miragevpn.runtime.pump import Pump
from qubes_miragevpn.runtime.sockets.links import BATCH, MAX_BACKLOG
from tests.unit.dataplane.packets import HERE, data_keys, ip_packet, wire
from tests.unit.runtime.test_links import udp_pair

INNER = ip_packet("10.8.0.2", "198.51.100.7", b"up")
BACK = ip_packet("198.51.100.7", "10.8.0.2", b"down")
CONTROL = b"\x20" + bytes(20)


class Scene:
    """A pump with a pretended TUN, its events, and whatever reached the loop as an unhandled exception."""

    def __init__(self, **options: bool) -> None:
        self.pump = Pump(**options)
        self.events: list[PlaneEvent] = []
        self.errors: list[dict[str, Any]] = []
        self.tun, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told = asyncio.Event()
        for end in (self.tun, self.kernel):
            end.setblocking(False)

    def report(self, event: PlaneEvent) -> None:
        self.events.append(event)
        self.told.set()

    def client_of(self, sock: socket.socket, limits: PeerLimits | None = None) -> None:
        """Attach `sock` as link 1, with peer 1 and its key."""
        self.pump.attach_link(1, sock, HERE)
        self.pump.add_peer(1, 1, HERE, 7, limits or PeerLimits())
        self.pump.install_key(1, 0, data_keys())
        self.pump.activate_key(1, 0)

    async def event(self, kind: type[PlaneEvent]) -> PlaneEvent:
        """The first event of `kind`, when there is one."""
        async with asyncio.timeout(5):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self.told.clear()
                await self.told.wait()


@asynccontextmanager
async def scene(**options: bool) -> AsyncIterator[Scene]:
    loop = asyncio.get_running_loop()
    made = Scene(**options)
    loop.set_exception_handler(lambda _, context: made.errors.append(context))
    made.pump.start(made.report)
    made.pump.attach_tun(made.tun.fileno())
    try:
        yield made
    finally:
        made.pump.close()
        made.tun.close()
        made.kernel.close()
        await asyncio.sleep(0)
        assert made.errors == []


def far_channel() -> DataChannel:
    """The other end's data channel, without a pump."""
    channel = DataChannel()
    channel.add_peer(1, 1, HERE, 7, PeerLimits())
    channel.install_key(1, 0, data_keys(reverse=True), 0.0)
    channel.activate_key(1, 0, 0.0)
    return channel


async def receive(sock: socket.socket, size: int = 65536) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(sock, size)


async def turns(count: int = 20) -> None:
    """Let the loop go round: everything that is ready is handled."""
    for _ in range(count):
        await asyncio.sleep(0)


def stream_pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for sock in pair:
        sock.setblocking(False)
    return pair


def run(play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(play())


# --- packets pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [udp_pair, stream_pair])
def test_two_pumps_back_to_back(pair: Callable[[], tuple[socket.socket, socket.socket]]) -> None:
    async def play() -> None:
        left, right = pair()
        async with scene() as here, scene() as there:
            here.client_of(left)
            there.pump.attach_link(9, right, HERE)
            there.pump.add_peer(4, 9, HERE, 7, PeerLimits())
            there.pump.install_key(4, 0, data_keys(reverse=True))
            there.pump.activate_key(4, 0)
            packets = [ip_packet("10.8.0.2", "10.8.0.1", bytes([n]) * (n * 7)) for n in range(150)]
            for packet in packets:
                await asyncio.get_running_loop().sock_sendall(here.kernel, packet)
                assert await receive(there.kernel) == packet
            there.kernel.send(BACK)
            assert await receive(here.kernel) == BACK
            counters = there.pump.counters(4)
            assert (counters.packets_in, counters.bytes_in) == (150, sum(map(len, packets)))
            assert there.events == [KeyInUse(4, 0)]

    run(play)


def test_a_udp_server_with_two_peers() -> None:
    async def play() -> None:
        hub = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hub.bind(("127.0.0.1", 0))
        async with scene(server=True) as here:
            here.pump.attach_link(1, hub, None)
            for handle in (0, 1):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.connect(hub.getsockname())
                sock.setblocking(False)
                endpoint = sock.getsockname()
                sock.send(CONTROL)
                assert await here.event(ControlPacket) == ControlPacket(1, endpoint, CONTROL)
                here.events.clear()
                here.pump.add_peer(handle, 1, endpoint, handle, PeerLimits())
                here.pump.set_addresses(handle, (ip_address(f"10.8.0.{handle + 2}"),))
                here.pump.install_key(handle, 0, data_keys(seed=1 + 40 * handle, reverse=True))
                here.pump.activate_key(handle, 0)
                far = DataChannel()
                far.add_peer(1, 1, HERE, handle, PeerLimits())
                far.install_key(1, 0, data_keys(seed=1 + 40 * handle), 0.0)
                far.activate_key(1, 0, 0.0)
                up = ip_packet(f"10.8.0.{handle + 2}", "10.8.0.1")
                sock.send(wire(far, up))
                assert await receive(here.kernel) == up
                here.kernel.send(ip_packet("10.8.0.1", f"10.8.0.{handle + 2}"))
                assert far.receive(1, None, await receive(sock), 0.0) == ip_packet("10.8.0.1", f"10.8.0.{handle + 2}")
                here.pump.send(1, endpoint, CONTROL)
                assert await receive(sock) == CONTROL
                sock.close()
                here.events.clear()

    run(play)


@pytest.mark.parametrize("first", [b"\x00", b"\x08", b"\x20", b"\x28", b"\x38", b"\x40", b"\x50", b"\xff"])
def test_what_is_not_data_goes_up_unread(first: bytes) -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            right.send(b"")  # an empty datagram is nothing
            right.send(first + b"rest")
            assert await here.event(ControlPacket) == ControlPacket(1, HERE, first + b"rest")
            assert len(here.events) == 1
        right.close()

    run(play)


def test_control_packets_are_framed_on_a_stream() -> None:
    async def play() -> None:
        left, right = stream_pair()
        async with scene() as here:
            here.client_of(left)
            here.pump.send(1, HERE, CONTROL)
            assert await receive(right) == frame(CONTROL)
            right.send(frame(CONTROL) + frame(b"\x28x") + b"\0")
            async with asyncio.timeout(20):
                while len(here.events) < 2:  # threads report them one by one
                    await asyncio.sleep(0.001)
            assert here.events == [ControlPacket(1, HERE, CONTROL), ControlPacket(1, HERE, b"\x28x")]
        right.close()

    run(play)


def test_control_and_data_take_turns() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            for _ in range(3 * BATCH):
                right.send(CONTROL)
            here.kernel.send(INNER)
            reported_when_sent = -1
            for _ in range(50):
                await asyncio.sleep(0)
                try:
                    right.recv(2048)
                except BlockingIOError:
                    continue
                reported_when_sent = len(here.events)
                break
            assert 0 <= reported_when_sent <= 2 * BATCH
            await turns()
            assert len(here.events) == 3 * BATCH
        right.close()

    run(play)


def test_send_inner_and_the_farewell() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            far = far_channel()
            here.pump.send_inner(1, OCC_EXIT)
            assert far.receive(1, None, await receive(right), 0.0) is None
            assert PeerExited(1) in far.events
            far.send_inner(1, OCC_EXIT, 0.0)
            right.send(far.outbox[0][2])
            assert await here.event(PeerExited) == PeerExited(1)
        right.close()

    run(play)


def test_messages_about_settings_are_handed_up() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            far = far_channel()
            far.send_inner(1, OCC_MAGIC + b"\x01" + bytes(900), 0.0)
            right.send(far.outbox[0][2])
            assert await here.event(OccMessage) == OccMessage(1, b"\x01" + bytes(511), len(far.outbox[0][2]))
        right.close()

    run(play)


def test_a_clients_server_that_moves_is_followed_if_it_may() -> None:
    async def play() -> None:
        for floats in (True, False):
            own, near, elsewhere = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
            for sock in (own, near, elsewhere):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            async with scene() as here:
                here.pump.attach_link(1, own, None)
                here.pump.add_peer(1, 1, near.getsockname(), 7, PeerLimits(floats=floats))
                here.pump.install_key(1, 0, data_keys())
                here.pump.activate_key(1, 0)
                far = far_channel()
                elsewhere.sendto(wire(far, BACK), own.getsockname())
                near.sendto(CONTROL, own.getsockname())
                await here.event(ControlPacket)
                moved = [event for event in here.events if isinstance(event, Floated)]
                assert moved == ([Floated(1, elsewhere.getsockname())] if floats else [])
                here.kernel.send(INNER)
                assert far.receive(1, None, await receive(elsewhere if floats else near), 0.0) == INNER
            near.close()
            elsewhere.close()

    run(play)


def test_what_is_later_than_the_time_for_it_is_a_replay() -> None:
    async def play() -> None:
        for limit, replays in ((0.02, 1), (0.0, 0)):
            left, right = udp_pair()
            async with scene() as here:
                here.client_of(left, PeerLimits(replay_time=limit))
                far = far_channel()
                late, *packets = [wire(far, BACK) for _ in range(4)]
                for packet in packets:
                    right.send(packet)
                    assert await receive(here.kernel) == BACK
                    await asyncio.sleep(0.03)  # longer than the time and its quarter
                right.send(late)
                right.send(wire(far, BACK))
                assert await receive(here.kernel) == BACK
                counters = here.pump.counters(1)
                assert (counters.dropped_replay, counters.dropped_auth) == (replays, 0)
            right.close()

    run(play)


def test_without_a_tun_data_is_counted_and_dropped() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            here.pump.detach_tun()
            right.send(wire(far_channel(), BACK))
            await here.event(KeyInUse)
            assert here.pump.counters(1).packets_in == 1
            with pytest.raises(BlockingIOError):
                here.kernel.recv(100)
        right.close()

    run(play)


def test_timers_ping_and_report_silence() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left, PeerLimits(ping=0.01, silence=0.03))
            far = far_channel()
            for _ in range(2):
                assert far.receive(1, None, await receive(right), 0.0) is None
            assert far.counters(1).dropped_other == 0
            assert await here.event(PeerSilent) == PeerSilent(1)
        right.close()

    run(play)


# --- trouble ----------------------------------------------------------------------------------------------


def test_a_refused_udp_port_is_no_end() -> None:
    async def play() -> None:
        left, right = udp_pair()
        address = right.getsockname()
        right.close()
        async with scene() as here:
            here.client_of(left)
            for _ in range(3):
                here.kernel.send(INNER)
                await turns()
            late = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            late.bind(address)
            late.connect(left.getsockname())
            late.send(wire(far_channel(), BACK))
            assert await receive(here.kernel) == BACK
            assert here.events == [KeyInUse(1, 0)]
            late.close()

    run(play)


@pytest.mark.parametrize("last_words", [b"", b"\0\0", b"\xff\xff", frame(CONTROL)[:5]])
def test_a_stream_that_ends_or_makes_no_sense_fails_once(last_words: bytes) -> None:
    async def play() -> None:
        left, right = stream_pair()
        async with scene() as here:
            here.client_of(left)
            if last_words:
                right.send(last_words)
            if last_words[:2] not in (b"\0\0", b"\xff\xff"):
                right.close()
            failed = await here.event(LinkFailed)
            assert isinstance(failed, LinkFailed) and failed.link == 1 and failed.reason
            here.pump.send(1, HERE, CONTROL)
            here.kernel.send(INNER)
            await turns()
            assert here.events == [failed]
            assert not asyncio.get_running_loop().remove_reader(left)  # it is watched no more
            here.pump.detach_link(1)
            with pytest.raises(MisuseError):
                here.pump.send(1, HERE, CONTROL)
        right.close()

    run(play)


def test_a_slow_stream_stops_the_tun_and_loses_nothing_that_was_taken() -> None:
    async def play() -> None:
        left, right = stream_pair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        packets = [ip_packet("10.8.0.2", "10.8.0.1", n.to_bytes(2, "big") * 600) for n in range(400)]
        async with scene() as here:
            here.client_of(left)

            async def kernel_sends() -> None:
                for packet in packets:
                    await asyncio.get_running_loop().sock_sendall(here.kernel, packet)

            sending = asyncio.create_task(kernel_sends())
            await turns(200)
            assert not sending.done()  # the TUN's queue is full: nobody reads it
            here.pump.send(1, HERE, CONTROL)
            reader, far, got, control = FrameReader(), far_channel(), [], 0
            while len(got) < len(packets):
                for packet in reader.feed(await receive(right)):
                    if packet == CONTROL:
                        control += 1
                    else:
                        got.append(far.receive(1, None, packet, 0.0))
            assert got == packets
            assert control == 1
            assert sending.done()
        right.close()

    run(play)


def test_control_packets_wait_up_to_a_bound() -> None:
    async def play() -> None:
        left, right = stream_pair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        async with scene() as here:
            here.client_of(left)
            packet = b"\x20" + bytes(1200)
            for _ in range(MAX_BACKLOG // len(packet) + 100):
                here.pump.send(1, HERE, packet)
            assert here.events == []  # never while the owner is calling
            failed = await here.event(LinkFailed)
            assert here.events == [failed]
        right.close()

    run(play)


def test_with_several_links_a_slow_one_does_not_stop_the_tun() -> None:
    async def play() -> None:
        slow, slow_far = stream_pair()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        quick, quick_far = stream_pair()
        async with scene(server=True) as here:
            for handle, sock in ((0, slow), (1, quick)):
                here.pump.attach_link(handle, sock, HERE)
                here.pump.add_peer(handle, handle, HERE, handle, PeerLimits())
                here.pump.set_addresses(handle, (ip_address(f"10.8.0.{handle + 2}"),))
                here.pump.install_key(handle, 0, data_keys())
                here.pump.activate_key(handle, 0)
            for _ in range(500):
                await asyncio.get_running_loop().sock_sendall(
                    here.kernel, ip_packet("10.8.0.1", "10.8.0.2", bytes(1000))
                )
            here.kernel.send(ip_packet("10.8.0.1", "10.8.0.3"))
            assert len(await receive(quick_far)) > 2
            assert here.pump.dropped_full > 0
            assert here.events == []
        slow_far.close()
        quick_far.close()

    run(play)


def test_detaching_a_blocked_link_lets_the_tun_run_again() -> None:
    async def play() -> None:
        left, right = stream_pair()
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with scene() as here:
            here.client_of(left)
            for _ in range(100):
                try:
                    here.kernel.send(ip_packet("10.8.0.2", "10.8.0.1", bytes(1000)))
                except BlockingIOError:
                    await turns(2)
            here.pump.detach_link(1)
            await turns(100)
            with pytest.raises(BlockingIOError):
                here.tun.recv(65536)  # all of it was read
        right.close()

    run(play)


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADFD])
@pytest.mark.parametrize("call", ["read", "write"])
def test_a_tun_that_is_gone_is_reported_once(number: int, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            far = far_channel()
            with monkeypatch.context() as patch:
                patch.setattr(pump_module.os, call, gone)
                here.kernel.send(INNER)
                right.send(wire(far, BACK))
                right.send(wire(far, BACK))
                await here.event(TunFailed)
                await turns()
            assert [event for event in here.events if isinstance(event, TunFailed)] == [TunFailed(os.strerror(number))]
        right.close()

    run(play)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EAGAIN, errno.ENOBUFS])
def test_a_packet_that_the_tun_refuses_is_one_lost_packet(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def picky(fd: int, packet: bytes) -> int:
        if packet == INNER:
            raise OSError(number, os.strerror(number))
        return real(fd, packet)

    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            far = far_channel()
            with monkeypatch.context() as patch:
                patch.setattr(pump_module.os, "write", picky)
                right.send(wire(far, INNER))
                right.send(wire(far, BACK))
                assert await receive(here.kernel) == BACK
            assert here.events == [KeyInUse(1, 0)]
        right.close()

    run(play)


def test_an_owner_that_fails_does_not_stop_the_packets(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)

            def broken(event: PlaneEvent) -> None:
                raise ValueError("a bug\nof the owner")

            here.pump.start(broken)
            right.send(CONTROL)
            right.send(wire(far_channel(), BACK))
            assert await receive(here.kernel) == BACK
        right.close()

    run(play)
    assert [record.message.count("\n") for record in caplog.records] == [0, 0]
    assert "ControlPacket was not handled" in caplog.records[0].message


def test_a_bug_of_ours_ends_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("a bug\nof ours")

    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            far = far_channel()
            with monkeypatch.context() as patch:
                patch.setattr(DataChannel, "receive", bug)
                patch.setattr(DataChannel, "tick", bug)
                right.send(wire(far, BACK))
                here.pump.update_peer(1, limits=PeerLimits(ping=1e-9))
                await turns()
            right.send(wire(far, BACK))
            assert await receive(here.kernel) == BACK
        right.close()

    run(play)
    assert sorted(record.message.split()[0] for record in caplog.records) == ["link_readable", "timer_fired"]
    assert all("\n" not in record.message for record in caplog.records)


def test_the_owner_may_close_the_link_while_it_is_told() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)

            def leave(event: PlaneEvent) -> None:
                here.report(event)
                here.pump.remove_peer(1)
                here.pump.detach_link(1)

            here.pump.start(leave)
            for packet in (CONTROL, CONTROL, wire(far_channel(), BACK)):
                right.send(packet)
            await here.event(ControlPacket)
            await turns()
            assert len(here.events) == 1
        right.close()

    run(play)


def test_junk_from_the_network_changes_nothing() -> None:
    async def play() -> None:
        rng = random.Random(5)
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            for round_ in range(40):
                for _ in range(25):
                    right.send(bytes([rng.choice((0x30, 0x48))]) + rng.randbytes(rng.randrange(200)))
                await turns(3)
                far = far_channel()
                for _ in range(round_ + 1):
                    packet = wire(far, BACK)
                right.send(packet)
                assert await receive(here.kernel) == BACK
            assert here.events == [KeyInUse(1, 0)]
            assert here.pump.counters(1).packets_in == 40
        right.close()

    run(play)


@pytest.mark.parametrize("ending", ["close", "detach"])
def test_a_relay_lasts_as_long_as_its_connection(ending: str) -> None:
    async def play() -> None:
        async with scene() as here:
            ours, theirs = udp_pair()
            control, proxy = stream_pair()
            here.pump.attach_link(5, ours, theirs.getsockname(), Envelope(b"head", control))
            here.pump.send(5, theirs.getsockname(), CONTROL)
            assert await receive(theirs) == b"head" + CONTROL
            proxy.send(b"noise")
            await turns()
            assert here.events == []
            if ending == "close":
                proxy.close()
                await turns()
                assert here.events == [LinkFailed(5, "the proxy ended the association")]
            here.pump.detach_link(5)
            assert control.fileno() < 0 and ours.fileno() < 0
            theirs.close()
            proxy.close()

    run(play)


def test_close_forgets_and_closes_everything() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left, PeerLimits(ping=0.001))
            here.pump.close()
            assert left.fileno() == -1
            assert here.tun.fileno() >= 0
            with pytest.raises(MisuseError):
                here.pump.counters(1)
            here.pump.close()
        right.close()

    run(play)


def test_unknown_links_are_our_own_fault() -> None:
    async def play() -> None:
        left, right = udp_pair()
        async with scene() as here:
            here.client_of(left)
            for misuse in (
                lambda: here.pump.send(2, HERE, CONTROL),
                lambda: here.pump.detach_link(2),
                lambda: here.pump.attach_link(1, right, HERE),
                lambda: here.pump.add_peer(2, 2, HERE, 7, PeerLimits()),
            ):
                with pytest.raises(MisuseError):
                    misuse()
        right.close()

    run(play)


def test_nothing_works_before_start() -> None:
    with pytest.raises(MisuseError):
        Pump().attach_tun(0)

# SPDX-License-Identifier: BSD-2-Clause
"""Real datagrams and connections to a running server: driver, pump and machine together, on the loopback.

somebody -- UDP or TCP, 127.0.0.1 -- [ServerDriver: Server, Pump] -- socket pair that stands for the TUN
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from qubes_miragevpn.config.model import Listen, Proto, ServerConfig
from qubes_miragevpn.protocol.contract import Command, StopKind
from qubes_miragevpn.protocol.server import Server
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode
from qubes_miragevpn.runtime.driver import ServerDriver
from qubes_miragevpn.runtime.pump import Pump
from tests.interop.pki import Pki
from tests.pair.hostile import sessions
from tests.pair.test_handshake import WRAPS
from tests.pair.world import server_config

RESET = Head(Opcode.HARD_RESET_CLIENT, 0, b"strange!").encode() + Body((), None, 0).encode()
PATIENCE = 5.0


class Scene:
    """A server that runs, and what was sent to whom."""

    def __init__(self, machine: Server, where: Any) -> None:
        self.machine, self.where = machine, where
        self.dice = random.Random(7)

    def socket(self) -> socket.socket:
        """Somebody's UDP socket."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect(self.where[:2])
        return sock

    async def throw(self, sock: socket.socket, packets: list[bytes]) -> list[bytes]:
        """Send all of them, in handfuls that no buffer loses, and what comes back until the server is done."""
        answers = []
        for at in range(0, len(packets), 32):
            for packet in packets[at : at + 32]:
                sock.send(packet)
            await asyncio.sleep(0.002)
            answers += _waiting(sock)
        await asyncio.sleep(0.1)
        return answers + _waiting(sock)

    async def answer(self, sock: socket.socket, packet: bytes) -> bytes:
        """What comes back, which must come."""
        sock.send(packet)
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(sock, 65536)


def _waiting(sock: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(sock.recv(65536))
    except BlockingIOError:
        return found


def with_server(
    pki: Pki, play: Callable[[Scene], Awaitable[None]], wrap: str = "none", proto: Proto = Proto.UDP
) -> None:
    config = server_config(pki, WRAPS[wrap][1], proto, listen=Listen("127.0.0.1", 0, proto))

    async def run() -> None:
        dice = random.Random(3)
        machine = Server(config, entropy=dice.randbytes, unix_time=lambda: int(time.time()))
        tun, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        tun.setblocking(False)
        driver = ServerDriver(machine, Pump(), config, tun.fileno())
        listening: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        life = asyncio.create_task(driver.run(listening.set_result))
        try:
            ((_, where),) = await listening
            await play(Scene(machine, where))
            driver.command(Command.DISCONNECT)
            assert (await life).kind is StopKind.ASKED
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            tun.close()
            kernel.close()

    asyncio.run(run())


def test_noise_of_every_length_and_first_byte(pki: Pki) -> None:
    async def play(scene: Scene) -> None:
        with scene.socket() as sock:
            noise = [scene.dice.randbytes(size) for size in range(2001)]
            noise += [bytes((first,)) + scene.dice.randbytes(40) for first in range(256)]
            assert await scene.throw(sock, noise) == [] and not sessions(scene.machine)
            assert len(await scene.answer(sock, RESET)) == 26, "and it is there as before"

    with_server(pki, play)


def test_first_packets_of_every_opcode_and_key_id(pki: Pki) -> None:
    for wrap in WRAPS:

        async def play(scene: Scene, answered: int = 1 if wrap == "none" else 0) -> None:
            with scene.socket() as sock:
                packets = [bytes((first,)) + RESET[1:] for first in range(256)]
                assert len(await scene.throw(sock, packets)) == answered and not sessions(scene.machine)

        with_server(pki, play, wrap)


def test_a_first_packet_is_answered_once_and_no_more(pki: Pki) -> None:
    async def play(scene: Scene) -> None:
        with scene.socket() as sock:
            assert len(await scene.answer(sock, RESET)) == 26
            await asyncio.sleep(2.5)  # longer than the first pause of a retransmission
            assert _waiting(sock) == []
            assert len(await scene.throw(sock, [RESET] * 1000)) == ServerConfig.first_packets.most // 5 - 1
            assert not sessions(scene.machine)

    with_server(pki, play)


def test_a_cookie_from_another_port(pki: Pki) -> None:
    async def play(scene: Scene) -> None:
        with scene.socket() as sock, scene.socket() as thief:
            sid = (await scene.answer(sock, RESET))[1:9]
            third = Head(Opcode.ACK, 0, b"strange!").encode() + Body((0,), sid, None).encode()
            assert await scene.throw(thief, [third] * 20) == [] and not sessions(scene.machine)
            await scene.throw(sock, [third])
            assert len(sessions(scene.machine)) == 1, "where it was given it is good"

    with_server(pki, play)


def test_impossible_lengths_on_a_connection(pki: Pki) -> None:
    async def play(scene: Scene) -> None:
        for head in (b"\0\0", b"\xff\xff", b"\0\0\0\x0e"):
            reader, writer = await asyncio.open_connection(*scene.where[:2])
            writer.write(head + b"\x38" * 20)
            async with asyncio.timeout(PATIENCE):
                assert await reader.read() == b"", "closed without a word"
            writer.close()
        reader, writer = await asyncio.open_connection(*scene.where[:2])
        for byte in len(RESET).to_bytes(2, "big") + RESET:
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.001)
        async with asyncio.timeout(PATIENCE):
            assert len(await reader.readexactly(28)) == 28, "an honest one is answered, byte by byte as it may come"
        writer.close()
        assert len(sessions(scene.machine)) == 1

    with_server(pki, play, proto=Proto.TCP)

# SPDX-License-Identifier: BSD-2-Clause
"""A client comes while others, from addresses of their own, hold connections open, dribble and begin handshakes.

    attacker, 16 addresses 198.18.0.0/24 --wire1--+
                                                  |-- server of ours, UDP and TCP, plain TLS, few clients
    client, openvpn ------------------wire0-------+

All of it at once and for as long as the clients take; then the server has the files open that it had before.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from qubes_miragevpn.protocol.serving.registry import MAX_CANDIDATES, MAX_FROM_ONE
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode
from tests.interop.bench import Bench
from tests.interop.netns import SERVER_WIRE, TUN, Namespace, run
from tests.interop.peers import OPENVPN, OURS, PORT, Case, Peer, client_config, server_config

SOURCES = [f"198.18.0.{number}" for number in range(1, 17)]
SILENT = 24  # connections that say nothing from each of them; all together more than a server keeps
SLOW = 6  # connections from each that send a byte now and then, of a frame that never ends
SESSIONS = 40  # sessions that each begins by UDP, and as many by TCP; all together more than a server keeps
PAUSE = 0.05  # seconds between two rounds
HAND_WINDOW = 8
PLACES = (f"local {SERVER_WIRE} {PORT} udp", f"local {SERVER_WIRE} {PORT} tcp")
LIMITS = ("max-clients 4", f"hand-window {HAND_WINDOW}", "duplicate-cn")
FEW_FILES = 16  # besides those that are counted
MEMORY = 200 * 1024
"""KiB more than before, at most: 512 connections and as many that have just gone, with 136 KB of the data plane's
buffers each; 256 handshakes of 100 KB; what an allocator keeps of them."""


class Flood:
    """Everything that strangers can do without a certificate, from every source at once."""

    def __init__(self, space: Namespace) -> None:
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()
        self.connections = self.packets = self.answers = 0
        self._space = space
        self._threads = [
            threading.Thread(target=work)
            for work in (self._hold, self._dribble, self._begin_by_tcp, self._begin_by_udp)
        ]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _rounds(self) -> Iterator[int]:
        for number in itertools.count():
            if self._over.wait(PAUSE):
                return
            yield number

    def _made(self, kind: socket.SocketKind, count: int) -> list[list[socket.socket]]:
        """`count` sockets of each source, not connected yet."""

        def make() -> list[list[socket.socket]]:
            return [[self._socket(source, kind) for source in SOURCES] for _ in range(count)]

        return self._space.call(make)

    def _socket(self, source: str, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind((source, 0))
        sock.setblocking(False)
        return sock

    def _connect(self, sock: socket.socket) -> socket.socket:
        with contextlib.suppress(BlockingIOError):
            sock.connect((SERVER_WIRE, PORT))
        self.connections += 1
        return sock

    def _again(self, sock: socket.socket) -> socket.socket:
        """One like it, where the server has closed it."""
        source = sock.getsockname()[0]
        sock.close()
        return self._space.call(lambda: self._connect(self._socket(source, socket.SOCK_STREAM)))

    def _held(self, count: int, say: bytes, every: bytes) -> None:
        """Connections that are always there: each says something at first, and something now and then."""
        socks = [self._connect(sock) for row in self._made(socket.SOCK_STREAM, count) for sock in row]
        fresh = set(socks)
        for number in self._rounds():
            for at in range(number % 8, len(socks), 8):
                sock = socks[at]
                try:
                    if sock in fresh and say:
                        sock.send(say)
                        fresh.discard(sock)
                    elif every:
                        sock.send(every)
                    elif sock.recv(4096) == b"":
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except OSError:
                    socks[at] = self._again(sock)
                    fresh.add(socks[at])
        for sock in socks:
            sock.close()

    def _hold(self) -> None:
        self._held(SILENT, b"", b"")

    def _dribble(self) -> None:
        self._held(SLOW, b"\x04\xd2", b"\x38")

    def _begin_by_tcp(self) -> None:
        reset = _reset(b"stranger")
        self._held(SESSIONS // 4, len(reset).to_bytes(2, "big") + reset, b"")

    def _begin_by_udp(self) -> None:
        """Resets from every port; where an answer comes, the cookie goes back with the beginning of a long record."""
        socks = [sock for row in self._made(socket.SOCK_DGRAM, SESSIONS) for sock in row]
        for sock in socks:
            sock.connect((SERVER_WIRE, PORT))
        for number in self._rounds():
            for at in range(number % 4, len(socks), 4):
                sid = at.to_bytes(8, "big")
                with contextlib.suppress(OSError):
                    socks[at].send(_reset(sid))
                    self.packets += 1
                    answer = socks[at].recv(4096)
                    body = Body((0,), answer[1:9], 1, b"\x16\x03\x01\x40\x00").encode()
                    socks[at].send(Head(Opcode.CONTROL, 0, sid).encode() + body)
                    self.answers += 1
        for sock in socks:
            sock.close()


def _reset(sid: bytes) -> bytes:
    return Head(Opcode.HARD_RESET_CLIENT, 0, sid).encode() + Body((), None, 0).encode()


def size(peer: Peer) -> tuple[int, int]:
    """Resident memory in KiB, and open files."""
    status = Path(f"/proc/{peer.process.pid}/status").read_text(encoding="ascii", errors="replace")
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return resident, len(os.listdir(f"/proc/{peer.process.pid}/fd"))


def strangers(bench: Bench) -> Namespace:
    """A machine with all those addresses."""
    space = bench.wire.second_client()
    for source in SOURCES:
        run("ip", "-n", space.name, "address", "add", f"{source}/32", "dev", "wire0")
    run("ip", "-n", bench.wire.server.name, "route", "add", "198.18.0.0/24", "dev", "wire1", "src", SERVER_WIRE)
    return space


def test_clients_come_in_while_everybody_else_floods(bench: Bench) -> None:
    own = Case(server_lines=(*PLACES, *LIMITS))
    server = bench.server(OURS, server_config(own, bench.pki, OURS))
    server.wait_log("listening on .*tcp")
    before = size(server)
    most = before
    with Flood(strangers(bench)) as flood:
        server.wait("flood", lambda: flood.answers > 2 * MAX_FROM_ONE and size(server)[1] > MAX_CANDIDATES, within=60)
        for proto in ("udp", "tcp"):
            client = bench.client(OPENVPN, client_config(Case(proto=proto), bench.pki, OPENVPN))
            began = time.monotonic()
            while bench.wire.client.address(TUN) is None:
                assert time.monotonic() - began < 60, f"{proto}: no tunnel\n{client.log}"
                most = max(most, size(server))
                time.sleep(0.1)
            bench.exchange(50_000)
            assert client.stop() == 0
        most = (max(most[0], size(server)[0]), max(most[1], size(server)[1]))
    # a connection is two files, its socket and the data plane's
    assert most[1] - before[1] <= 2 * 2 * MAX_CANDIDATES + FEW_FILES, (before, most)
    assert most[0] - before[0] < MEMORY, (before, most)
    server.wait("end of what was left", lambda: size(server)[1] <= before[1] + 2, within=HAND_WINDOW + 30)
    assert "Traceback" not in server.log

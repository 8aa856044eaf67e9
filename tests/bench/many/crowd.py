# SPDX-License-Identifier: BSD-2-Clause
"""Many clients in one process: our protocol core, a socket of its own for each, and no data plane.

They come some at once and stay; a simulated client that is in is not driven any further, as if it had nothing to send,
until all leave.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable

from qubes_miragevpn.base.deadlines import Deadlines
from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import ClientConfig
from qubes_miragevpn.dataplane.framing import FrameReader, frame
from qubes_miragevpn.protocol import contract as c
from qubes_miragevpn.protocol.client import Client
from tests.interop.netns import SERVER_WIRE, Namespace
from tests.interop.peers import PORT

AT_ONCE = 32
WITHIN = 120.0  # seconds without anybody new until it is called a failure
_SERVER = (SERVER_WIRE, PORT)
_DATA = (6, 9)
_ENTROPY = open("/dev/urandom", "rb").read  # noqa: SIM115


class Newcomer:
    """One client: a machine and its socket."""

    def __init__(self, config: ClientConfig, sock: socket.socket) -> None:
        self.sock = sock
        self.up = False
        self._link = 0
        self._last = b""
        self._machine = Client(config, entropy=_ENTROPY, unix_time=lambda: int(time.time()))
        self._frames = FrameReader() if sock.type == socket.SOCK_STREAM else None
        sock.connect(_SERVER)
        if self._frames is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._event(c.UserCommand(c.Command.CONNECT))

    def deadline(self) -> float | None:
        """When it wants to be told that time has passed."""
        return self._machine.next_deadline()

    def passes(self) -> None:
        """Time has passed."""
        self._event(c.TimerExpired())

    def readable(self) -> None:
        """Something arrived; raises `PeerError` if that is the end."""
        data = self.sock.recv(65536)
        if not data:
            raise PeerError("the server closed the connection")
        for packet in [data] if self._frames is None else self._frames.feed(data):
            if packet[0] >> 3 not in _DATA:
                self._event(c.PacketReceived(self._link, _SERVER, packet))

    def leave(self) -> None:
        """Say goodbye; what arrived before that, and was not looked at, is thrown away."""
        with contextlib.suppress(BlockingIOError):
            while self.sock.recv(65536, socket.MSG_DONTWAIT):
                pass
        self._event(c.UserCommand(c.Command.DISCONNECT))

    def again(self) -> None:
        """Send what was sent last once more."""
        self.sock.sendall(self._last)

    def _event(self, event: c.Event) -> None:
        for effect in self._machine.handle(event, time.monotonic()):
            match effect:
                case c.OpenTransport(link):
                    self._link = link
                    self._event(c.TransportUp(link, _SERVER))
                case c.Transmit(_, _, packet):
                    self._last = packet if self._frames is None else frame(packet)
                    self.sock.sendall(self._last)
                case c.TunnelUp():
                    self.up = True
                case c.TunnelDown(reason) if event != c.UserCommand(c.Command.DISCONNECT):
                    raise PeerError(reason)
                case _:
                    pass


class Crowd:
    """So many clients of one server; a context manager, which closes their sockets."""

    def __init__(self, config: ClientConfig, space: Namespace, kind: socket.SocketKind, size: int) -> None:
        self._config = config
        self._waiting = deque(space.call(lambda: [socket.socket(socket.AF_INET, kind) for _ in range(size)]))
        self._there: list[Newcomer] = []
        self._size = size

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (*self._waiting, *(each.sock for each in self._there)):
            sock.close()

    def enter(self, mark: Callable[[int], None]) -> None:
        """Let all of them in; `mark` is told how many are there whenever that changes."""
        chosen, times = selectors.DefaultSelector(), Deadlines()
        busy: set[int] = set()  # by number, which is the place in `_there`
        patience = time.monotonic() + WITHIN
        while len(self._there) - len(busy) < self._size:
            while self._waiting and len(busy) < AT_ONCE:
                number = len(self._there)
                self._there.append(Newcomer(self._config, self._waiting.popleft()))
                chosen.register(self._there[number].sock, selectors.EVENT_READ, number)
                times.set(number, self._there[number].deadline())
                busy.add(number)
            for number in times.take_due(time.monotonic()):
                self._there[number].passes()
                times.set(number, self._there[number].deadline())
            for key, _ in chosen.select(max(0.0, (times.next() or 0.0) - time.monotonic())):
                newcomer = self._there[key.data]
                newcomer.readable()
                times.set(key.data, None if newcomer.up else newcomer.deadline())
                if newcomer.up:
                    chosen.unregister(newcomer.sock)
                    busy.remove(key.data)
                    patience = time.monotonic() + WITHIN
                    mark(len(self._there) - len(busy))
            if time.monotonic() > patience:
                raise RuntimeError(f"{len(busy)} handshakes do not end")
        chosen.close()

    def leave(self) -> None:
        """All say goodbye, some at once, until the server acknowledges it: more than those its socket may not hold."""
        for start in range(0, self._size, AT_ONCE):
            with selectors.DefaultSelector() as chosen:
                for each in self._there[start : start + AT_ONCE]:
                    each.leave()
                    chosen.register(each.sock, selectors.EVENT_READ, each)
                patience = time.monotonic() + WITHIN
                while chosen.get_map():
                    heard = chosen.select(1.0)
                    for key, _ in heard:
                        chosen.unregister(key.fileobj)
                    for key in () if heard else tuple(chosen.get_map().values()):
                        key.data.again()
                    if time.monotonic() > patience:
                        raise RuntimeError("goodbyes are not acknowledged")

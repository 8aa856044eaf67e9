# SPDX-License-Identifier: BSD-2-Clause
"""A UDP relay that keeps every datagram for a fixed time, so that a cable gets long without any kernel queue.

It stands between one client and one server:  client --> [port] relay --> server, and back.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque

from tests.interop.netns import Namespace


class DelayingRelay:
    """Relays between whoever sends to `listen` and `target`, `delay` seconds later, until closed."""

    def __init__(self, space: Namespace, listen: tuple[str, int], target: tuple[str, int], delay: float) -> None:
        self.first_datagram = 0.0  # monotonic time at which the client's first one came
        self._delay = delay
        self._near = space.call(lambda: _bound(listen))
        self._far = space.call(lambda: _connected(target))
        self._client: tuple[str, int] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what is still on its way is lost."""
        self._stopping.set()
        self._thread.join()
        self._near.close()
        self._far.close()

    def _run(self) -> None:
        to_server: deque[tuple[float, bytes]] = deque()
        to_client: deque[tuple[float, bytes]] = deque()
        while not self._stopping.is_set():
            now = time.monotonic()
            while to_server and to_server[0][0] <= now:
                self._pass_on(self._far, to_server.popleft()[1], None)
            while to_client and to_client[0][0] <= now:
                self._pass_on(self._near, to_client.popleft()[1], self._client)
            due = min((queue[0][0] for queue in (to_server, to_client) if queue), default=now + 0.1)
            readable, _, _ = select.select([self._near, self._far], [], [], max(0.0, due - time.monotonic()))
            arrived = time.monotonic() + self._delay
            if self._near in readable:
                data, self._client = self._near.recvfrom(65535)
                self.first_datagram = self.first_datagram or time.monotonic()
                to_server.append((arrived, data))
            if self._far in readable:
                try:
                    to_client.append((arrived, self._far.recv(65535)))
                except ConnectionRefusedError:
                    continue  # the server is not there yet

    @staticmethod
    def _pass_on(sock: socket.socket, data: bytes, to: tuple[str, int] | None) -> None:
        try:
            if to is None:
                sock.send(data)
            else:
                sock.sendto(data, to)
        except OSError:
            return  # a datagram may be lost, by the relay as by any network


def _bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(address)
    return sock


def _connected(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(address)
    return sock


class DelayingStream:
    """The same for one TCP connection; it connects to the target at once, so that only what is said takes its time."""

    def __init__(self, space: Namespace, listen: tuple[str, int], target: tuple[str, int], delay: float) -> None:
        self.first_datagram = 0.0  # monotonic time at which the client first said something
        self._delay = delay
        self._target = target
        self._space = space
        self._listener = space.call(lambda: socket.create_server(listen))
        self._listener.settimeout(0.1)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what is still on its way is lost."""
        self._stopping.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            far = self._space.call(lambda: socket.create_connection(self._target))
            with near, far:
                self._relay(near, far)

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        on_the_way: deque[tuple[float, socket.socket, bytes]] = deque()
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self._stopping.is_set():
            now = time.monotonic()
            while on_the_way and on_the_way[0][0] <= now:
                _, to, data = on_the_way.popleft()
                to.sendall(data)
            due = on_the_way[0][0] if on_the_way else now + 0.1
            readable, _, _ = select.select([near, far], [], [], max(0.0, due - time.monotonic()))
            for sock in readable:
                data = sock.recv(65536)
                if not data:
                    return
                if sock is near:
                    self.first_datagram = self.first_datagram or time.monotonic()
                on_the_way.append((time.monotonic() + self._delay, far if sock is near else near, data))

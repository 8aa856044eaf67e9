# SPDX-License-Identifier: BSD-2-Clause
"""Traffic through a tunnel, compared byte for byte by checksum: plain sockets, nothing else installed."""

from __future__ import annotations

import hashlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.interop.netns import Namespace

MEGABYTE = 1_000_000
STALL = 15.0
"""A TCP stream on which nothing moves for so many seconds is lost."""

_BLOCK = random.Random(20_26).randbytes(64 * 1024)


def blocks(size: int) -> Iterator[bytes]:
    """`size` bytes that do not repeat: every block bears its number."""
    number = 0
    while size > 0:
        block = (number.to_bytes(8, "big") + _BLOCK)[: min(size, len(_BLOCK))]
        yield block
        size -= len(block)
        number += 1


def connect(
    listener: Namespace, address: str, dialler: Namespace, within: float = 10.0
) -> tuple[socket.socket, socket.socket]:
    """A TCP connection through the tunnel: (the listener's end, the dialler's end)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = listener.call(lambda: socket.create_server((address, 0), family=family))
    with server:
        port = server.getsockname()[1]
        deadline = time.monotonic() + within
        while True:
            try:
                near = dialler.call(lambda: socket.create_connection((address, port), timeout=2.0))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        server.settimeout(within)
        far, _ = server.accept()
    near.settimeout(STALL)
    far.settimeout(STALL)
    return far, near


@dataclass
class Outcome:
    """What one direction came to."""

    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    longest_pause: float = 0.0
    error: str = ""
    sent_digest: str = ""
    received_digest: str = ""

    def check(self) -> None:
        """Fail unless everything arrived as it was sent."""
        assert not self.error, self.error
        assert self.received == self.sent, f"{self.received} of {self.sent} bytes arrived"
        assert self.received_digest == self.sent_digest, "the checksum differs"


def _send(sock: socket.socket, data: Iterator[bytes], outcome: Outcome) -> None:
    digest = hashlib.sha256()
    try:
        for block in data:
            sock.sendall(block)
            digest.update(block)
            outcome.sent += len(block)
        sock.shutdown(socket.SHUT_WR)
    except OSError as error:
        outcome.error = outcome.error or f"sending stopped after {outcome.sent} bytes: {error}"
    outcome.sent_digest = digest.hexdigest()


def _receive(sock: socket.socket, outcome: Outcome) -> None:
    digest = hashlib.sha256()
    start = last = time.monotonic()
    try:
        while data := sock.recv(256 * 1024):
            now = time.monotonic()
            outcome.longest_pause, last = max(outcome.longest_pause, now - last), now
            digest.update(data)
            outcome.received += len(data)
    except OSError as error:
        outcome.error = outcome.error or f"receiving stopped after {outcome.received} bytes: {error}"
    outcome.seconds = time.monotonic() - start
    outcome.received_digest = digest.hexdigest()


def _in_threads(*jobs: Callable[[], None]) -> None:
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def transfer(sender: socket.socket, receiver: socket.socket, size: int) -> Outcome:
    """Send `size` bytes one way; closes the direction."""
    outcome = Outcome()
    _in_threads(lambda: _send(sender, blocks(size), outcome), lambda: _receive(receiver, outcome))
    return outcome


def _unpaced(enough: threading.Event) -> Iterator[bytes]:
    """Blocks as fast as they are taken, until it is `enough`."""
    for block in blocks(sys.maxsize):
        if enough.is_set():
            return
        yield block


def load(
    one: socket.socket, other: socket.socket, seconds: float, longest: float, done: Callable[[], bool]
) -> tuple[Outcome, Outcome]:
    """Both directions of one connection at once, as fast as they go: (one to other, other to one).

    For `seconds`, and until what is waited for is `done`, up to `longest` seconds.
    """
    there, back, enough = Outcome(), Outcome(), threading.Event()

    def watch() -> None:
        begin = time.monotonic()
        try:
            while (now := time.monotonic() - begin) < longest and (now < seconds or not done()):
                time.sleep(0.2)
        finally:
            enough.set()

    _in_threads(
        watch,
        lambda: _send(one, _unpaced(enough), there), lambda: _receive(other, there),
        lambda: _send(other, _unpaced(enough), back), lambda: _receive(one, back),
    )  # fmt: skip
    return there, back

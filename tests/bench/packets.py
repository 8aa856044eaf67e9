# SPDX-License-Identifier: BSD-2-Clause
"""Sends small datagrams as fast as it can, or counts those that arrive: `python -m tests.bench.packets flood|count`."""

from __future__ import annotations

import socket
import sys
import time

PORT = 9
SIZE = 200


def flood(address: str, seconds: float) -> None:
    """Send for `seconds`."""
    payload = bytes(SIZE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(32):
                try:
                    sock.send(payload)
                except OSError:
                    time.sleep(0.0005)  # the queue is full, or nobody listens yet


def count(address: str, seconds: float) -> float:
    """Datagrams a second that arrive, from the first one on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((address, PORT))
        sock.settimeout(10.0)
        sock.recv(SIZE)
        sock.settimeout(0.2)
        number, begin = 0, time.monotonic()
        while time.monotonic() < begin + seconds:
            try:
                sock.recv(SIZE)
                number += 1
            except TimeoutError:
                continue
        return number / (time.monotonic() - begin)


def main() -> None:
    """The two halves, as processes of their own so that they share no interpreter lock."""
    what, address, seconds = sys.argv[1:]
    if what == "flood":
        flood(address, float(seconds))
    else:
        print(count(address, float(seconds)))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-2-Clause
"""One TCP connection that is full both ways: ``bulk.py ADDRESS`` sends to the echo server as fast as that takes it.

Prints "ready" when the first of it is back, and ends with its standard input: then it waits for all that it sent, and
prints as JSON how many bytes were sent, how many came back and whether they were the same, and the longest time in
which nothing came, in seconds. A connection that ends before is an error.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
import threading
import time

BLOCK = random.Random(7).randbytes(64 * 1024)
STALL = 30.0


def main() -> None:
    """Send, receive, compare."""
    sent, came = hashlib.sha256(), hashlib.sha256()
    sizes, longest = [0, 0], 0.0
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            block = sizes[0].to_bytes(8, "big") + BLOCK
            connection.sendall(block)
            sent.update(block)
            sizes[0] += len(block)
        connection.shutdown(socket.SHUT_WR)

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    with socket.create_connection((sys.argv[1], 7)) as connection:
        connection.settimeout(STALL)
        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        threading.Thread(target=wait_for_the_end, daemon=True).start()
        last = time.monotonic()
        while data := connection.recv(1 << 18):
            now = time.monotonic()
            if not sizes[1]:
                print("ready", flush=True)
            longest, last = max(longest, now - last), now
            came.update(data)
            sizes[1] += len(data)
        sender.join()
    print(json.dumps({"sent": sizes[0], "came": sizes[1], "same": sent.digest() == came.digest(), "longest": longest}))


if __name__ == "__main__":
    main()

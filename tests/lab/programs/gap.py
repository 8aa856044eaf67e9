# SPDX-License-Identifier: BSD-2-Clause
"""A steady stream of datagrams, and what comes back: ``gap.py ADDRESS SECONDS``

Sends one every five milliseconds to the echo server and prints, when the time is over or the server sees another
address, the times without an answer that were longer than a tenth of a second, as JSON: [[seconds, address seen before,
address seen after], ...].
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time

EVERY = 0.005
NOTABLE = 0.1


def main() -> None:
    """Send and listen."""
    deadline = time.monotonic() + float(sys.argv[2])
    last, seen, gaps = time.monotonic(), "", []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(EVERY)
        print("ready", flush=True)
        while (now := time.monotonic()) < deadline:
            address = ""
            with contextlib.suppress(OSError):  # no answer yet, or an ICMP error: closed
                sock.sendto(b"gap", (sys.argv[1], 7))
                address = sock.recv(100).split(b" ")[0].decode()
            time.sleep(max(0.0, now + EVERY - time.monotonic()))
            if not address:
                continue
            now = time.monotonic()
            if seen and (now - last > NOTABLE or address != seen):
                gaps.append([round(now - last, 3), seen, address])
                if address != seen:
                    break
            last, seen = now, address
    print(json.dumps(gaps))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-2-Clause
"""A UDP server that answers with the sender's address and what was sent: ``echo.py ADDRESS...`` (port 7)."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys


def main() -> None:
    """Answer for ever."""
    selector = selectors.DefaultSelector()
    for address in sys.argv[1:]:
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((address, 7))
        selector.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _events in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            with contextlib.suppress(OSError):
                data, peer = sock.recvfrom(65536)
                sock.sendto(peer[0].encode() + b" " + data, peer)


if __name__ == "__main__":
    main()

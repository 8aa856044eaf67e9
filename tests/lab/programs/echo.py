# SPDX-License-Identifier: BSD-2-Clause
"""Sends back what comes: ``echo.py ADDRESS...`` (port 7); by UDP with the sender's address in front."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading


def streams(listener: socket.socket) -> None:
    """A thread for each connection."""
    while True:
        connection, _peer = listener.accept()
        threading.Thread(target=reflect, args=(connection,), daemon=True).start()


def reflect(connection: socket.socket) -> None:
    """Until its end."""
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(1 << 18):
            connection.sendall(data)


def main() -> None:
    """Answer for ever."""
    selector = selectors.DefaultSelector()
    for address in sys.argv[1:]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        stream = socket.create_server((address, 7), family=family)
        threading.Thread(target=streams, args=(stream,), daemon=True).start()
        listener = socket.socket(family, socket.SOCK_DGRAM)
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

# SPDX-License-Identifier: BSD-2-Clause
"""A web server that answers with the client's address as it saw it: ``web.py ADDRESS[:PORT]...``

GET /        "hello, you are 192.0.2.10"
GET /stream  the same line ten times a second until the client goes away (a flow that lives long)
GET /big     a megabyte
POST /       the length of what was sent
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BIG = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """Answers GET and says nothing on standard error."""

    def do_GET(self) -> None:
        """One line, or a stream of it."""
        line = f"hello, you are {self.client_address[0].removeprefix('::ffff:')}\n".encode()
        if self.path == "/big":
            line = bytes(BIG)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        if self.path != "/stream":
            self.send_header("Content-Length", str(len(line)))
        self.end_headers()
        try:
            self.wfile.write(line)
            while self.path == "/stream":
                self.wfile.write(line)
                time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def do_POST(self) -> None:
        """Read all of it."""
        left = size = int(self.headers["Content-Length"])
        while left > 0 and (piece := self.rfile.read(min(left, 65536))):
            left -= len(piece)
        line = f"{size - left}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(line)))
        self.end_headers()
        self.wfile.write(line)

    def log_message(self, *_arguments: object) -> None:
        """Stay quiet."""


class Server(ThreadingHTTPServer):
    """Listens on one address of either family."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, 80), Handler)

    def server_bind(self) -> None:
        """Bind without looking up the host's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)

    def handle_error(self, *_arguments: object) -> None:
        """Clients that vanish are what this lab is about."""


def main() -> None:
    """Serve on every address of the command line."""
    servers = [Server(address) for address in sys.argv[1:]]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

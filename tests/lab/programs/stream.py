# SPDX-License-Identifier: BSD-2-Clause
"""One long download: ``stream.py ADDRESS`` asks the web server for its endless page and prints every line that comes.

It sends nothing after the request, so that only what comes in can keep the flow alive; it ends with the connection.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Print until the connection ends."""
    with socket.create_connection((sys.argv[1], 80)) as connection:
        connection.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        for line in connection.makefile("rb"):
            print(line.decode().strip(), flush=True)


if __name__ == "__main__":
    main()

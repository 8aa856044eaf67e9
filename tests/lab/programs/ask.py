# SPDX-License-Identifier: BSD-2-Clause
"""What a person does in an AppVM, one thing per call; prints the answer, exits 1 with the reason when there is none.

ask.py fetch HOST         GET / and print the page; names are looked up with the qube's /etc/resolv.conf
ask.py big HOST           GET a megabyte, POST another, print how many bytes came each way
ask.py name HOST          print the IPv4 address that the qube's resolver gives
ask.py resolver [ADDRESS] print which resolver answers, at ADDRESS or the first of /etc/resolv.conf
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

TIMEOUT = 2.0


def fetch(host: str) -> str:
    """The page at http://HOST/."""
    with socket.create_connection((host, 80), timeout=TIMEOUT) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise OSError(f"the web server says {head[:60]!r}")
    return body.decode().strip()


def big(host: str) -> str:
    """Bytes down and up."""
    size, lengths = 1 << 20, []
    post = b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    for request in (b"GET /big HTTP/1.0\r\n\r\n", post):
        with socket.create_connection((host, 80), timeout=2 * TIMEOUT) as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
            lengths.append(answer.partition(b"\r\n\r\n")[2])
    return f"{len(lengths[0])} {int(lengths[1])}"


def name(host: str) -> str:
    """The first IPv4 address of HOST."""
    return str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])


def resolver(address: str = "") -> str:
    """The text that resolvers of this lab give for ``resolver.lab``."""
    if not address:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
        address = next(line.split()[1] for line in lines if line.startswith("nameserver"))
    identifier = os.urandom(2)
    header = identifier + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)
    query = header + b"\x08resolver\x03lab\x00" + struct.pack("!HH", 16, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect((address, 53))
        sock.send(query)
        answer = sock.recv(512)
    if answer[:2] != identifier or answer[6:8] != b"\x00\x01":
        raise OSError("no answer to this question")
    text = answer[len(query) + 12 :]
    return text[1 : 1 + text[0]].decode()


def main() -> None:
    """Do what the command line says."""
    actions: dict[str, Callable[..., str]] = {"fetch": fetch, "big": big, "name": name, "resolver": resolver}
    action = actions[sys.argv[1]]
    try:
        print(action(*sys.argv[2:]))
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

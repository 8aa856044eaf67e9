# SPDX-License-Identifier: BSD-2-Clause
"""What a person does in an AppVM, one thing per call; prints the answer, exits 1 with the reason when there is none.

ask.py fetch HOST           GET / and print the page; names are looked up with the qube's /etc/resolv.conf
ask.py big HOST             GET a megabyte, POST another, print how many bytes came each way
ask.py name HOST            print the IPv4 address that the qube's resolver gives
ask.py resolver [ADDRESS [tcp]]  print which resolver answers, at ADDRESS or the first of /etc/resolv.conf
ask.py connect HOST TIMES   connect to port 80 so often; print how the attempts ended, and the seconds they took
ask.py multicast DEVICE     send a datagram to groups of either family by DEVICE; print how many were taken
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

TIMEOUT = 2.0
OWN_MARK = b"sys-vpn-itself"  # as noise.py's


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


def connect(host: str, times: str) -> str:
    """How connections end, and how long it takes."""
    begin, ends = time.monotonic(), Counter[str]()
    for _ in range(int(times)):
        try:
            socket.create_connection((host, 80), timeout=TIMEOUT).close()
            ends["connected"] += 1
        except OSError as error:
            ends[type(error).__name__] += 1
    return json.dumps([ends, time.monotonic() - begin])


def multicast(device: str) -> str:
    """How many of the datagrams the kernel took."""
    taken = 0
    for family, groups in (
        (socket.AF_INET, ("224.0.0.251", "239.255.255.250")),
        (socket.AF_INET6, (f"ff02::fb%{device}", f"ff02::1%{device}", f"ff05::2%{device}")),
    ):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
            for group in groups:
                try:
                    taken += sock.sendto(OWN_MARK, socket.getaddrinfo(group, 5353, family)[0][4]) > 0
                except OSError:
                    continue
    return str(taken)


def resolver(address: str = "", transport: str = "udp") -> str:
    """The text that resolvers of this lab give for ``resolver.lab``."""
    if not address:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
        address = next(line.split()[1] for line in lines if line.startswith("nameserver"))
    identifier = os.urandom(2)
    header = identifier + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)
    query = header + b"\x08resolver\x03lab\x00" + struct.pack("!HH", 16, 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect((address, 53))
        sock.send(struct.pack("!H", len(query)) + query if transport == "tcp" else query)
        answer = sock.recv(512)[2 if transport == "tcp" else 0 :]
    if answer[:2] != identifier or answer[6:8] != b"\x00\x01":
        raise OSError("no answer to this question")
    text = answer[len(query) + 12 :]
    return text[1 : 1 + text[0]].decode()


def main() -> None:
    """Do what the command line says."""
    actions: dict[str, Callable[..., str]] = {"fetch": fetch, "big": big, "name": name, "resolver": resolver}
    actions |= {"connect": connect, "multicast": multicast}
    action = actions[sys.argv[1]]
    try:
        print(action(*sys.argv[2:]))
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-2-Clause
"""A DNS server that says who it is: ``dns.py NAME LISTEN-ADDRESS[,ADDRESS...] [HOST=ADDRESS...]``

Answers A and AAAA for the hosts given, and TXT for ``resolver.lab`` with its own name; NXDOMAIN for anything else. UDP
and TCP, port 53. The address need not exist yet (a resolver inside a tunnel that is still down).
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys

A, TXT, AAAA, IN = 1, 16, 28, 1
IP_FREEBIND = 15


class Zone:
    """What this server knows."""

    def __init__(self, name: str, hosts: list[str]) -> None:
        self.records: dict[tuple[str, int], list[bytes]] = {}
        self.names = {"resolver.lab"}
        self.records[("resolver.lab", TXT)] = [bytes([len(name)]) + name.encode()]
        for entry in hosts:
            host, address = entry.split("=")
            family, kind = (socket.AF_INET6, AAAA) if ":" in address else (socket.AF_INET, A)
            self.records.setdefault((host, kind), []).append(socket.inet_pton(family, address))
            self.names.add(host)

    def answer(self, query: bytes) -> bytes:
        """The response to a query; raises ValueError or struct.error when it is none."""
        identifier, flags, count = struct.unpack_from("!HHH", query)
        if flags & 0x8000 or count != 1:
            raise ValueError("not a single question")
        labels, position = [], 12
        while length := query[position]:
            if length > 63:
                raise ValueError("a compressed question")
            labels.append(query[position + 1 : position + 1 + length].decode("ascii").lower())
            position += 1 + length
        kind, _class = struct.unpack_from("!HH", query, position + 1)
        name = ".".join(labels)
        found = self.records.get((name, kind), [])
        code = 0 if name in self.names else 3
        header = struct.pack("!HHHHHH", identifier, 0x8580 | code, 1, len(found), 0, 0)
        records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, IN, 1, len(data)) + data for data in found)
        return header + query[12 : position + 5] + records


def _listen(kind: int, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    sock.bind((address, 53))
    if kind == socket.SOCK_STREAM:
        sock.listen(32)
    return sock


def _serve_stream(zone: Zone, listener: socket.socket) -> None:
    connection, _peer = listener.accept()
    with connection:
        connection.settimeout(1)
        data = connection.recv(4096)
        answer = zone.answer(data[2:])
        connection.sendall(struct.pack("!H", len(answer)) + answer)


def main() -> None:
    """Answer for ever."""
    name, addresses, *hosts = sys.argv[1:]
    zone = Zone(name, hosts)
    selector = selectors.DefaultSelector()
    for address in addresses.split(","):
        selector.register(_listen(socket.SOCK_DGRAM, address), selectors.EVENT_READ, "udp")
        selector.register(_listen(socket.SOCK_STREAM, address), selectors.EVENT_READ, "tcp")
    print("ready", flush=True)
    while True:
        for key, _events in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if key.data == "tcp":
                    _serve_stream(zone, sock)
                else:
                    query, peer = sock.recvfrom(4096)
                    sock.sendto(zone.answer(query), peer)
            except (OSError, ValueError, IndexError, struct.error):
                continue  # a bad query gets no answer


if __name__ == "__main__":
    main()

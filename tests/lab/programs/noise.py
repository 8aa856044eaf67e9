# SPDX-License-Identifier: BSD-2-Clause
"""A qube that never stops sending, by every way it has: ``noise.py TARGETS-AS-JSON [own]``

Every 40 ms a round of: TCP connections, UDP, ICMP echo, DNS to the virtual resolvers and to a foreign one, DNS over
TLS's port, all over IPv4; the same over IPv6; UDP large enough for fragments; multicast and broadcast; UDP to the VPN
server's public address (the tunnel's own transport), to the netvm of sys-vpn and to a network on another link of
sys-vpn's; and packets whose source is not ours. One TCP stream and one UDP flow stay the same all the time, so that
there are flows older than whatever happens. Four times a second it prints a JSON object: how many packets it tried to
send and how many answers came by each way. Payloads carry `MARK`, so that a capture can tell them anywhere; with "own"
(in sys-vpn itself) they carry `OWN_MARK`, but for questions to the providers' resolvers: they may go into the tunnel
where names in rules are looked up.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import struct
import sys
import time
from collections import Counter

MARK = b"qube-in-clear!"
OWN_MARK = b"sys-vpn-itself"
QUESTION = b"root-looks-up!"
ROUND = 0.04

Target = tuple[str, int]


def _icmp(kind: int, number: int, mark: bytes) -> bytes:
    body = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF) + mark
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total >> 16) + (total & 0xFFFF)
    return body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]


def _query(number: int, mark: bytes) -> bytes:
    header = struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0)
    return header + bytes([len(mark)]) + mark + b"\x03lab\x00" + struct.pack("!HH", 1, 1)


def _is_answer(label: str, data: bytes) -> bool:
    """False for ICMP errors, which raw sockets hand up too: an echo reply is type 0 behind the IP header, or 129."""
    if label == "icmp4":
        return data[20:21] == b"\0"
    return label != "icmp6" or data[:1] == b"\x81"


class Noise:
    """The sender; every socket is non-blocking and an error is an answer like any other."""

    def __init__(self, targets: dict[str, str], mark: bytes) -> None:
        self.targets = targets
        self.mark = mark
        self.selector = selectors.DefaultSelector()
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.udp = {family: self._open(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)}
        self.udp[socket.AF_INET].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self.icmp4 = self._open(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, "icmp4")
        self.icmp6 = self._open(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6, "icmp6")
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.connections: dict[socket.socket, float] = {}
        self.stream: socket.socket | None = None

    def _open(self, family: int, kind: int, proto: int = 0, name: str = "") -> socket.socket:
        sock = socket.socket(family, kind, proto)
        sock.setblocking(False)
        self.selector.register(sock, selectors.EVENT_READ, name)
        return sock

    def _to(self, name: str, sock: socket.socket, payload: bytes, address: str, port: int) -> None:
        self.sent[name] += 1
        with contextlib.suppress(OSError):
            sock.sendto(payload, (address, port))

    def _connect(self, name: str, address: str, port: int) -> socket.socket | None:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        self.sent[name] += 1
        if sock.connect_ex((address, port)) not in (0, errno.EINPROGRESS):
            sock.close()
            return None
        self.selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, name)
        self.connections[sock] = time.monotonic()
        return sock

    def round(self, number: int) -> None:
        """Send everything once; what costs more than a datagram, every tenth time."""
        web4, web6 = self.targets["web4"], self.targets["web6"]
        udp4, udp6 = self.udp[socket.AF_INET], self.udp[socket.AF_INET6]
        self._to("udp4", udp4, b"udp4 " + self.mark, web4, 7)
        self._to("udp6", udp6, b"udp6 " + self.mark, web6, 7)
        self._to("icmp4", self.icmp4, _icmp(8, number, self.mark), web4, 0)
        self._to("icmp6", self.icmp6, _icmp(128, number, self.mark), web6, 0)
        self._to("server", udp4, b"serv " + self.mark, self.targets["server"], 1194)
        self._to("link", udp4, b"link " + self.mark, self.targets["netvm4"], 7)
        self._to("link", udp6, b"link " + self.mark, self.targets["netvm6"], 7)
        self._to("link", udp4, b"link " + self.mark, self.targets["lan"], 7)
        for resolver in ("dns1", "dns2", "foreign"):
            self._to("dns", udp4, _query(number, self.mark), self.targets[resolver], 53)
        if self.mark == OWN_MARK:
            for resolver in ("inside a", "inside b"):
                self._to("question", udp4, _query(number, QUESTION), self.targets[resolver], 53)
        if number % 10 == 0:
            self._to("fragment", udp4, b"frag " + self.mark * 300, web4, 7)
            self._to("multicast", udp4, self.mark, "224.0.0.251", 5353)
            if self.mark == MARK:  # of a neighbour's own on its link, nothing is forwarded
                self._to("multicast", udp6, self.mark, "ff05::2%eth0", 5353)
            self._to("broadcast", udp4, self.mark, "255.255.255.255", 67)
            self._spoof(web4)
            for name, address, port in (
                ("tcp4", web4, 80),
                ("tcp6", web6, 80),
                ("dns-tcp", self.targets["foreign"], 53),
                ("dot", self.targets["foreign"], 853),
                ("gateway", self.targets["gateway"], 53),
            ):
                self._connect(name, address, port)
        if self.stream is None:
            self.stream = self._connect("stream", web4, 80)

    def _spoof(self, target: str) -> None:
        payload = struct.pack("!HHHH", 4444, 7, 8 + len(self.mark), 0) + self.mark
        source, destination = socket.inet_aton("10.137.0.99"), socket.inet_aton(target)
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0, source, destination)
        self._to("spoof", self.raw, header + payload, target, 0)

    def listen(self, until: float) -> None:
        """Take answers until the next round."""
        while (left := until - time.monotonic()) > 0:
            for key, events in self.selector.select(left):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock in self.connections:
                    self._connection(sock, key.data, events)
                    continue
                with contextlib.suppress(OSError):
                    data = sock.recv(65536)
                    label = key.data or (data.split(b" ")[1].decode() if b"udp" in data[:48] else "dns")
                    self.answers[label] += _is_answer(label, data)

    def _connection(self, sock: socket.socket, name: str, events: int) -> None:
        failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        if failed or sock is not self.stream:
            self.answers[name] += not failed
            self._drop(sock)
        elif events & selectors.EVENT_WRITE:
            self.selector.modify(sock, selectors.EVENT_READ, name)
            with contextlib.suppress(OSError):
                sock.send(b"GET /stream HTTP/1.0\r\nX-Mark: " + self.mark + b"\r\n\r\n")
        else:
            with contextlib.suppress(OSError):
                self.answers[name] += bool(sock.recv(65536))

    def _drop(self, sock: socket.socket) -> None:
        self.selector.unregister(sock)
        del self.connections[sock]
        sock.close()
        if sock is self.stream:
            self.stream = None

    def sweep(self, now: float) -> None:
        """Give up connections that nobody answers; the stream stays as long as it lives."""
        for sock, since in list(self.connections.items()):
            if sock is not self.stream and now - since > 1.5:
                self._drop(sock)


def main() -> None:
    """Send until killed."""
    noise = Noise(json.loads(sys.argv[1]), OWN_MARK if sys.argv[2:] == ["own"] else MARK)
    number, shown = 0, 0.0
    while True:
        begin = time.monotonic()
        noise.round(number)
        noise.listen(begin + ROUND)
        number += 1
        if begin - shown >= 0.25:
            shown = begin
            noise.sweep(begin)
            print(json.dumps({"sent": noise.sent, "answers": noise.answers}), flush=True)


if __name__ == "__main__":
    main()

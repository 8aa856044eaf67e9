# SPDX-License-Identifier: BSD-2-Clause
"""Packet capture on both ends of sys-vpn's uplink: eth0 in sys-vpn, vif6.0 in sys-net.

And on whatever else leads out of sys-vpn: a network card given to it, where nothing may be seen, and the tunnel, where
nothing of sys-vpn's own may be.

AF_PACKET sockets that are bound to no interface, so that they see eth0 also after it was taken away and came back,
without a moment in between. A capture that lost packets proves nothing: `result` raises when the kernel dropped any.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType

from tests.lab.network import Lab
from tests.lab.packets import TCP, UDP, Allowed, Kind, describe, label, target
from tests.lab.packets import Address as Address46
from tests.lab.places import (
    NET4,
    NET_DOMID,
    NIC,
    OTHER_NET_DOMID,
    PROVIDER_NAMES,
    SITE_A,
    SITE_B,
    SITE_C,
    UPLINK,
    VPN_DOMID,
    Address,
)
from tests.lab.programs.noise import MARK, OWN_MARK
from tests.lab.tables import VIRTUAL_DNS

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
TRANSPORTS = ((UDP, SITE_A, 1194), (TCP, SITE_B, 443), (UDP, SITE_C, 1194))
"""Where the two providers listen."""


def allowed() -> Allowed:
    """What this lab's uplink may carry."""
    here = Address.of(VPN_DOMID)
    ends = (here, Address.of(NET_DOMID), Address.of(OTHER_NET_DOMID))
    return Allowed(
        ours=frozenset({IPv4Address(here.ip4), IPv6Address(here.ip6)}),
        links=frozenset({IPv4Address(a.ip4) for a in ends} | {IPv6Address(a.ip6) for a in ends}),
        transports=frozenset((protocol, IPv4Address(site.public4), port) for protocol, site, port in TRANSPORTS),
        names=frozenset(PROVIDER_NAMES),
        resolvers=frozenset(IPv4Address(dns) for dns in VIRTUAL_DNS),
        marks=(MARK, OWN_MARK),
        rewritten=frozenset({IPv4Address(NET4)}),
    )


@dataclass
class Seen:
    """What a capture saw; `clear` describes the first clear packets.

    `clear_kinds` counts them by protocol, `marks` by sender, `clear_targets` by destination (of ARP: the one asked for;
    None for what is not understood).
    """

    counts: Counter[Kind] = field(default_factory=Counter)
    clear: list[str] = field(default_factory=list)
    clear_kinds: Counter[str] = field(default_factory=Counter)
    marks: Counter[bytes] = field(default_factory=Counter)
    clear_targets: Counter[Address46 | None] = field(default_factory=Counter)

    @property
    def leaks(self) -> int:
        """How many packets were seen that nobody may see."""
        return self.counts[Kind.CLEAR]


class Capture:
    """Counts from `__enter__` on; `result` may be read at any time."""

    DESCRIBED = 2000  # clear packets with a line of their own
    BUFFER = 16 << 20  # bytes the kernel may keep while Python is busy: seconds of the lab's traffic

    def __init__(self, lab: Lab) -> None:
        self.allowed = allowed()
        self.points = [(lab.vpn, frozenset({UPLINK, NIC, "vpn0"})), (lab.net, frozenset({f"vif{VPN_DOMID}.0"}))]
        self.seen = Seen()
        self.begin = time.monotonic()
        self._lost = 0
        self._sockets: dict[socket.socket, frozenset[str]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Capture:
        for qube, interfaces in self.points:
            sock = qube.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, self.BUFFER)
            sock.setblocking(False)
            self._sockets[sock] = interfaces
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def result(self) -> Seen:
        """What was seen so far, everything that is in the kernel's buffer included."""
        with self._lock:
            for sock in self._sockets:
                self._empty(sock)
                self._lost += struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
            if self._lost:
                raise AssertionError(f"the capture lost {self._lost} packets: it proves nothing")
            seen = self.seen
            return Seen(
                Counter(seen.counts),
                list(seen.clear),
                Counter(seen.clear_kinds),
                Counter(seen.marks),
                Counter(seen.clear_targets),
            )

    def forget(self) -> None:
        """Count from now on."""
        self.result()
        with self._lock:
            self.seen = Seen()

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in self._sockets:
                selector.register(sock, selectors.EVENT_READ)
            while not self._stop.is_set():
                ready = selector.select(0.1)
                with self._lock:
                    for key, _events in ready:
                        assert isinstance(key.fileobj, socket.socket)
                        self._empty(key.fileobj)

    def _empty(self, sock: socket.socket) -> None:
        interfaces = self._sockets[sock]
        while True:
            try:
                frame, address = sock.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:
                continue  # "network is down": eth0 was taken away; the next one is seen by the same socket
            if address[0] in interfaces:
                self._count(address[0], frame)

    def _count(self, interface: str, frame: bytes) -> None:
        if interface.startswith("vpn"):
            if OWN_MARK not in frame:
                return
            kind = Kind.CLEAR
        else:
            kind = self.allowed.kind(frame)
        self.seen.counts[kind] += 1
        if kind is Kind.CLEAR:
            self.seen.clear_kinds[label(frame)] += 1
            self.seen.clear_targets[target(frame)] += 1
            self.seen.marks.update(mark for mark in self.allowed.marks if mark in frame)
            if len(self.seen.clear) < self.DESCRIBED:
                self.seen.clear.append(f"{time.monotonic() - self.begin:7.3f} s {interface}: {describe(frame)}")

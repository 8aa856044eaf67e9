# SPDX-License-Identifier: BSD-2-Clause
"""The sockets of a data plane: datagrams and framed streams behind one small interface.

A link takes a batch of packets and returns a batch of packets; it never blocks and never waits. What the network does
to a UDP socket (ICMP errors, full buffers, a vanished route) costs packets, never the link; a TCP link ends with its
stream.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.dataplane.framing import LENGTH_SIZE, FrameReader, frame
from qubes_miragevpn.dataplane.interface import SockAddr

BATCH = 64  # packets handled for one readiness of a descriptor, before the others have their turn
MAX_DATAGRAM = 16384  # as `framing.MAX_FRAME`; what is longer is cut and fails authentication
STREAM_READ = 65536
MAX_BACKLOG = 256 * 1024  # bytes that wait for a full TCP socket: a batch of data in the making, and control packets

Received = tuple[bytes, SockAddr | None]
"""A packet and its sender, None if the socket is connected to the only one there is."""

Addressed = tuple[SockAddr, bytes]


class LinkBroken(Exception):
    """The link is of no more use; the message says why."""


class TransportLink(Protocol):
    """One transport of the pump."""

    sock: socket.socket
    remote: SockAddr | None

    def receive(self) -> Sequence[Received]:
        """Return what has arrived, at most about a batch. Raises `LinkBroken`."""

    def send(self, packets: Sequence[Addressed]) -> int:
        """Send data packets; those that the socket does not take are lost; return how many. Raises `LinkBroken`."""

    def send_control(self, endpoint: SockAddr, packet: bytes) -> None:
        """Send a control packet, keeping it if the link can. Raises `LinkBroken`."""

    def blocked(self) -> bool:
        """True while the socket takes nothing more: call `flush` when it is writable."""

    def flush(self) -> None:
        """The socket is writable: send what waits. Raises `LinkBroken`."""


class UdpLink:
    """A UDP socket; `remote` None: unconnected, every packet has an address."""

    def __init__(self, sock: socket.socket, remote: SockAddr | None) -> None:
        self.sock = sock
        self.remote = remote
        self._full = False

    def receive(self) -> Sequence[Received]:
        """Read datagrams; an ICMP error that was waiting at the socket is read like one, and ignored."""
        packets: list[Received] = []
        read, read_from = self.sock.recv, self.sock.recvfrom
        for _ in range(BATCH):
            try:
                packets.append(read_from(MAX_DATAGRAM) if self.remote is None else (read(MAX_DATAGRAM), None))
            except BlockingIOError:
                break
            except OSError as error:
                _fail_if_closed(error)
        return packets

    def send(self, packets: Sequence[Addressed]) -> int:
        """Send each of `packets`; a full socket loses the rest of them."""
        if self.remote is None:
            return sum(not self._send_one(endpoint, packet) for endpoint, packet in packets)
        send, done = self.sock.send, 0
        lost = 0
        for done, (_, packet) in enumerate(packets, 1):
            try:
                send(packet)
            except BlockingIOError:
                self._full = True
                return lost + len(packets) - done + 1
            except OSError as error:
                _fail_if_closed(error)
                lost += 1
        return lost

    def send_control(self, endpoint: SockAddr, packet: bytes) -> None:
        """Send `packet` or lose it: the control channel repeats what is not acknowledged."""
        self._send_one(endpoint, packet)

    def _send_one(self, endpoint: SockAddr, packet: bytes) -> bool:
        try:
            if self.remote is None:
                self.sock.sendto(packet, endpoint)
            else:
                self.sock.send(packet)
        except BlockingIOError:
            self._full = True
            return False
        except OSError as error:
            _fail_if_closed(error)
            return False
        return True

    def blocked(self) -> bool:
        """True from a refused packet to the next time that the socket is writable."""
        return self._full

    def flush(self) -> None:
        """Nothing waits here."""
        self._full = False


class TcpLink:
    """A connected TCP socket with OpenVPN's framing."""

    def __init__(self, sock: socket.socket, remote: SockAddr | None) -> None:
        self.sock = sock
        self.remote = remote
        self._reader = FrameReader()
        self._backlog = bytearray()
        with contextlib.suppress(OSError):
            # Batches are joined into large writes already; waiting for more would only delay small packets.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> Sequence[Received]:
        """Read what is there, once, and cut it into packets."""
        try:
            chunk = self.sock.recv(STREAM_READ)
        except BlockingIOError:
            return ()
        except OSError as error:
            raise LinkBroken(_reason(error)) from None
        if not chunk:
            raise LinkBroken("the peer closed the connection")
        try:
            return [(packet, None) for packet in self._reader.feed(chunk)]
        except PeerError as error:
            raise LinkBroken(error.reason) from None

    def send(self, packets: Sequence[Addressed]) -> int:
        """Send `packets` in one write; while earlier ones wait, these are lost."""
        if self._backlog:
            return len(packets)
        parts = []
        for _, packet in packets:
            parts.append(len(packet).to_bytes(LENGTH_SIZE, "big"))
            parts.append(packet)
        self._write(b"".join(parts))
        return 0

    def send_control(self, endpoint: SockAddr, packet: bytes) -> None:
        """Send `packet` after what waits already; a peer that reads nothing for too long loses the link."""
        framed = frame(packet)
        if not self._backlog:
            self._write(framed)
        elif len(self._backlog) + len(framed) <= MAX_BACKLOG:
            self._backlog += framed
        else:
            raise LinkBroken("the peer does not read what is sent to it")

    def _write(self, data: bytes) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise LinkBroken(_reason(error)) from None
        if sent < len(data):
            self._backlog += memoryview(data)[sent:]

    def blocked(self) -> bool:
        """True while something waits."""
        return bool(self._backlog)

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        data = bytes(self._backlog)
        self._backlog.clear()
        self._write(data)


def open_link(sock: socket.socket, remote: SockAddr | None) -> TransportLink:
    """Return the link over `sock`, by its type."""
    sock.setblocking(False)
    if sock.type == socket.SOCK_STREAM:
        return TcpLink(sock, remote)
    return UdpLink(sock, remote)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "the socket failed"


def _fail_if_closed(error: OSError) -> None:
    """Raise `LinkBroken` if `error` says that there is no socket; whatever else happens to UDP passes."""
    if error.errno in (errno.EBADF, errno.ENOTSOCK):
        raise LinkBroken(_reason(error)) from None

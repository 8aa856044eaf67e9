# SPDX-License-Identifier: BSD-2-Clause
"""The sockets of a data plane: datagrams and framed streams behind one small interface.

A link takes a batch of packets and returns a batch of packets; it never blocks and never waits. What the network does
to a UDP socket (ICMP errors, full buffers, a vanished route) costs packets, never the link; a TCP link ends with its
stream.

A system call for every datagram costs more than encrypting it. UDP_SEGMENT and UDP_GRO (linux/udp.h) take and give many
datagrams of one length in one call; on the wire they are ordinary datagrams. Where the kernel or the network interface
cannot, packets go one by one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.dataplane.framing import LENGTH_SIZE, FrameReader, frame
from qubes_miragevpn.dataplane.interface import SockAddr

BATCH = 64  # packets handled for one readiness of a descriptor, before the others have their turn
MAX_DATAGRAM = 65535  # what one read may give: a datagram, or several of one length
STREAM_READ = 65536
MAX_BACKLOG = 256 * 1024  # bytes that wait for a full TCP socket: a batch of data in the making, and control packets

_UDP_SEGMENT = 103
_UDP_GRO = 104
_GRO_SPACE = socket.CMSG_SPACE(4)
_MAX_RUN = 64  # datagrams that the kernel takes in one call (UDP_MAX_SEGMENTS), of together
_MAX_RUN_BYTES = 65000  # at most so many bytes: they travel through the kernel as one IP packet
# The kernel does not know it; the interface has no checksum offload; a segment does not fit the path's MTU.
_CANNOT_SEGMENT = frozenset((errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EIO, errno.EINVAL))

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
        self._in_runs = True  # until the kernel says that it cannot
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)

    def receive(self) -> Sequence[Received]:
        """Read datagrams; an ICMP error that was waiting at the socket is read like one, and ignored."""
        packets: list[Received] = []
        read, connected = self.sock.recvmsg, self.remote is not None
        for _ in range(BATCH):
            try:
                data, ancillary, _, sender = read(MAX_DATAGRAM, _GRO_SPACE)
            except BlockingIOError:
                break
            except OSError as error:
                _fail_if_closed(error)
                continue
            if connected:
                sender = None
            if not ancillary:
                packets.append((data, sender))
                continue
            size = int.from_bytes(ancillary[0][2][:4], sys.byteorder)  # the only kind of message asked for
            packets += [(data[at : at + size], sender) for at in range(0, len(data), size)]
            if len(packets) >= BATCH:
                break
        return packets

    def send(self, packets: Sequence[Addressed]) -> int:
        """Send `packets`, those of one length together; a full socket loses the rest of them."""
        lost = 0
        for endpoint, run in _runs(packets):
            if self._full:
                lost += len(run)
            elif len(run) > 1 and self._in_runs:
                lost += self._send_run(endpoint, run)
            else:
                lost += sum(not self._send_one(endpoint, packet) for packet in run)
        return lost

    def _send_run(self, endpoint: SockAddr, run: list[bytes]) -> int:
        """Send `run`, of one length but for the last, in one call; return how many were lost."""
        segment = (socket.IPPROTO_UDP, _UDP_SEGMENT, len(run[0]).to_bytes(2, sys.byteorder))
        try:
            self.sock.sendmsg(run, (segment,), 0, endpoint if self.remote is None else None)
        except BlockingIOError:
            self._full = True
            return len(run)
        except OSError as error:
            _fail_if_closed(error)
            if error.errno in _CANNOT_SEGMENT:
                self._in_runs = False
            return sum(not self._send_one(endpoint, packet) for packet in run)
        return 0

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


class RelayedUdpLink(UdpLink):
    """A UDP socket to a relay: each datagram is preceded by where it is to go, and by where it comes from."""

    def __init__(self, sock: socket.socket, remote: SockAddr | None, header: bytes) -> None:
        super().__init__(sock, remote)
        self._header = header

    def receive(self) -> Sequence[Received]:
        """Read datagrams of the relay's that come from the server; others are dropped."""
        header, size = self._header, len(self._header)
        return [(data[size:], sender) for data, sender in super().receive() if data.startswith(header)]

    def send(self, packets: Sequence[Addressed]) -> int:
        """Send `packets`, each behind the header."""
        return super().send([(endpoint, self._header + packet) for endpoint, packet in packets])

    def send_control(self, endpoint: SockAddr, packet: bytes) -> None:
        """Send `packet` behind the header."""
        super().send_control(endpoint, self._header + packet)


def _runs(packets: Sequence[Addressed]) -> Iterator[tuple[SockAddr, list[bytes]]]:
    """Cut `packets` into runs for one endpoint and of one length, of which only the last packet may be shorter."""
    endpoint: SockAddr | None = None
    run: list[bytes] = []
    size = room = 0
    for target, packet in packets:
        length = len(packet)
        if run and target == endpoint and length <= size and length <= room and len(run) < _MAX_RUN:
            run.append(packet)
            room = room - length if length == size else 0  # a shorter one ends the run
            continue
        if run and endpoint is not None:
            yield endpoint, run
        endpoint, run, size, room = target, [packet], length, _MAX_RUN_BYTES - length
    if run and endpoint is not None:
        yield endpoint, run


class TcpLink:
    """A connected TCP socket with OpenVPN's framing."""

    def __init__(self, sock: socket.socket, remote: SockAddr | None) -> None:
        self.sock = sock
        self.remote = remote
        self._reader = FrameReader()
        self._backlog = bytearray()

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


def open_link(sock: socket.socket, remote: SockAddr | None, header: bytes = b"") -> TransportLink:
    """Return the link over `sock`, by its type; `header` is what a relay wants in front of datagrams."""
    sock.setblocking(False)
    if header:
        return RelayedUdpLink(sock, remote, header)
    if sock.type == socket.SOCK_STREAM:
        return TcpLink(sock, remote)
    return UdpLink(sock, remote)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "the socket failed"


def _fail_if_closed(error: OSError) -> None:
    """Raise `LinkBroken` if `error` says that there is no socket; whatever else happens to UDP passes."""
    if error.errno in (errno.EBADF, errno.ENOTSOCK):
        raise LinkBroken(_reason(error)) from None

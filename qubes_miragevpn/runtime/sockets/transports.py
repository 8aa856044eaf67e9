# SPDX-License-Identifier: BSD-2-Clause
"""The outer sockets: a client's connected one, a server's listening ones.

Every socket is non-blocking and carries its mark before its first packet: policy routing and firewall decide
by the mark, and a packet sent without it would be lost, or worse, go another way. `OSError` says that a remote
cannot be reached now; `SystemRefused` that this machine will not let us, whatever the remote.
Facts: socket(7), udp(7), tcp(7), ipv6(7).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.base.errors import ConfigError, SystemRefused
from qubes_miragevpn.config.model import ANYWHERE, Common, Family, Listen, Local, Proto
from qubes_miragevpn.dataplane.interface import SockAddr

_log = logging.getLogger("miragevpn.transport")

UDP_RCVBUF = 4 << 20  # bytes: 30 ms of a gigabit, a pause of the interpreter; the kernel's default is 5 % of it
UDP_SNDBUF = 1 << 20  # enough for a burst of 700 packets; more would only be queued delay
CONNECT_TIMEOUT = 120.0  # seconds; the protocol's own limit is usually shorter and closes the link first
BACKLOG = 128
ACCEPT_BURST = 32  # connections taken at once before other work has its turn
OUT_OF_FILES_PAUSE = 1.0  # seconds without accepting after EMFILE


@dataclass(frozen=True)
class SocketOptions:
    """What a socket is given before it is used; 0 and "" leave the default."""

    mark: int = 0
    sndbuf: int = 0
    rcvbuf: int = 0
    dev: str = ""

    @classmethod
    def of(cls, common: Common) -> SocketOptions:
        """Those that a configuration asks for."""
        return cls(mark=common.mark, sndbuf=common.sndbuf, rcvbuf=common.rcvbuf, dev=common.bind_dev)


async def open_client(
    proto: Proto,
    address: IPv4Address | IPv6Address,
    port: int,
    options: SocketOptions,
    *,
    local: Local = ANYWHERE,
    timeout: float = CONNECT_TIMEOUT,
    connected: bool = True,
) -> tuple[socket.socket, SockAddr]:
    """Open a socket connected to `address`:`port`, bound to `local`; return it with the remote's socket address.

    Without `connected` a UDP socket is not told its destination, and takes packets from everywhere.

    Raises OSError (TimeoutError included) if the remote cannot be reached, SystemRefused if we may not.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = _new_socket(family, proto, options)
    try:
        _bind_client(sock, address, local)
        remote: SockAddr = (str(address), port) if family == socket.AF_INET else (str(address), port, 0, 0)
        if proto is Proto.UDP:
            if connected:
                sock.connect(remote)  # only sets the destination: never waits
            elif local == ANYWHERE:
                sock.bind(("" if address.version == 4 else "::", 0))  # a socket without a port hears nothing
        else:
            await _connect(sock, remote, timeout)
    except BaseException:
        sock.close()
        raise
    return sock, remote


def abandon(sock: socket.socket) -> None:
    """Close a connection that leads nowhere at once, so that its port is free for the next."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def _connect(sock: socket.socket, remote: SockAddr, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, remote)
    except OSError as error:
        if not error.errno:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout:g} s") from None
        raise OSError(error.errno, os.strerror(error.errno)) from error  # asyncio's own text says less


def open_listener(listen: Listen, options: SocketOptions) -> socket.socket:
    """Open the server's socket, listening if it is TCP.

    `Family.ANY` without an address is one socket for both families where the machine has IPv6.
    Raises ConfigError or SystemRefused.
    """
    family, address = _where(listen)
    try:
        sock = _new_socket(family, listen.proto, options)
    except OSError as error:
        if family == socket.AF_INET6 and listen.family is Family.ANY and not listen.address:
            return open_listener(Listen("", listen.port, listen.proto, Family.IPV4), options)
        what = f"cannot listen on port {listen.port}/{listen.proto.value}: {error.strerror}"
        raise SystemRefused(what, "is this address family switched off?") from error
    try:
        if family == socket.AF_INET6:
            only = not (listen.family is Family.ANY and not listen.address)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        if listen.proto is Proto.TCP:
            # a restarted server must not wait for its old connections to be forgotten
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(sock, address, listen.port)
        if listen.proto is Proto.TCP:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


async def await_client(
    listen: Listen, options: SocketOptions, only: tuple[IPv4Address | IPv6Address, ...]
) -> tuple[socket.socket, SockAddr | None]:
    """Wait at `listen` for one connection, from one of the addresses `only` (() any); on UDP for nothing (None).

    Raises as `open_listener`, and OSError when the listening socket fails.
    """
    listener = open_listener(listen, options)
    if listen.proto is Proto.UDP:
        return listener, None
    loop = asyncio.get_running_loop()
    with listener:
        while True:
            sock, remote = await loop.sock_accept(listener)
            address = ip_address(remote[0].partition("%")[0])
            plain = getattr(address, "ipv4_mapped", None) or address
            if only and plain not in only:
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock, remote


def open_listeners(places: Sequence[Listen], options: SocketOptions) -> list[socket.socket]:
    """Open every socket of a server, in their order, or none. Raises as `open_listener`."""
    with contextlib.ExitStack() as undo:
        opened = [undo.enter_context(open_listener(place, options)) for place in places]
        undo.pop_all()
        return opened


def allow_files(wanted: int) -> int:
    """Let this process have so many files open, if it may; how many it may have (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


class Acceptor:
    """Takes TCP connections from listening sockets, `limit` of all at a time; gives each to `report`."""

    def __init__(
        self, listeners: Sequence[socket.socket], limit: int, report: Callable[[socket.socket, SockAddr], None]
    ) -> None:
        self._listeners = listeners
        self.limit = limit
        self._report = report
        self._open = 0
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._watch()

    def _watch(self) -> None:
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _look_away(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())

    def released(self) -> None:
        """One of the connections has ended: there is room for another."""
        self._open -= 1

    def close(self) -> None:
        """Stop accepting and close the listening sockets."""
        if self._pause is not None:
            self._pause.cancel()
        self._look_away()
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_BURST):
            try:
                sock, remote = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._rest(error)
                    return
                continue  # this connection was gone before we took it (accept(2), "Error handling")
            if self._open >= self.limit:
                sock.close()  # at once, so that it does not hold a place in the backlog
                _log.debug("a connection was turned away: %d are open", self._open)
                continue
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                sock.close()
                continue
            self._open += 1
            self._report(sock, remote)

    def _rest(self, error: OSError) -> None:
        """A listener that cannot be served stays readable: look away for a while instead of spinning."""
        _log.warning("cannot accept connections: %s", error.strerror)
        self._look_away()
        self._pause = self._loop.call_later(OUT_OF_FILES_PAUSE, self._watch)


def _new_socket(family: int, proto: Proto, options: SocketOptions) -> socket.socket:
    kind = socket.SOCK_DGRAM if proto is Proto.UDP else socket.SOCK_STREAM
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if options.mark:
            _mark(sock, options.mark)
        if options.dev:
            _use_device(sock, options.dev)
        udp = proto is Proto.UDP
        # TCP adjusts its buffers itself, better than a fixed size does
        _buffer(sock, socket.SO_RCVBUF, options.rcvbuf or (UDP_RCVBUF if udp else 0))
        _buffer(sock, socket.SO_SNDBUF, options.sndbuf or (UDP_SNDBUF if udp else 0))
        if not udp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _mark(sock: socket.socket, mark: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except PermissionError:
        raise SystemRefused("cannot mark the tunnel's socket", "run as root, or with CAP_NET_ADMIN") from None


def _use_device(sock: socket.socket, dev: str) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, dev.encode() + b"\0")
    except PermissionError:
        raise SystemRefused(f"cannot bind the socket to {dev}", "run as root, or with CAP_NET_RAW") from None
    except OSError as error:
        raise OSError(error.errno, f"bind-dev {dev}: {os.strerror(error.errno or errno.ENODEV)}") from None


_SO_SNDBUFFORCE = 32  # linux/socket.h; not in Python's socket module
_SO_RCVBUFFORCE = 33
_FORCE = {socket.SO_SNDBUF: _SO_SNDBUFFORCE, socket.SO_RCVBUF: _SO_RCVBUFFORCE}


def _buffer(sock: socket.socket, option: int, size: int) -> None:
    """Set a buffer's size beyond the system's limit if we may, else up to it."""
    if not size:
        return
    try:
        sock.setsockopt(socket.SOL_SOCKET, _FORCE[option], size)
    except OSError:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, size)


def _bind_client(sock: socket.socket, remote: IPv4Address | IPv6Address, local: Local) -> None:
    """Bind to `local`, as far as it says anything. Raises OSError if it has another family than the remote."""
    if local == ANYWHERE:
        return
    if local.address is not None and local.address.version != remote.version:
        raise OSError(errno.EADDRNOTAVAIL, f"the local address {local.address} cannot reach {remote}")
    if sock.type == socket.SOCK_STREAM and local.port:
        # the port may still belong to our own connection of a moment ago
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _bind(sock, str(local.address or ("::" if remote.version == 6 else "")), local.port)


def _bind(sock: socket.socket, address: str, port: int) -> None:
    try:
        sock.bind((address, port))
    except OSError as error:
        proto = "udp" if sock.type == socket.SOCK_DGRAM else "tcp"
        shown = f"port {port}/{proto}" if address in ("", "::") else f"{address} port {port}/{proto}"
        remedy = {
            errno.EADDRINUSE: "another program uses it: stop that, or choose another port",
            errno.EADDRNOTAVAIL: "this machine does not have the address",
            errno.EACCES: "ports below 1024 need root, or CAP_NET_BIND_SERVICE",
        }.get(error.errno or 0, "choose another address or port")
        raise SystemRefused(f"cannot use {shown}: {error.strerror}", remedy) from error


def _where(listen: Listen) -> tuple[int, str]:
    """Address family and address of the socket that `listen` asks for."""
    if not listen.address:
        return (socket.AF_INET, "") if listen.family is Family.IPV4 else (socket.AF_INET6, "::")
    try:
        address = ip_address(listen.address)
    except ValueError:
        fix = "give an IPv4 or IPv6 address"
        raise ConfigError(f"cannot listen on {listen.address!r}: not an address", fix=fix) from None
    if (listen.family, address.version) in ((Family.IPV4, 6), (Family.IPV6, 4)):
        raise ConfigError(f"cannot listen on {address}: the protocol is for the other address family")
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), str(address)

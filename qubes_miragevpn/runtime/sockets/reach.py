# SPDX-License-Identifier: BSD-2-Clause
"""Opening the way to a server: straight, or through an HTTP or SOCKS5 proxy.

What comes back is a socket that carries OpenVPN's packets, whatever stands between. A proxy has as long as the server
itself would have: all that is said to it counts towards the one time limit of the attempt.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.config.model import Family, HttpProxy, Local, Proto, SocksProxy
from qubes_miragevpn.dataplane.interface import Envelope, SockAddr
from qubes_miragevpn.protocol.contract import OpenTransport
from qubes_miragevpn.runtime.sockets.proxies import http, socks
from qubes_miragevpn.runtime.sockets.proxies.dialogue import ask_http, ask_socks
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused
from qubes_miragevpn.runtime.sockets.transports import CONNECT_TIMEOUT, SocketOptions, abandon, open_client

LOGIN_REQUIRED = 407
MAX_REQUESTS = 3  # of an HTTP proxy: without login, with one, and once more when the nonce was too old

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, Family], Awaitable[list[Address]]]


@dataclass(frozen=True)
class Way:
    """An open transport: the socket, the address that its packets go to, what a relay wants around them."""

    sock: socket.socket
    remote: SockAddr
    envelope: Envelope | None = None
    connected: bool = True  # otherwise packets of every sender come in, each with its address


async def open_way(
    wanted: OpenTransport, options: SocketOptions, resolve: Resolve, timeout: float = CONNECT_TIMEOUT
) -> Way:
    """Open the transport `wanted`. `resolve` looks a server's name up where a proxy cannot be asked to.

    Raises OSError if something on the way cannot be reached, PeerError if a proxy will not do it (LoginRefused if other
    credentials could change that), SystemRefused if we may not.
    """
    try:
        async with asyncio.timeout(timeout):
            match wanted.proxy:
                case HttpProxy():
                    return await _through_http(wanted, wanted.proxy, options)
                case SocksProxy() if wanted.proto is Proto.TCP:
                    return await _through_socks(wanted, wanted.proxy, options)
                case SocksProxy():
                    return await _by_relay(wanted, wanted.proxy, options, resolve)
            floats = wanted.floats and wanted.proto is Proto.UDP
            sock, remote = await open_client(
                wanted.proto, wanted.address, wanted.port, options,
                local=wanted.local, timeout=timeout, connected=not floats,
            )  # fmt: skip
            return Way(sock, remote, connected=not floats)
    except TimeoutError as error:
        if error.errno:
            raise  # the system's own: there was no answer to connect()
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout:g} s") from None


def _target(wanted: OpenTransport) -> tuple[str, int, Family]:
    if wanted.target is None:
        raise MisuseError("a proxy without a server to ask it for")
    return wanted.target


async def _hop(wanted: OpenTransport, options: SocketOptions, local: Local) -> tuple[socket.socket, SockAddr]:
    return await open_client(Proto.TCP, wanted.address, wanted.port, options, local=local)


async def _through_http(wanted: OpenTransport, proxy: HttpProxy, options: SocketOptions) -> Way:
    if wanted.proto is not Proto.TCP:
        raise MisuseError("an HTTP proxy carries TCP only")
    host, port, _ = _target(wanted)
    target = http.authority(host, port)
    scheme, login = "", ""
    if proxy.eager and proxy.credentials is not None and "basic" in proxy.methods:
        scheme, login = "basic", http.basic(proxy.credentials)
    for _ in range(MAX_REQUESTS):
        sock, remote = await _hop(wanted, options, wanted.local)
        try:
            answer = await ask_http(sock, http.request(target, proxy, login))
        except BaseException:
            abandon(sock)
            raise
        if answer.status == 200:
            return Way(sock, remote)
        abandon(sock)
        if answer.status != LOGIN_REQUIRED:
            raise PeerError(f"the proxy refused: {answer.status} {answer.reason}".rstrip())
        if scheme and not (scheme == "digest" and http.stale(answer)):
            break
        scheme, login = http.authorize(answer, target, proxy, os.urandom)
    raise LoginRefused("the proxy refused user name and password")


async def _through_socks(wanted: OpenTransport, proxy: SocksProxy, options: SocketOptions) -> Way:
    host, port, _ = _target(wanted)
    sock, remote = await _hop(wanted, options, wanted.local)
    try:
        await ask_socks(sock, socks.dialogue(socks.CONNECT, host, port, proxy.credentials))
    except BaseException:
        abandon(sock)
        raise
    return Way(sock, remote)


async def _by_relay(wanted: OpenTransport, proxy: SocksProxy, options: SocketOptions, resolve: Resolve) -> Way:
    host, port, family = _target(wanted)
    # Not left to the proxy: it might find another of the server's addresses for each datagram.
    found = await resolve(host, family)
    if not found:
        raise OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    header = socks.DATAGRAM_PREFIX + socks.encode_address(str(found[0]), port)
    control, _ = await _hop(wanted, options, replace(wanted.local, port=0))
    try:
        # Where our datagrams will come from is not known yet (0.0.0.0:0, RFC 1928 section 4).
        unknown = "0.0.0.0" if wanted.address.version == 4 else "::"
        bound = await ask_socks(control, socks.dialogue(socks.UDP_ASSOCIATE, unknown, 0, proxy.credentials))
        address, relay_port = socks.relay_of(bound, wanted.address)
        sock, remote = await open_client(Proto.UDP, address, relay_port, options, local=wanted.local)
    except BaseException:
        abandon(control)
        raise
    return Way(sock, remote, Envelope(header, control))

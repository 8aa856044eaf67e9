# SPDX-License-Identifier: BSD-2-Clause
"""Ways through scripted proxies on the loopback: the proxy's lines are played, ours are compared."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials, Family, HttpProxy, Local, Proto, Proxy, SocksProxy
from qubes_miragevpn.protocol.contract import OpenTransport
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused
from qubes_miragevpn.runtime.sockets.reach import MAX_REQUESTS, Way, open_way
from qubes_miragevpn.runtime.sockets.transports import SocketOptions

HOME = IPv4Address("127.0.0.1")
LOGIN = Credentials("alice", Secret(b"pass"))
BOTH = frozenset({"basic", "digest"})
BASIC_LOGIN = b"Proxy-Authorization: Basic YWxpY2U6cGFzcw==\r\n"
OK = b"HTTP/1.0 200 Connection established\r\n\r\n"
DENIED = b"HTTP/1.1 407 no\r\nProxy-Authenticate: Basic realm=x\r\n\r\nbody"
DIGEST = b'HTTP/1.1 407 no\r\nProxy-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n\r\n'
STALE = b'HTTP/1.1 407 no\r\nProxy-Authenticate: Digest realm="r", nonce="m", stale=true\r\n\r\n'
TARGET = ("vpn.example", 443, Family.ANY)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def no_lookup(host: str, family: Family) -> list[IPv4Address | IPv6Address]:
    raise AssertionError(f"{host} was looked up")


class Script:
    """A web proxy that answers one connection after the other with the next answer, and keeps the requests."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answers.pop(0))
        await writer.drain()
        if self.requests[-1:] and not self.answers:
            writer.write(await reader.read(100))  # an echo, through the open way


def through(
    serve: Serve, proxy: Callable[[int], Proxy], use: Callable[[Way], Awaitable[None]] | None = None, *,
    proto: Proto = Proto.TCP, target: tuple[str, int, Family] = TARGET, timeout: float = 5.0, **options: Any,
) -> None:  # fmt: skip
    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            wanted = OpenTransport(1, proto, HOME, port, Local(), proxy(port), target)
            way = await open_way(wanted, SocketOptions(), options.get("resolve", no_lookup), timeout)
            try:
                if use is not None:
                    await use(way)
            finally:
                way.sock.close()
                if way.envelope is not None:
                    way.envelope.control.close()

    asyncio.run(run())


def web(**fields: Any) -> Callable[[int], Proxy]:
    return lambda port: HttpProxy("127.0.0.1", port, **fields)


async def echo(way: Way) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(way.sock, b"hello")
    assert await loop.sock_recv(way.sock, 100) == b"hello"


def test_a_web_proxy_that_opens() -> None:
    script = Script(OK)
    through(script, web(), echo)
    assert script.requests == [b"CONNECT vpn.example:443 HTTP/1.0\r\nHost: vpn.example:443\r\n\r\n"]


def test_the_password_is_shown_when_asked_for() -> None:
    script = Script(DENIED, OK)
    through(script, web(credentials=LOGIN, methods=BOTH), echo)
    first, second = script.requests
    assert b"Authorization" not in first and BASIC_LOGIN in second


def test_or_at_once_where_the_profile_says_basic() -> None:
    script = Script(OK)
    through(script, web(credentials=LOGIN, methods=frozenset({"basic"}), eager=True), echo)
    assert BASIC_LOGIN in script.requests[0]


@pytest.mark.parametrize(("login", "answers"), [(None, [DENIED]), (LOGIN, [DENIED, DENIED])])
def test_a_login_that_is_wanted_or_refused_is_told_apart(login: Credentials | None, answers: list[bytes]) -> None:
    script = Script(*answers)
    with pytest.raises(LoginRefused):
        through(script, web(credentials=login, methods=BOTH, asks=True))
    assert not script.answers


def test_digest_and_a_nonce_that_was_too_old() -> None:
    script = Script(DIGEST, STALE, OK)
    through(script, web(credentials=LOGIN, methods=BOTH), echo)
    _, second, third = script.requests
    assert b'nonce="n"' in second and b'uri="vpn.example:443"' in second and b'nonce="m"' in third
    assert b"pass" not in second + third


@pytest.mark.parametrize(
    ("answers", "fields", "problem"),
    [
        ([DENIED] * 9, {"credentials": LOGIN, "methods": BOTH}, "refused user name and password"),
        ([DIGEST] * 9, {"credentials": LOGIN, "methods": BOTH}, "refused user name and password"),
        ([DIGEST, *[STALE] * 9], {"credentials": LOGIN, "methods": BOTH}, "refused user name and password"),
        ([DENIED] * 9, {}, "holds none"),
        ([DENIED] * 9, {"credentials": LOGIN, "methods": frozenset({"basic"}), "eager": True}, "refused user name"),
        ([b"HTTP/1.1 403 Forbidden\r\n\r\n"], {}, "the proxy refused: 403 Forbidden"),
        ([b"HTTP/1.1 302 x\r\nLocation: http://evil/\r\n\r\n"], {}, "the proxy refused: 302"),
        ([b"HTTP/1.1 200 OK\r\n\r\nHTTP"], {}, "something after its answer"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000], {}, "more than"),
        ([b"\5\xff"], {}, "does not speak HTTP"),
        ([b""], {}, "closed the connection"),
    ],
)
def test_a_web_proxy_that_does_not(answers: list[bytes], fields: dict[str, Any], problem: str) -> None:
    script = Script(*answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script.requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(script.answers.pop(0))
        writer.close()

    with pytest.raises((PeerError, ConnectionError), match=problem):
        through(serve, web(**fields))
    assert len(script.requests) <= MAX_REQUESTS


def test_a_proxy_that_dribbles_has_no_more_time_than_others() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 " + b"O" * 500:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.005)

    with pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
        through(serve, web(), timeout=0.3)


def socks_proxy(credentials: Credentials | None = None) -> Callable[[int], Proxy]:
    return lambda port: SocksProxy("127.0.0.1", port, credentials)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Take a SOCKS client without login; return its request as far as the address's type."""
    version, count = await reader.readexactly(2)
    assert version == 5
    await reader.readexactly(count)
    writer.write(b"\5\0")
    return await reader.readexactly(4)


def test_socks_connect() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await greet(reader, writer) == b"\5\1\0\3"
        size = (await reader.readexactly(1))[0]
        assert await reader.readexactly(size + 2) == b"vpn.example" + struct.pack("!H", 443)
        for byte in b"\5\0\0\3\x07a.b.c.d" + b"\0\1":
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write(await reader.read(100))

    through(serve, socks_proxy(), echo)


def relay(reply: Callable[[int], bytes]) -> tuple[Serve, socket.socket]:
    """A SOCKS proxy that grants a UDP relay, and the relay's socket; `reply(port)` is what it says of that."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await greet(reader, writer) == b"\5\3\0\1"
        assert await reader.readexactly(6) == bytes(6)
        writer.write(reply(sock.getsockname()[1]))
        await reader.read()

    return serve, sock


async def lookup(host: str, family: Family) -> list[IPv4Address | IPv6Address]:
    assert (host, family) == TARGET[::2]
    return [IPv4Address("198.51.100.7"), IPv4Address("198.51.100.8")]


@pytest.mark.parametrize("address", [bytes(4), HOME.packed])
def test_socks_relay(address: bytes) -> None:
    serve, sock = relay(lambda port: b"\5\0\0\1" + address + struct.pack("!H", port))

    async def use(way: Way) -> None:
        assert way.remote == sock.getsockname() and way.envelope is not None
        assert way.envelope.header == b"\0\0\0\1" + bytes([198, 51, 100, 7]) + struct.pack("!H", 443)
        assert way.sock.type == socket.SOCK_DGRAM and way.sock.getpeername() == sock.getsockname()

    with sock:
        through(serve, socks_proxy(), use, proto=Proto.UDP, resolve=lookup)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"\5\0\0\1\x0a\0\0\1\0\x35", "another machine"),
        (b"\5\0\0\3\7a.b.c.d\0\x35", "by a host name"),
        (b"\5\0\0\1\0\0\0\0\0\0", "no port"),
        (b"\5\7\0\1\0\0\0\0\0\0", "it does not do that"),
    ],
)
def test_a_relay_that_is_not_taken(reply: bytes, problem: str) -> None:
    serve, sock = relay(lambda _: reply)
    with sock, pytest.raises(PeerError, match=problem):
        through(serve, socks_proxy(), proto=Proto.UDP, resolve=lookup)


def test_a_name_that_is_not_found_is_no_relay() -> None:
    async def nothing(host: str, family: Family) -> list[IPv4Address | IPv6Address]:
        return []

    with pytest.raises(OSError, match=r"vpn\.example has no address"):
        through(lambda reader, writer: asyncio.sleep(0), socks_proxy(), proto=Proto.UDP, resolve=nothing)

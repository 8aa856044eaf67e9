# SPDX-License-Identifier: BSD-2-Clause
"""What is said to a SOCKS5 proxy: RFC 1928 and RFC 1929. Bytes and values, no I/O.

Big endian::

    greeting   5 | n 1 | methods n                          choice  5 | method 1
    login      1 | length 1 | name | length 1 | password    answer  1 | status 1 (0 fine)
    request    5 | command 1 | 0 | address                  reply   5 | code 1 | 0 | address
    datagram   0 0 | fragment 1 (0) | address | payload
    address    type 1 | IPv4 4, or length 1 and name, or IPv6 16 | port 2

Datagrams in fragments are not taken; a proxy that names its relay by a host name, or another machine as its relay, is
refused: packets go where the operator pointed us, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Credentials
from qubes_miragevpn.runtime.sockets.proxies.refusal import LoginRefused

VERSION = 5
LOGIN_VERSION = 1
NO_LOGIN, BY_PASSWORD, NONE_ACCEPTED = 0, 2, 0xFF
CONNECT, UDP_ASSOCIATE = 1, 3
IPV4, NAME, IPV6 = 1, 3, 4
DATAGRAM_PREFIX = b"\0\0\0"  # reserved 2, fragment 1
MAX_NAME = 255

_REFUSALS = {
    1: "general failure",
    2: "its rules forbid it",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the connection was refused",
    6: "it took too long",
    7: "it does not do that",
    8: "it does not know that kind of address",
}

Address = IPv4Address | IPv6Address
Talk = Generator["Say | Hear", bytes, "Bound"]
"""A dialogue: yields what to send, and how many bytes to read, which it is sent; returns what the proxy granted."""


@dataclass(frozen=True)
class Say:
    """Send `data`."""

    data: bytes


@dataclass(frozen=True)
class Hear:
    """Read exactly `size` bytes."""

    size: int


@dataclass(frozen=True)
class Bound:
    """The address that the proxy's reply names; None when it is a name."""

    address: Address | None
    port: int


def encode_address(host: str, port: int) -> bytes:
    """An address literal or a name, with its port."""
    try:
        address = ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if not 0 < len(name) <= MAX_NAME:
            raise PeerError("this name is too long for SOCKS") from None
        return bytes((NAME, len(name))) + name + port.to_bytes(2, "big")
    return bytes((IPV4 if address.version == 4 else IPV6,)) + address.packed + port.to_bytes(2, "big")


def dialogue(command: int, host: str, port: int, credentials: Credentials | None) -> Talk:
    """Ask a proxy for `command` on `host`:`port`. Raises `PeerError` for whatever is not as it must be."""
    methods = bytes((NO_LOGIN,) if credentials is None else (NO_LOGIN, BY_PASSWORD))
    yield Say(bytes((VERSION, len(methods))) + methods)
    version, method = yield Hear(2)
    if version != VERSION:
        raise PeerError("the proxy does not speak SOCKS5")
    if method == BY_PASSWORD and credentials is not None:
        yield from _log_in(credentials)
    elif method == NONE_ACCEPTED:
        wants = "another login than user name and password" if credentials else "a login, and the profile holds none"
        raise PeerError(f"the proxy wants {wants}")
    elif method != NO_LOGIN:
        raise PeerError(f"the proxy chose a way to log in that it was not offered ({method})")
    yield Say(bytes((VERSION, command, 0)) + encode_address(host, port))
    return (yield from _reply())


def _log_in(credentials: Credentials) -> Generator[Say | Hear, bytes, None]:
    name = credentials.username.encode("utf-8", "surrogateescape")
    password = credentials.password.reveal()
    if not 0 < len(name) <= 255 or not 0 < len(password) <= 255:
        raise PeerError("user name and password for a SOCKS proxy may have at most 255 bytes each")
    yield Say(bytes((LOGIN_VERSION, len(name))) + name + bytes((len(password),)) + password)
    _, status = yield Hear(2)
    if status != 0:
        raise LoginRefused("the proxy refused user name and password")


def _reply() -> Talk:
    version, code, _, kind = yield Hear(4)
    if version != VERSION:
        raise PeerError("the proxy does not speak SOCKS5")
    if code != 0:
        raise PeerError(f"the proxy refused: {_REFUSALS.get(code, f'error {code}')}")
    if kind == NAME:
        (length,) = yield Hear(1)
        yield Hear(length + 2)
        return Bound(None, 0)
    if kind not in (IPV4, IPV6):
        raise PeerError("the proxy's reply has an address of an unknown kind")
    raw = yield Hear((4 if kind == IPV4 else 16) + 2)
    return Bound(ip_address(raw[:-2]), int.from_bytes(raw[-2:], "big"))


def relay_of(bound: Bound, proxy: Address) -> tuple[Address, int]:
    """Where datagrams for the proxy's relay go. Raises `PeerError` unless that is the proxy itself."""
    if bound.address is None:
        raise PeerError("the proxy names its UDP relay by a host name, which is not looked up")
    if not bound.port:
        raise PeerError("the proxy names no port for its UDP relay")
    if bound.address.is_unspecified or bound.address == proxy:
        return proxy, bound.port
    raise PeerError("the proxy names another machine as its UDP relay")

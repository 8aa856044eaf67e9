# SPDX-License-Identifier: BSD-2-Clause
"""Looking the server's name up while the tunnel is down: a question of our own, from a marked socket.

The system's resolver cannot be used: its packets carry no mark and are refused, and resolv.conf names the tunnel's
resolvers. This is the least DNS client that does (RFC 1035; EDNS0 for size, RFC 6891): one question by UDP
to the uplink's resolvers in turn, random id, a port of the kernel's choosing, the answer taken only from the
address asked and only if it repeats the question; CNAMEs are followed within the answer. Answers are
bounded, and addresses that nobody outside may claim are left out. What was found is remembered, and used when a later
question fails: after a suspend or behind a broken resolver the tunnel still finds its server.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Family
from qubes_miragevpn.qube.ranges import reserved

Address = IPv4Address | IPv6Address

PORT = 53
TIMEOUT = 2.0  # seconds for one try
ROUNDS = 2  # every resolver is asked twice: 8 s with Qubes' two
MAX_ANSWER = 4096  # bytes; we say 1232, which fits any path (DNS flag day 2020)
MAX_RECORDS = 64
MAX_CNAMES = 8
MAX_ADDRESSES = 16  # the machine tries each: a pass must end
MAX_REMEMBERED = 256  # names; a profile has a few

TYPE_A, TYPE_CNAME, TYPE_AAAA, TYPE_OPT = 1, 5, 28, 41
_HEADER = struct.Struct("!HHHHHH")
_LABEL = re.compile(rb"\A[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")

_log = logging.getLogger("miragevpn.resolver")

Exchange = Callable[[Address, bytes], Awaitable[bytes]]
"""Send a question to a resolver, return the first datagram that answers it; raises OSError (TimeoutError)."""


# --- the wire -------------------------------------------------------------------------------------------


def question(name: str, kind: int, number: int) -> bytes:
    """A query for `name`; raises `OSError` if it is no host name."""
    labels = [label.encode("ascii", "replace") for label in name.rstrip(".").split(".")]
    if not all(_LABEL.match(label) for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise OSError(errno.EINVAL, "not a host name")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    options = b"\0" + struct.pack("!HHIH", TYPE_OPT, 1232, 0, 0)
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 1) + encoded + struct.pack("!HH", kind, 1) + options


def answer(untrusted: bytes, asked: bytes) -> list[Address]:
    """The addresses in the answer to the query `asked`, CNAMEs followed; raises `PeerError` if it is not one."""
    if not _HEADER.size <= len(untrusted) <= MAX_ANSWER:
        raise PeerError("DNS answer of an impossible size")
    number, flags, questions, records, _, _ = _HEADER.unpack_from(untrusted)
    end = _skip_name(asked, _HEADER.size) + 4
    if number != asked[0] << 8 | asked[1] or not flags & 0x8000 or flags & 0x7800 or questions != 1:
        raise PeerError("not the answer to our DNS query")
    if untrusted[_HEADER.size : end].lower() != asked[_HEADER.size : end].lower():
        raise PeerError("DNS answer to another question")
    if flags & 0x000F:
        raise PeerError(f"the resolver answered with error {flags & 0x000F}")
    kind = struct.unpack_from("!H", asked, end - 4)[0]
    return _follow(untrusted, end, min(records, MAX_RECORDS), kind, _read_name(asked, _HEADER.size)[0])


def _follow(data: bytes, place: int, records: int, kind: int, name: bytes) -> list[Address]:
    """Read the answer section; keep what belongs to `name` or to a name that it is an alias of."""
    found: dict[bytes, list[Address]] = {}
    aliases: dict[bytes, bytes] = {}
    for _ in range(records):
        owner, place = _read_name(data, place)
        if place + 10 > len(data):
            raise PeerError("DNS answer ends within a record")
        record, family, _ttl, length = struct.unpack_from("!HHIH", data, place)
        place += 10
        if place + length > len(data):
            raise PeerError("DNS answer ends within a record")
        if family == 1 and record == TYPE_CNAME:
            aliases[owner] = _read_name(data, place)[0]
        elif family == 1 and record == kind and length == (4 if kind == TYPE_A else 16):
            found.setdefault(owner, []).append(ip_address(data[place : place + length]))
        place += length
    for _ in range(MAX_CNAMES):
        if name not in aliases:
            break
        name = aliases[name]
    return found.get(name, [])


def _read_name(data: bytes, place: int) -> tuple[bytes, int]:
    """The name at `place` in lower case, and where it ends; compression pointers lead backwards only."""
    parts: list[bytes] = []
    end, limit = -1, place
    while True:
        if place >= len(data):
            raise PeerError("DNS answer ends within a name")
        length = data[place]
        if length == 0:
            return b".".join(parts), (place + 1 if end < 0 else end)
        if length & 0xC0 == 0xC0:
            if place + 1 >= len(data):
                raise PeerError("DNS answer ends within a name")
            target = (length & 0x3F) << 8 | data[place + 1]
            if target >= limit:
                raise PeerError("DNS name points forward")
            end = place + 2 if end < 0 else end
            place = limit = target
        elif length & 0xC0 or sum(map(len, parts)) + length > 255:
            raise PeerError("DNS name is too long")
        else:
            parts.append(data[place + 1 : place + 1 + length].lower())
            place += 1 + length


def _skip_name(data: bytes, place: int) -> int:
    return _read_name(data, place)[1]


# --- asking ---------------------------------------------------------------------------------------------


class Resolver:
    """Looks names up by the resolvers that `servers` names (asked anew each time), with sockets marked `mark`."""

    def __init__(
        self, servers: Callable[[], Awaitable[tuple[Address, ...]]], mark: int, exchange: Exchange | None = None
    ) -> None:
        self._servers = servers
        self._mark = mark
        self._exchange = exchange or self._by_udp
        self._remembered: dict[tuple[str, Family], tuple[Address, ...]] = {}

    async def resolve(self, host: str, family: Family) -> list[Address]:
        """Return the addresses of `host` (a name or a literal), at most `MAX_ADDRESSES`; raises `OSError`."""
        wanted = {Family.ANY: (4, 6), Family.IPV4: (4,), Family.IPV6: (6,)}[family]
        try:
            found = [ip_address(host)]
        except ValueError:
            found = await self._look_up(host, family, wanted)
        usable = [address for address in found if address.version in wanted and not reserved(address)]
        if not usable:
            raise OSError(errno.EADDRNOTAVAIL, "no usable address")
        return usable[:MAX_ADDRESSES]

    async def _look_up(self, host: str, family: Family, wanted: tuple[int, ...]) -> list[Address]:
        kinds = [TYPE_A if version == 4 else TYPE_AAAA for version in wanted]
        key = (host.lower(), family)
        answers = await asyncio.gather(*(self._ask(host, kind) for kind in kinds), return_exceptions=True)
        found: list[Address] = []
        failure: BaseException | None = None
        for each in answers:
            if isinstance(each, BaseException):
                failure = each
            else:
                found += each
        found = [address for address in dict.fromkeys(found) if not reserved(address)]
        if found:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[key] = tuple(found)
            return found
        if key in self._remembered:
            _log.warning("the name does not resolve (%s): using what it was before", failure or "no address")
            return list(self._remembered[key])
        if isinstance(failure, OSError):
            raise failure
        raise OSError(errno.EADDRNOTAVAIL, str(failure or "the name has no address"))

    async def _ask(self, host: str, kind: int) -> list[Address]:
        """Ask each resolver, and all of them again; an answer without addresses is an answer."""
        failure: OSError | PeerError = OSError(errno.ENETUNREACH, "no resolver is known")
        for _ in range(ROUNDS):
            for server in await self._servers():
                asked = question(host, kind, secrets.randbelow(65536))
                try:
                    return answer(await self._exchange(server, asked), asked)
                except TimeoutError:
                    failure = OSError(errno.ETIMEDOUT, "the uplink's resolver does not answer")
                except (OSError, PeerError) as error:
                    failure = error
        raise failure

    async def _by_udp(self, server: Address, asked: bytes) -> bytes:
        """One exchange. The socket is connected: the kernel drops what comes from elsewhere; another id is skipped."""
        family = socket.AF_INET if server.version == 4 else socket.AF_INET6
        loop = asyncio.get_running_loop()
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            link.connect((str(server), PORT))
            link.send(asked)
            async with asyncio.timeout(TIMEOUT):
                while True:
                    received = await loop.sock_recv(link, MAX_ANSWER + 1)
                    if received[:2] == asked[:2]:
                        return received

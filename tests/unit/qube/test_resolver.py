# SPDX-License-Identifier: BSD-2-Clause
"""The DNS client: what it asks, what it believes, what it remembers."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Family
from qubes_miragevpn.qube import resolver
from qubes_miragevpn.qube.ranges import reserved
from qubes_miragevpn.qube.resolver import TYPE_A, TYPE_AAAA, TYPE_CNAME, Address, Resolver, answer, question

SERVERS = (IPv4Address("10.139.1.1"), IPv4Address("10.139.1.2"))


def name(text: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".")) + b"\0"


def record(owner: bytes, kind: int, data: bytes, family: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, family, 60, len(data)) + data


def reply(
    asked: bytes, *records: bytes, flags: int = 0x8180, number: int | None = None, count: int | None = None
) -> bytes:
    identity = struct.unpack_from("!H", asked)[0] if number is None else number
    head = struct.pack("!HHHHHH", identity, flags, 1, len(records) if count is None else count, 0, 0)
    return head + asked[12:-11] + b"".join(records)


POINTER = b"\xc0\x0c"  # to the question's name
ASKED = question("vpn.example.org", TYPE_A, 0x1234)
A1, A2 = ip_address("198.51.100.1"), ip_address("198.51.100.2")


def test_the_question() -> None:
    assert ASKED[:12] == struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 1)
    assert ASKED[12:] == name("vpn.example.org") + b"\x00\x01\x00\x01" + b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
    assert question("vpn.example.org.", TYPE_A, 0x1234) == ASKED


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "-a.org", "a b.org", "ä.org", "a" * 64 + ".org", "a\0.org", ".".join(["a" * 60] * 5)]
)
def test_no_host_name(host: str) -> None:
    with pytest.raises(OSError, match="not a host name"):
        question(host, TYPE_A, 0)


def test_plain_answers() -> None:
    data = [record(POINTER, TYPE_A, address.packed) for address in (A1, A2)]
    assert answer(reply(ASKED, *data), ASKED) == [A1, A2]
    six = question("vpn.example.org", TYPE_AAAA, 7)
    address = IPv6Address("2001:db8::1")
    assert answer(reply(six, record(POINTER, TYPE_AAAA, address.packed)), six) == [address]
    assert answer(reply(ASKED), ASKED) == []


def test_aliases_are_followed_within_the_answer() -> None:
    """In any order; what belongs to no name of the chain is left out."""
    chain = [
        record(name("b.example"), TYPE_A, A1.packed),
        record(name("x.example"), TYPE_A, A2.packed),
        record(POINTER, TYPE_CNAME, name("A.example")),
        record(name("a.EXAMPLE"), TYPE_CNAME, name("b.example")),
    ]
    assert answer(reply(ASKED, *chain), ASKED) == [A1]


def test_aliases_in_a_circle_end() -> None:
    circle = [record(POINTER, TYPE_CNAME, name("a.example")), record(name("a.example"), TYPE_CNAME, POINTER)]
    assert answer(reply(ASKED, *circle), ASKED) == []


def test_records_of_another_kind_are_left_out() -> None:
    odd = [
        record(POINTER, TYPE_A, A1.packed, family=3),
        record(POINTER, TYPE_A, b"\1\2\3"),
        record(POINTER, TYPE_AAAA, bytes(16)),
        record(POINTER, 16, b"\4text"),
    ]
    assert answer(reply(ASKED, *odd, record(POINTER, TYPE_A, A2.packed)), ASKED) == [A2]


GOOD = reply(ASKED, record(POINTER, TYPE_A, A1.packed))
REFUSED = {
    "short": GOOD[:11],
    "long": GOOD + bytes(5000),
    "another id": reply(ASKED, number=0x1235),
    "a query": reply(ASKED, flags=0x0100),
    "another opcode": reply(ASKED, flags=0x8980),
    "an error": reply(ASKED, flags=0x8183),
    "another name": GOOD.replace(b"\3vpn", b"\3vpx"),
    "another kind": reply(question("vpn.example.org", TYPE_AAAA, 0x1234)),
    "no question": struct.pack("!HHHHHH", 0x1234, 0x8180, 0, 0, 0, 0),
    "a record too few": reply(ASKED, count=1),
    "a cut record": GOOD[:-1],
    "a cut header": GOOD[:-8],
    "a pointer forward": reply(ASKED, record(b"\xc0\xff", TYPE_A, A1.packed)),
    "a pointer to itself": reply(ASKED, record(b"\xc0" + bytes([len(GOOD) - 16]), TYPE_A, A1.packed)),
    "half a pointer": reply(ASKED, count=1) + b"\xc0",
    "an odd label": reply(ASKED, record(b"\x80", TYPE_A, A1.packed)),
    "a name without end": reply(ASKED, record(b"\x3f" + b"a" * 63, TYPE_A, A1.packed)),
    "a long name": reply(ASKED, record((b"\x3f" + b"a" * 63) * 5 + b"\0", TYPE_A, A1.packed)),
}


@pytest.mark.parametrize("untrusted", REFUSED.values(), ids=list(REFUSED))
def test_what_is_no_answer(untrusted: bytes) -> None:
    with pytest.raises(PeerError):
        answer(untrusted, ASKED)


def test_the_question_may_come_back_in_other_letters() -> None:
    assert answer(GOOD.replace(b"example", b"EXAMPLE"), ASKED) == [A1]


def test_random_bytes_are_answers_or_errors() -> None:
    """Damaged and random packets: addresses or PeerError, and nothing else; and never for ever."""
    rng = random.Random(20)
    alias = reply(ASKED, record(POINTER, TYPE_CNAME, name("a.example")), record(name("a.example"), TYPE_A, A1.packed))
    for _ in range(20000):
        data = bytearray(rng.choice([GOOD, alias]))
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.choice([0, 0xC0, 0x0C, 0xFF, rng.randrange(256)])
        try:
            found = answer(bytes(data[: rng.randrange(len(data) + 1)]), ASKED)
        except PeerError:
            continue
        assert all(isinstance(address, IPv4Address) for address in found)


# --- asking -----------------------------------------------------------------------------------------------


class Network:
    """Resolvers that answer by a script: for each question (server's last byte, kind), records or an error."""

    def __init__(self, **script: list[bytes] | Exception | int) -> None:
        self.script = script
        self.asked: list[str] = []

    async def __call__(self, server: Address, asked: bytes) -> bytes:
        kind = {TYPE_A: "a", TYPE_AAAA: "aaaa"}[struct.unpack_from("!H", asked, len(asked) - 15)[0]]
        key = f"{kind}{server.packed[-1]}"
        self.asked.append(key)
        what = self.script.get(key, [])
        if isinstance(what, Exception):
            raise what
        return reply(asked, flags=what) if isinstance(what, int) else reply(asked, *what)


def ask(network: Network, host: str = "vpn.example.org", family: Family = Family.ANY, times: int = 1) -> list[Address]:
    async def servers() -> tuple[Address, ...]:
        return SERVERS

    asking = Resolver(servers, 0, network)

    async def play() -> list[Address]:
        for _ in range(times - 1):
            await asking.resolve(host, family)
        return await asking.resolve(host, family)

    return asyncio.run(play())


FOUND = [record(POINTER, TYPE_A, A1.packed)]
FOUND6 = [record(POINTER, TYPE_AAAA, IPv6Address("2001:db8::1").packed)]


def test_both_families_are_asked() -> None:
    network = Network(a1=FOUND, aaaa1=FOUND6)
    assert ask(network) == [A1, ip_address("2001:db8::1")]
    assert sorted(network.asked) == ["a1", "aaaa1"]


def test_only_the_wanted_family_is_asked() -> None:
    network = Network(a1=FOUND, aaaa1=FOUND6)
    assert ask(network, family=Family.IPV6) == [ip_address("2001:db8::1")]
    assert network.asked == ["aaaa1"]


def test_the_next_resolver_and_another_round() -> None:
    network = Network(a1=TimeoutError(), a2=0x8182)
    with pytest.raises(OSError, match="answered with error 2"):
        ask(network, family=Family.IPV4)
    assert network.asked == ["a1", "a2", "a1", "a2"]
    assert ask(Network(a1=TimeoutError(), a2=FOUND), family=Family.IPV4) == [A1]


def test_silence_is_told() -> None:
    network = Network(a1=TimeoutError(), a2=TimeoutError())
    with pytest.raises(OSError, match="does not answer"):
        ask(network, family=Family.IPV4)


def test_literals_ask_nobody() -> None:
    network = Network()
    assert ask(network, "198.51.100.7") == [ip_address("198.51.100.7")]
    with pytest.raises(OSError, match="no usable address"):
        ask(network, "198.51.100.7", Family.IPV6)
    assert network.asked == []


def test_what_was_found_is_used_when_a_later_question_fails() -> None:
    network = Network(a1=FOUND)

    async def servers() -> tuple[Address, ...]:
        return SERVERS[:1]

    asking = Resolver(servers, 0, network)

    async def play() -> None:
        assert await asking.resolve("VPN.example.org", Family.IPV4) == [A1]
        network.script = {"a1": OSError("unreachable")}
        assert await asking.resolve("vpn.example.org", Family.IPV4) == [A1]
        with pytest.raises(OSError, match="unreachable"):
            await asking.resolve("other.example.org", Family.IPV4)

    asyncio.run(play())


@pytest.mark.parametrize(
    "address",
    ["10.137.0.20", "10.138.3.4", "10.139.1.1", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "0.0.0.0",
     "::1", "::", "fe80::1", "ff02::1", "fd09:24ef:4179::a89:15", "::ffff:10.137.0.1"],
)  # fmt: skip
def test_a_poisoned_answer_is_no_address(address: str) -> None:
    """An answer that names this machine, another qube or nobody is left out, whatever the resolver says."""
    poison = ip_address(address)
    assert reserved(poison)
    kind, records = ("a", TYPE_A) if poison.version == 4 else ("aaaa", TYPE_AAAA)
    with pytest.raises(OSError):
        ask(Network(**{f"{kind}1": [record(POINTER, records, poison.packed)]}))
    with pytest.raises(OSError):
        ask(Network(), address)


@pytest.mark.parametrize("address", ["198.51.100.1", "10.8.0.1", "192.168.1.1", "172.16.0.1", "2001:db8::1", "fd00::1"])
def test_other_addresses_are_free(address: str) -> None:
    assert not reserved(ip_address(address))


def test_a_long_answer_is_cut() -> None:
    many = [record(POINTER, TYPE_A, bytes([198, 51, 100, n])) for n in range(1, 101)]
    assert len(ask(Network(a1=many), family=Family.IPV4)) == resolver.MAX_ADDRESSES


@pytest.mark.needs_root
def test_over_a_real_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is marked and connected; an answer with another id is skipped, silence times out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(resolver, "PORT", server.getsockname()[1])
        server.setblocking(False)

        async def servers() -> tuple[Address, ...]:
            return (IPv4Address("127.0.0.1"),)

        async def play() -> None:
            loop = asyncio.get_running_loop()
            asking = asyncio.create_task(Resolver(servers, 0x51564D).resolve("vpn.example.org", Family.IPV4))
            asked, peer = await loop.sock_recvfrom(server, 4096)
            server.sendto(bytes([asked[0] ^ 1]) + reply(asked, *FOUND)[1:], peer)
            server.sendto(reply(asked, *FOUND), peer)
            assert await asking == [A1]
            monkeypatch.setattr(resolver, "TIMEOUT", 0.01)
            with pytest.raises(OSError, match="does not answer"):
                await Resolver(servers, 0).resolve("vpn.example.org", Family.IPV4)

        asyncio.run(play())

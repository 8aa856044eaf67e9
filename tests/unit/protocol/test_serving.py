# SPDX-License-Identifier: BSD-2-Clause
"""Stateless admission and the address pool."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Frequency, NoWrap, TlsCrypt
from qubes_miragevpn.dataplane.interface import SockAddr
from qubes_miragevpn.protocol.serving import leases
from qubes_miragevpn.protocol.serving.admission import Admission, Place, Shares
from qubes_miragevpn.protocol.serving.pool import AddressPool, AddressPool6
from qubes_miragevpn.protocol.serving.registry import source_of
from qubes_miragevpn.protocol.wire.packet import Body, Head, Opcode, read_body
from qubes_miragevpn.protocol.wrap.keys import Opened, Stamp, wrap_keys

CLIENT: Place = (0, ("192.0.2.1", 40000))
SID = b"client!!"
KEYS = wrap_keys(NoWrap(), server=True)
HAND_WINDOW = 60.0
SLOT = (HAND_WINDOW + 1) / 2


def admission() -> Admission:
    return Admission(b"k" * 32, HAND_WINDOW, Frequency(7, 4.0))


def opened(opcode: Opcode, body: Body, *, key_id: int = 0, sid: bytes = SID) -> Opened:
    return KEYS.open(Head(opcode, key_id, sid).encode() + body.encode())


RESET = opened(Opcode.HARD_RESET_CLIENT, Body((), None, 0))


def answered(gate: Admission, now: float, place: Place = CLIENT) -> bytes:
    """The session id that the server's answer gives."""
    reply = KEYS.open(gate.answer_reset(RESET, place, now, 1_700_000_000))
    assert reply.head.opcode is Opcode.HARD_RESET_SERVER
    assert read_body(reply.head.opcode, reply.body) == Body((0,), SID, 0)
    return reply.head.sid


def third(sid: bytes, *, acks: tuple[int, ...] = (0,), message_id: int = 1, client: bytes = SID) -> Opened:
    return opened(Opcode.CONTROL, Body(acks, sid, message_id, b"tls"), sid=client)


def test_the_answer_is_26_bytes_to_14() -> None:
    assert len(RESET.head.encode() + RESET.body) == 14
    assert len(admission().answer_reset(RESET, CLIENT, 0.0, 0)) == 26


def test_the_answer_is_66_bytes_to_54_under_tls_crypt() -> None:
    config = TlsCrypt(Secret(bytes(range(256))))
    ours, theirs = wrap_keys(config, server=True), wrap_keys(config, server=False)
    request = theirs.seal(RESET.head, Stamp(1, 5), RESET.body)
    reply = admission().answer_reset(ours.open(request), CLIENT, 0.0, 0)
    assert (len(request), len(reply)) == (54, 66)
    assert theirs.open(reply).stamp == Stamp(1, 0)


def test_a_cookie_is_good_where_it_was_given() -> None:
    gate = admission()
    sid = answered(gate, 1000.0)
    assert gate.confirm(third(sid), CLIENT, 1000.2) == sid
    acknowledgement = opened(Opcode.ACK, Body((0,), sid, None))
    assert gate.confirm(acknowledgement, CLIENT, 1000.2) == sid


@pytest.mark.parametrize(
    ("place", "client"),
    [
        ((0, ("192.0.2.2", 40000)), SID),
        ((0, ("192.0.2.1", 40001)), SID),
        ((0, ("192.0.2.14", 0)), SID),
        ((0, ("2001:db8::1", 40000, 0, 0)), SID),
        ((1, ("192.0.2.1", 40000)), SID),
        (CLIENT, b"another!"),
    ],
)
def test_a_cookie_is_bad_for_another_place_or_session(place: Place, client: bytes) -> None:
    gate = admission()
    sid = answered(gate, 1000.0)
    with pytest.raises(PeerError):
        gate.confirm(third(sid, client=client), place, 1000.2)


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_of_a_cookie_counts(bit: int) -> None:
    gate = admission()
    sid = int.from_bytes(answered(gate, 1000.0), "big") ^ 1 << bit
    with pytest.raises(PeerError):
        gate.confirm(third(sid.to_bytes(8, "big")), CLIENT, 1000.0)


def test_another_server_gives_another_cookie() -> None:
    sid = answered(Admission(b"x" * 32, HAND_WINDOW, Frequency(7, 4.0)), 1000.0)
    with pytest.raises(PeerError):
        admission().confirm(third(sid), CLIENT, 1000.0)


@pytest.mark.parametrize(("slots", "good"), [(-1, False), (0, True), (1, True), (2, True), (3, False), (1000, False)])
def test_age_of_a_cookie(slots: int, good: bool) -> None:
    gate, given = admission(), 100 * SLOT + 1
    sid = answered(gate, given)
    if good:
        gate.confirm(third(sid), CLIENT, given + slots * SLOT)
        return
    with pytest.raises(PeerError):
        gate.confirm(third(sid), CLIENT, given + slots * SLOT)


@pytest.mark.parametrize(
    "packet",
    [
        opened(Opcode.HARD_RESET_CLIENT, Body((), None, 1)),
        opened(Opcode.HARD_RESET_CLIENT, Body((), None, 0, b"x")),
        opened(Opcode.HARD_RESET_CLIENT, Body((0,), SID, 0)),
        opened(Opcode.HARD_RESET_CLIENT, Body((), None, 0), key_id=1),
        opened(Opcode.HARD_RESET_SERVER, Body((), None, 0)),
        opened(Opcode.SOFT_RESET, Body((), None, 0)),
        opened(Opcode.CONTROL, Body((), None, 0)),
        opened(Opcode.ACK, Body((0,), SID, None)),
    ],
)
def test_only_a_first_packet_is_answered(packet: Opened) -> None:
    with pytest.raises(PeerError):
        admission().answer_reset(packet, CLIENT, 0.0, 0)


@pytest.mark.parametrize(
    ("acks", "message_id"), [((1,), 1), ((0, 1), 1), ((0,), 0), ((0,), 2), ((0,), 2**32 - 1), ((2**32 - 1,), 1)]
)
def test_a_session_begins_with_message_1_that_acknowledges_0(acks: tuple[int, ...], message_id: int) -> None:
    gate = admission()
    sid = answered(gate, 0.0)
    with pytest.raises(PeerError):
        gate.confirm(third(sid, acks=acks, message_id=message_id), CLIENT, 0.0)


@pytest.mark.parametrize("opcode", [Opcode.SOFT_RESET, Opcode.HARD_RESET_CLIENT, Opcode.HARD_RESET_SERVER])
def test_a_reset_confirms_nothing(opcode: Opcode) -> None:
    gate = admission()
    with pytest.raises(PeerError):
        gate.confirm(opened(opcode, Body((0,), answered(gate, 0.0), 1)), CLIENT, 0.0)


def test_answers_are_rationed_and_keep_nothing() -> None:
    gate, given = admission(), 0
    for n in range(100_000):  # spoofed, within one period
        try:
            gate.answer_reset(RESET, (0, (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1)), 5.0 + n / 100_000, 0)
            given += 1
        except PeerError:
            continue
    assert given == 7
    assert {type(value) for value in vars(gate).values()} <= {bytes, float, int, Shares}, "no state"
    assert len(gate._shares._taken) == 7, "whoever was answered in this period, and nobody else"
    others = ((0, (f"192.0.2.{n}", 1)) for n in range(100))
    answered(gate, 9.0, next(others))
    assert len(gate._shares._taken) == 1
    for _ in range(6):
        answered(gate, 12.9, next(others))
    with pytest.raises(PeerError, match="more than 7 first packets in 4 s"):
        answered(gate, 12.9, next(others))
    gate.welcomed(("192.0.2.3", 77))
    answered(gate, 12.9, next(others))
    with pytest.raises(PeerError):
        answered(gate, 12.9, next(others))


def taken(shares: Shares, source: int, times: int = 1000) -> int:
    """How many of so many attempts are answered."""
    given = 0
    for _ in range(times):
        try:
            shares.take((4, source.to_bytes(4, "big")), 1.0)
            given += 1
        except PeerError:
            continue
    return given


@pytest.mark.parametrize(("most", "share"), [(1, 1), (3, 1), (7, 2), (10, 2), (100, 20), (4000, 800)])
def test_one_source_has_a_fifth_of_the_answers(most: int, share: int) -> None:
    """Whatever comes from one address, others are answered; who logs in makes room for the next; time does, too."""
    shares, crowd = Shares(Frequency(most, 10.0)), (4, bytes(4))
    assert taken(shares, 0) == share
    assert taken(shares, 1, times=1) == (most > 1)
    shares = Shares(Frequency(most, 10.0))
    assert taken(shares, 0) == share
    shares.give_back(crowd)
    assert taken(shares, 0) == 1
    with pytest.raises(PeerError):
        shares.take(crowd, 10.9)
    shares.take(crowd, 11.0)


@pytest.mark.parametrize(("sources", "left"), [(1, 80), (4, 50), (16, 20), (40, 8), (96, 4)])
def test_however_many_come_again_a_few_answers_are_left_for_who_comes_first(sources: int, left: int) -> None:
    shares = Shares(Frequency(100, 10.0))
    for _ in range(100):
        for source in range(sources):
            taken(shares, source, times=1)
    assert left - 4 <= shares._left <= left + 4 and shares._left
    assert taken(shares, 9999) >= 1


def test_what_is_given_back_is_no_credit() -> None:
    """Nor is what was taken in a period that is over."""
    shares, one, other = Shares(Frequency(2, 1.0)), (4, b"aaaa"), (4, b"bbbb")
    for _ in range(5):
        shares.give_back(one)
    shares.take(one, 0.0)
    with pytest.raises(PeerError):
        shares.take(one, 0.0)
    shares.take(other, 1.0)
    for _ in range(5):
        shares.give_back(one)
        shares.give_back(other)
    assert shares._left == 2 and not shares._taken


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("192.0.2.1", 1), ("192.0.2.1", 2), True),
        (("192.0.2.1", 1), ("192.0.2.2", 1), False),
        (("::ffff:192.0.2.1", 1, 0, 0), ("192.0.2.1", 1), True),
        (("::ffff:192.0.2.1", 1, 0, 0), ("::ffff:192.0.2.2", 1, 0, 0), False),
        (("2001:db8::1", 1, 0, 0), ("2001:db8::ffff:1", 2, 0, 0), True),
        (("2001:db8::1", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 3), ("fe80::2", 1, 0, 3), True),
    ],
)
def test_who_counts_as_one(one: SockAddr, other: SockAddr, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


# --- addresses


def test_addresses_are_given_in_turn_and_again_to_the_same_name() -> None:
    pool = AddressPool(IPv4Network("10.8.0.0/29"))
    assert pool.server == IPv4Address("10.8.0.1")
    first, second = pool.lease("a"), pool.lease("b")
    assert (str(first), str(second)) == ("10.8.0.2/29", "10.8.0.3/29")
    pool.release(first.ip)
    assert str(pool.lease("c")) == "10.8.0.4/29", "an address rests first"
    assert str(pool.lease("a")) == "10.8.0.2/29"


def test_a_remembered_address_may_be_taken() -> None:
    pool = AddressPool(IPv4Network("10.8.0.0/30"))
    pool.release(pool.lease("a").ip)
    assert str(pool.lease("b")) == "10.8.0.2/30"
    with pytest.raises(PeerError) as caught:
        pool.lease("a")
    assert caught.value.consequence is Consequence.END_SESSION


def test_what_somebody_owns_is_given_to_others_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has an address by his own file comes again, and nobody shall have to make room then."""
    monkeypatch.setattr(leases, "MAX_REMEMBERED", 3)
    pool = leases.Leases(1, 4)
    for _ in range(2):
        pool.claim(1)
        pool.release(1)
    assert [pool.lease(name) for name in "abcd"] == [2, 3, 4, 1]
    for number in range(10, 20):
        pool.claim(number)
    assert len(pool._owned) == 3 and len(pool._had) <= 6


def test_a_full_pool_gives_each_address_once() -> None:
    network = IPv4Network("10.8.0.0/26")
    pool = AddressPool(network)
    leased = {pool.lease(str(n)).ip for n in range(61)}
    assert len(leased) == 61 and pool.server not in leased and network.broadcast_address not in leased
    with pytest.raises(PeerError):
        pool.lease("one more")
    back = leased.pop()
    pool.release(back)
    pool.release(back)
    assert pool.lease("one more").ip == back


def test_memory_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_REMEMBERED", 8)
    pool = AddressPool(IPv4Network("10.8.0.0/16"))
    for n in range(50):
        pool.release(pool.lease(str(n)).ip)
    assert len(pool._leases.remembered) == 8


@pytest.mark.parametrize(
    ("network", "topology", "first", "last", "count"),
    [
        ("10.8.0.0/24", "subnet", "10.8.0.2 255.255.255.0", "10.8.0.254 255.255.255.0", 253),
        ("10.8.0.0/24", "net30", "10.8.0.6 10.8.0.5", "10.8.0.250 10.8.0.249", 62),
        ("10.8.0.0/28", "net30", "10.8.0.6 10.8.0.5", "10.8.0.10 10.8.0.9", 2),
        ("10.8.0.0/24", "p2p", "10.8.0.4 10.8.0.1", "10.8.0.251 10.8.0.1", 248),
        ("10.8.0.16/28", "p2p", "10.8.0.20 10.8.0.17", "10.8.0.27 10.8.0.17", 8),
    ],
)
def test_addresses_of_each_topology(network: str, topology: str, first: str, last: str, count: int) -> None:
    pool = AddressPool(IPv4Network(network), topology)
    leases = [pool.lease(str(n)) for n in range(count)]
    assert (pool.ifconfig(leases[0]), pool.ifconfig(leases[-1])) == (first, last)
    assert len({lease.ip for lease in leases}) == count
    with pytest.raises(PeerError):
        pool.lease("one more")
    pool.release(leases[0].ip)
    assert pool.lease("one more").ip == leases[0].ip


@pytest.mark.parametrize(
    ("network", "first", "second", "count"),
    [
        ("fd42:8::/64", "fd42:8::1000/64 fd42:8::1", "fd42:8::1001/64 fd42:8::1", 0),
        ("fd42:8::/111", "fd42:8::1000/111 fd42:8::1", "fd42:8::1001/111 fd42:8::1", 0),
        ("fd42:8::/112", "fd42:8::2/112 fd42:8::1", "fd42:8::3/112 fd42:8::1", 0),
        ("fd42:8::/124", "fd42:8::2/124 fd42:8::1", "fd42:8::3/124 fd42:8::1", 13),
    ],
)
def test_ipv6_addresses(network: str, first: str, second: str, count: int) -> None:
    """As openvpn gives them. `count`: so many there are, where they can be tried."""
    pool = AddressPool6(IPv6Network(network))
    leases = [pool.lease("a"), pool.lease("b")]
    assert [f"{each} {pool.server}" for each in leases] == [first, second]
    pool.release(leases[0].ip)
    assert pool.lease("a") == leases[0]
    if count:
        assert len({pool.lease(str(n)) for n in range(count - 2)}) == count - 2
        with pytest.raises(PeerError):
            pool.lease("one more")


@pytest.mark.parametrize(
    ("topology", "bounds", "given"),
    [
        ("subnet", ("10.8.0.9", "10.8.0.10"), ["10.8.0.9", "10.8.0.10"]),
        ("net30", ("10.8.0.8", "10.8.0.15"), ["10.8.0.10", "10.8.0.14"]),
        ("subnet", (), []),
    ],
)
def test_a_pool_of_its_own(topology: str, bounds: tuple[str, ...], given: list[str]) -> None:
    pool = AddressPool(IPv4Network("10.8.0.0/24"), topology, tuple(map(IPv4Address, bounds)))
    assert [str(pool.lease(str(n)).ip) for n in range(len(given))] == given
    with pytest.raises(PeerError):
        pool.lease("one more")


def test_what_somebody_had_is_given_to_others_last() -> None:
    pool = AddressPool(IPv4Network("10.8.0.0/29"))
    pool.recall("ada", IPv4Address("10.8.0.2"))
    pool.recall("bob", IPv4Address("10.9.0.2"))
    others = [str(pool.lease(name).ip) for name in ("bob", "c", "d", "e")]
    assert others == [f"10.8.0.{n}" for n in (3, 4, 5, 6)]
    assert str(pool.lease("ada").ip) == "10.8.0.2"
    assert pool.remembered()["ada"] == "10.8.0.2"

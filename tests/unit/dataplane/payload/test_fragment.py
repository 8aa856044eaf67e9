# SPDX-License-Identifier: BSD-2-Clause
"""Fragments: bytes on the wire, every order of arrival, and what a hostile peer may try."""

from __future__ import annotations

import itertools
import random

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Compression
from qubes_miragevpn.dataplane.interface import PayloadRules, PeerLimits
from qubes_miragevpn.dataplane.payload.fragment import LIFETIME, MAX_BUFFERS, MAX_PAYLOAD, Fragmenter
from tests.unit.dataplane.packets import THERE, client, far_end, ip_packet, wire


def head(kind: int, sequence: int, number: int, size: int = 0) -> bytes:
    return (kind | sequence << 2 | number << 10 | size // 4 << 15).to_bytes(4, "big")


def test_layout() -> None:
    sender = Fragmenter(100, 6)
    assert sender.split(b"x" * 100) == [bytes(4) + b"x" * 100]
    parts = sender.split(bytes(range(201)))
    assert [part[:4] for part in parts] == [head(1, 7, 0), head(1, 7, 1), head(2, 7, 2, 68)]
    assert b"".join(part[4:] for part in parts) == bytes(range(201))
    assert [len(part) - 4 for part in parts] == [68, 68, 65]


def test_sequence_ids_wrap() -> None:
    sender = Fragmenter(100, 255)
    assert sender.split(bytes(101))[0][:4] == head(1, 0, 0)


def test_every_length_comes_back_and_no_fragment_is_too_long() -> None:
    rng = random.Random(1)
    for largest in (4, 5, 100, 1183):
        sender, receiver = Fragmenter(largest, 0), Fragmenter(largest, 0)
        for length in [*range(1, 4 * largest, max(largest // 7, 1)), min(31 * (largest // 4 * 4), MAX_PAYLOAD)]:
            payload = rng.randbytes(length)
            parts = sender.split(payload)
            assert all(len(part) <= largest + 4 for part in parts)
            assert [receiver.join(part, 0.0) for part in parts][-1] == payload


def test_too_many_fragments_are_not_sent() -> None:
    assert len(Fragmenter(100, 0).split(bytes(3200))) == 32
    assert Fragmenter(100, 0).split(bytes(3201)) == []


def test_every_order_and_repetition() -> None:
    payload = random.Random(2).randbytes(350)
    parts = Fragmenter(100, 0).split(payload)
    for order in itertools.permutations(parts):
        receiver = Fragmenter(100, 0)
        came = [receiver.join(part, 0.0) for part in (*order[:2], order[0], *order[2:])]
        assert came == [None] * (len(came) - 1) + [payload]


def test_interleaved_payloads() -> None:
    rng, sender, receiver = random.Random(3), Fragmenter(100, 0), Fragmenter(100, 0)
    payloads = [rng.randbytes(rng.randrange(101, 900)) for _ in range(MAX_BUFFERS)]
    parts = [part for payload in payloads for part in sender.split(payload)]
    rng.shuffle(parts)
    assert sorted(filter(None, (receiver.join(part, 0.0) for part in parts))) == sorted(payloads)


def test_old_fragments_are_forgotten() -> None:
    parts, receiver = Fragmenter(100, 0).split(bytes(150)), Fragmenter(100, 0)
    assert receiver.join(parts[0], 0.0) is None
    assert receiver.join(parts[1], LIFETIME) is None
    assert receiver.join(parts[0], LIFETIME + 1) == bytes(150)


def test_buffers_are_bounded_and_the_oldest_goes() -> None:
    receiver = Fragmenter(100, 0)
    for sequence in range(256):
        assert receiver.join(head(1, sequence, 0) + bytes(100), float(sequence) / 1000) is None
        assert len(receiver._buffers) <= MAX_BUFFERS
    assert receiver.join(head(2, 255, 1, 100) + b"end", 1.0) == bytes(100) + b"end"
    assert receiver.join(head(2, 0, 1, 100) + b"end", 1.0) is None


@pytest.mark.parametrize(
    "framed",
    [
        b"", b"\0\0", head(0, 0, 0), head(1, 5, 0), head(0, 1, 0) + b"whole", head(0, 0, 1) + b"whole",
        head(3, 0, 0) + b"test", head(1, 0, 0) + b"odd", head(2, 0, 1, 0) + b"size 0", head(2, 0, 1, 4) + b"too long",
        head(1, 0, 31) + bytes(1000), head(2, 0, 31, 65532) + b"far away", head(1, 0, 0) + bytes(MAX_PAYLOAD + 4),
    ],
)  # fmt: skip
def test_malformed_fragments(framed: bytes) -> None:
    with pytest.raises(PeerError):
        Fragmenter(100, 0).join(framed, 0.0)


def test_a_last_fragment_twice_and_with_another_number() -> None:
    receiver = Fragmenter(100, 0)
    assert receiver.join(head(2, 0, 5, 100) + b"end", 0.0) is None
    assert receiver.join(head(2, 0, 1, 100) + b"end", 0.0) is None
    assert receiver.join(head(1, 0, 0) + bytes(100), 0.0) == bytes(100) + b"end"
    assert receiver._buffers == {}


def test_another_size_begins_anew() -> None:
    receiver = Fragmenter(100, 0)
    assert receiver.join(head(1, 0, 0) + bytes(100), 0.0) is None
    assert receiver.join(head(1, 0, 1) + bytes(96), 0.0) is None
    assert receiver.join(head(2, 0, 2, 96) + b"end", 0.0) is None


def test_random_fragments_never_do_worse_than_nothing() -> None:
    rng, receiver = random.Random(4), Fragmenter(100, 0)
    for _ in range(20000):
        framed = rng.randbytes(4) + bytes(rng.choice((0, 1, 4, 96, 100, 100, 1000)))
        try:
            whole = receiver.join(framed, 0.0)
        except PeerError:
            continue
        assert whole is None or 0 < len(whole) <= MAX_PAYLOAD
        assert len(receiver._buffers) <= MAX_BUFFERS


# --- in the data channel


@pytest.mark.parametrize("kind", [Compression.NONE, Compression.STUB, Compression.LZO])
@pytest.mark.parametrize("suite", ["AES-256-GCM", "AES-128-CBC"])
def test_long_packets_through_the_channel(suite: str, kind: Compression) -> None:
    """The last fragment is what `send` returns; those ahead of it are in the outbox."""
    limits = PeerLimits(payload=PayloadRules(kind, fragment=500))
    here, there = client(suite, limits=limits), far_end(suite, limits=limits)
    for size in (10, 460, 1000, 1472, 9000):
        inner = ip_packet("10.8.0.2", "198.51.100.7", bytes(size))
        last = wire(here, inner)
        packets = [*(packet for _, _, packet in here.outbox), last]
        here.outbox.clear()
        came = [there.receive(1, THERE, packet, 100.0) for packet in packets]
        assert came == [None] * (len(came) - 1) + [inner]
        assert len(came) == -(-(len(inner) + (kind is not Compression.NONE)) // 500)
    assert there.counters(1).packets_in == here.counters(1).packets_out == 5


def test_what_needs_too_many_fragments_is_dropped_and_counted() -> None:
    here = client(limits=PeerLimits(payload=PayloadRules(fragment=100)))
    assert here.send(ip_packet("10.8.0.2", "198.51.100.7", bytes(9000)), 100.0) is None
    assert here.counters(1).dropped_other == 1 and here.outbox == []

# SPDX-License-Identifier: BSD-2-Clause
"""Every format of the native data plane beside the reference's: the same bytes out, the same verdict on what comes."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.dataplane.interface import PeerLimits
from tests.unit.dataplane.native.twins import CASES, Case, Outcome, _native, make_twins

pytestmark = pytest.mark.needs_native

SIZES = (*range(1, 36), 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1399, 1400, 1500, 1599, 1600)


def sealed(outcome: Outcome) -> bytes:
    assert isinstance(outcome, bytes)
    return outcome


def spoilt(packet: bytes, chance: random.Random) -> bytes:
    """`packet` as a hostile network might make it."""
    match chance.randrange(8):
        case 0:
            return packet[: chance.randrange(len(packet) + 1)]
        case 1:
            return packet + chance.randbytes(chance.randrange(1, 40))
        case 2:
            return chance.randbytes(chance.randrange(120))
        case 3:
            return bytes([chance.randrange(256)]) + packet[1:]
        case 4:
            return packet[: chance.randrange(min(len(packet), 100))]
        case _:
            at = chance.randrange(len(packet))
            return packet[:at] + bytes([packet[at] ^ 1 << chance.randrange(8)]) + packet[at + 1 :]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_size_both_ways(case: Case) -> None:
    here, there = make_twins(case, 1)
    chance = random.Random(str(case))
    for size in (*SIZES, *(chance.randrange(1, 1601) for _ in range(20))):
        payload = chance.randbytes(size)
        assert there.open(sealed(here.seal(payload))) == payload
        assert here.open(sealed(there.seal(payload))) == payload
    assert here.seal(b"") == "other"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_a_hostile_network(case: Case, seed: int) -> None:
    """Loss, repetition, disorder and damage: both see the same, and a spoilt packet is never taken."""
    limits = PeerLimits(replay_window=16 if seed else 64)
    here, there = make_twins(case, seed, limits)
    chance = random.Random(f"{case} {seed}")
    kept: list[bytes] = []
    outcomes = set()
    for _ in range(250):
        payload = chance.randbytes(chance.randrange(1, 90))
        kept.append(sealed(here.seal(payload)))
        for _ in range(chance.randrange(3)):
            packet = kept[-1 - min(int(chance.expovariate(0.1)), len(kept) - 1)]
            outcome = there.open(packet)
            outcomes.add("taken" if isinstance(outcome, bytes) else outcome)
        bad = spoilt(chance.choice(kept[-20:]), chance)
        if bad not in kept:
            header = 0 if case.since else 4
            outcome = there.open(bad)
            # Nothing authenticates the header of CBC, nor the opcode of DATA_V1.
            if isinstance(outcome, bytes):
                assert any(bad[header:] == packet[header:] or bad[1:] == packet[1:] for packet in kept), bad.hex()
    assert outcomes == {"taken", "replay"}


@pytest.mark.parametrize("window", [1, 2, 63, 64, 65, 127, 128, 129, 1000, 65536])
def test_replay_windows(window: int) -> None:
    """Packet ids that leap, creep back and come again, at the edges of the window most of all."""
    case = Case("AES-128-GCM")
    chance = random.Random(window)
    _, there = make_twins(case, 5, PeerLimits(replay_window=window))
    sender = make_twins(case, 5)[0].reference.key
    highest = 1
    for _ in range(600):
        near = chance.choice((1, window - 1, window, window + 1, 64, chance.randrange(2 * window + 2)))
        number = max(0, highest + chance.choice((-near, 1, 0, -1, near // 8)))
        sender.packets_sent = number - 1
        if number:
            there.open(sender.seal(b"x"))
        highest = max(highest, number)


@pytest.mark.parametrize("case", [Case("AES-128-GCM"), Case("AES-128-GCM", epoch=True), CASES[-3]], ids=str)
def test_packets_that_are_late(case: Case) -> None:
    here, there = make_twins(case, 6, PeerLimits(replay_time=2.0))
    chance = random.Random(str(case))
    now, outcomes = 100.0, []
    kept: list[bytes] = []
    for _ in range(400):
        now += chance.expovariate(8.0)
        kept.append(sealed(here.seal(b"payload")))
        if len(kept) > 30:
            outcomes.append(there.open(kept.pop(chance.randrange(30)), now))
    assert {"replay", b"payload"} == set(outcomes)


def test_what_does_not_fit_is_refused() -> None:
    key, iv = bytes(32), bytes(8)
    good = {"key_id": 0, "suite": "AES-256-GCM", "send": (key, iv, b""), "receive": (key, iv, b"")}
    hmac = (key, b"", bytes(32))
    cases: list[dict[str, object]] = [
        {"key_id": 8},
        {"suite": "AES-256-CFB"},
        {"suite": "BF-CBC"},
        {"send": (key[1:], iv, b"")},
        {"receive": (key, iv[1:], b"")},
        {"peer_id": 1 << 24},
        {"replay_window": 0},
        {"replay_window": 65537},
        {"suite": "AES-256-CBC", "send": hmac, "receive": hmac},
        {"suite": "AES-256-CBC", "send": hmac, "receive": hmac, "digest": "SHA1"},
        {"suite": "AES-256-CBC", "send": hmac, "receive": hmac, "digest": "SHA256", "epoch": True},
        {"since": 1},
        {"epoch": True, "peer_id": 0xFFFFFF},
        {"epoch": True, "send": (key[1:], b"", b"")},
        {"suite": "none", "send": hmac, "receive": hmac, "digest": "SHA256", "since": 1},
    ]
    _native.Key(**good, entropy=random.randbytes)  # type: ignore[arg-type]
    for wrong in cases:
        with pytest.raises(ValueError):
            _native.Key(**good | wrong, entropy=random.randbytes)  # type: ignore[arg-type]


def test_no_entropy_is_no_packet() -> None:
    def broken(_: int) -> bytes:
        raise OSError

    way = (bytes(16), b"", bytes(20))
    for source in (broken, lambda n: bytes(n - 1)):
        key = _native.Key(0, "AES-128-CBC", way, way, source, digest="SHA1")
        with pytest.raises(_native.Refused):
            key.seal(b"payload")
        assert key.sent == (0, 0)


def test_another_peer_id() -> None:
    key, iv = bytes(32), bytes(8)
    made = _native.Key(2, "AES-256-GCM", (key, iv, b""), (key, iv, b""), random.randbytes, peer_id=7)
    assert made.seal(b"x")[:4] == bytes([9 << 3 | 2, 0, 0, 7])
    made.address(0xFFFFFF)
    assert made.seal(b"x")[0] == 6 << 3 | 2
    with pytest.raises(ValueError):
        made.address(1 << 24)

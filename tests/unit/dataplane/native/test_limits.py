# SPDX-License-Identifier: BSD-2-Clause
"""When a native key reports that it should be replaced, when it stops, and how epochs follow each other: packet by
packet as the reference does it, from lives that begin shortly before their end."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.crypto.epoch import LAST_EPOCH
from qubes_miragevpn.dataplane.formats.epoch import RENEW_EPOCH
from qubes_miragevpn.dataplane.interface import PeerLimits
from qubes_miragevpn.dataplane.keys import LAST_PACKET_ID, MAX_FAILED_TAGS, RENEW_FAILED_TAGS, RENEW_PACKET_ID
from tests.unit.dataplane.native.twins import Case, make_twins

pytestmark = pytest.mark.needs_native

AES = Case("AES-256-GCM")
EPOCH = Case("AES-128-GCM", epoch=True)


@pytest.mark.parametrize("case", [AES, EPOCH, Case("CHACHA20-POLY1305"), Case("AES-128-CBC", "SHA1")], ids=str)
@pytest.mark.parametrize(
    "limits",
    [PeerLimits(reneg_bytes=n) for n in (5_000_000, 1)] + [PeerLimits(reneg_pkts=n) for n in (300, 1)],
    ids=["bytes", "one byte", "packets", "one packet"],
)
def test_configured_volumes(case: Case, limits: PeerLimits) -> None:
    here, there = make_twins(case, 3, limits)
    chance = random.Random(str(case))
    reports = 0
    for _ in range(450):
        payload = bytes(chance.choice((1, 100, 60_000)))
        one, other = (here, there) if chance.random() < 0.7 else (there, here)
        packet = one.seal(payload)
        reports += one is here and one.exhausted
        assert isinstance(packet, bytes)
        assert other.open(packet) == payload
        reports += other is here and other.exhausted
    assert reports == 1


@pytest.mark.parametrize("case", [AES, Case("AES-256-CBC", "SHA256"), Case("CHACHA20-POLY1305")], ids=str)
def test_packet_ids_run_out(case: Case) -> None:
    here, _ = make_twins(case, 4, packets_sent=RENEW_PACKET_ID - 20)
    reported = [here.seal(b"x") and here.exhausted for _ in range(40)]
    assert sum(map(bool, reported)) == 1
    here, _ = make_twins(case, 4, packets_sent=LAST_PACKET_ID - 5)
    assert [isinstance(here.seal(b"x"), bytes) for _ in range(8)] == [True] * 5 + [False] * 3


@pytest.mark.parametrize("limit", [100, 5000, 400_000])
def test_blocks_run_out(limit: int) -> None:
    here, there = make_twins(AES, 5, usage_limit=limit)
    chance = random.Random(limit)
    reports = 0
    for _ in range(2000):
        payload = bytes(chance.choice((1, 16, 1400, 40_000)))
        packet = here.seal(payload)
        reports += here.exhausted
        if packet == "other":
            break
        assert isinstance(packet, bytes)
        there.open(packet)
    else:
        pytest.fail("the key was never spent")
    assert reports == 1


@pytest.mark.parametrize("case", [AES, EPOCH], ids=str)
def test_forgeries_wear_a_key_out(case: Case) -> None:
    good, there = make_twins(case, 6, failed_tags=RENEW_FAILED_TAGS - 2)
    packet = good.seal(b"payload")
    assert isinstance(packet, bytes)
    bad = packet[:-1] + bytes([packet[-1] ^ 1])
    told = [there.open(bad) and there.exhausted for _ in range(6)]
    assert sum(map(bool, told)) == (0 if case.epoch else 1)
    assert there.native.key.send_epoch == (2 if case.epoch else 1)  # an epoch gives way to the next
    _, there = make_twins(case, 6, failed_tags=MAX_FAILED_TAGS - 2)
    assert [there.open(bad) for _ in range(6)] == ["auth"] * 3 + ["other"] * 3
    assert there.open(packet) == "other"


@pytest.mark.parametrize(("start", "seed"), [(0, 1), (0, 2), (0, 3), (RENEW_EPOCH - 3, 1), (LAST_EPOCH - 9, 1)])
def test_epochs_follow_each_other(start: int, seed: int) -> None:
    """Keys that last for a few packets, over a link that loses and repeats: both ends pull each other on."""
    here, there = make_twins(EPOCH, seed, epoch=start, usage_limit=40)
    chance = random.Random(f"epochs {seed}")
    kept: list[bytes] = []
    seen = set()
    for _ in range(400):
        one, other = (here, there) if chance.random() < 0.8 else (there, here)
        packet = one.seal(chance.randbytes(chance.randrange(1, 60)))
        if isinstance(packet, bytes):
            seen.add(int.from_bytes(packet[4:6], "big"))
            if chance.random() < 0.9:
                other.open(packet)
            kept.append(packet)
        if chance.random() < 0.3 and kept:
            there.open(chance.choice(kept[-30:]))
    assert len(seen) > 8
    if start == LAST_EPOCH - 9:
        assert here.seal(b"x") == "other"  # the last epoch's key is spent as well


@pytest.mark.parametrize("ahead", range(8))
def test_a_leap_ahead(ahead: int) -> None:
    """A peer may be up to four epochs ahead (exactly four: CVE-2025-15497); what is older comes late, or never."""
    here, there = make_twins(EPOCH, 9)
    late = here.seal(b"late")
    ahead_of, _ = make_twins(EPOCH, 9, epoch=1 + ahead)
    packet = ahead_of.seal(b"ahead")
    assert isinstance(packet, bytes)
    assert isinstance(late, bytes)
    forged = packet[:-1] + bytes([packet[-1] ^ 1])
    assert there.open(forged) == ("auth" if ahead <= 4 else "other")
    assert there.native.key.send_epoch == 1
    assert there.open(packet) == (b"ahead" if ahead <= 4 else "other")
    assert there.native.key.send_epoch == (1 + ahead if ahead <= 4 else 1)
    there.open(late)
    there.seal(b"answer")


@pytest.mark.parametrize("number", [0, 1 << 48, (1 << 48) + (1 << 48) - 1, 0xFFFF << 48 | 1, 0xFFFA << 48 | 1])
def test_numbers_at_the_edge(number: int) -> None:
    _, there = make_twins(EPOCH, 10)
    there.open(bytes([9 << 3 | 3, 1, 2, 3]) + number.to_bytes(8, "big") + bytes(40))

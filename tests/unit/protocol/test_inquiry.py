# SPDX-License-Identifier: BSD-2-Clause
"""OCC: questions about settings and sizes, answers, and what is told of settings that differ."""

from __future__ import annotations

import pytest

from qubes_miragevpn.crypto.suites import SUITES
from qubes_miragevpn.dataplane.inband import OCC_MAGIC
from qubes_miragevpn.protocol.inquiry import ASK, ASK_TIMES, Inquiries, options_in
from qubes_miragevpn.protocol.sizes import Carrier
from qubes_miragevpn.protocol.wire.occ import mismatches

GCM, CBC = Carrier(SUITES["AES-256-GCM"]), Carrier(SUITES["AES-256-CBC"], "SHA256", peer_id=False, static=True)
OURS = "V4,dev-type tun,tun-mtu 1500,cipher X"


def made(carrier: Carrier = GCM) -> Inquiries:
    return Inquiries(OURS, carrier)


def test_our_options_string_is_told_to_whoever_asks() -> None:
    reply = made().answer(b"\0", 60, 0.0)
    assert reply == OCC_MAGIC + b"\1" + OURS.encode() + b"\0" and options_in(reply[16:]) == OURS


@pytest.mark.parametrize("carrier", [GCM, CBC])
@pytest.mark.parametrize("size", [200, 1000, 1450, 60000])
def test_a_load_packet_is_as_long_as_was_asked_for(carrier: Carrier, size: int) -> None:
    reply = made(carrier).answer(b"\2" + size.to_bytes(2, "big"), 60, 0.0)
    assert reply[:19] == OCC_MAGIC + b"\3" + size.to_bytes(2, "big")
    wanted = min(size, 1500)
    assert wanted - 16 <= carrier.packet_size(len(reply)) <= wanted + 16 * (carrier is CBC)
    assert carrier is CBC or carrier.packet_size(len(reply)) == wanted


def test_the_largest_sizes_are_told() -> None:
    asked = made()
    asked.answer(b"\3\x05\x00", 1280, 0.0)
    asked.answer(b"\2\x04\x00", 60, 1.0)
    assert asked.answer(b"\4", 60, 2.0) == OCC_MAGIC + b"\5" + (1280).to_bytes(2, "big") + (1024).to_bytes(2, "big")


@pytest.mark.parametrize("message", [b"", b"\1", b"\3", b"\5\0\0\0\0", b"\7", b"\xff" * 512, b"\2", b"\2\5"])
def test_what_asks_nothing_gets_no_answer(message: bytes) -> None:
    assert made().answer(message, 60, 0.0) == b""


def test_answers_are_rationed() -> None:
    asked = made()
    answers = [asked.answer(b"\0", 60, n / 1000) for n in range(1000)]
    assert 1 <= sum(map(bool, answers)) <= 11


def test_questions_end() -> None:
    asked, now, times = made(), 5.0, 0
    assert asked.deadline is None and not asked.question(0.0)
    asked.begin(now)
    while (at := asked.deadline) is not None:
        now, times = at, times + 1
        assert asked.question(now) == ASK and not asked.question(now)
    assert (times, now) == (ASK_TIMES, 5.0 + 110)
    asked.begin(200.0)
    assert asked.replied() and not asked.replied() and asked.deadline is None


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (OURS, []),
        ("", []),
        ("V5,dev-type tap", []),
        ("V4,dev-type tun,tun-mtu 1400,cipher Y",
         ["'tun-mtu' is used inconsistently, local='tun-mtu 1500', remote='tun-mtu 1400'"]),
        ("V4,dev-type tun,tun-mtu 1500,comp-lzo,cipher X,proto z",
         ["'comp-lzo' is present in remote config but missing in local config, remote='comp-lzo'"]),
        ("V4,tun-mtu 1500",
         ["'dev-type' is present in local config but missing in remote config, local='dev-type tun'"]),
    ],
)  # fmt: skip
def test_what_differs_is_told_in_openvpns_words(theirs: str, told: list[str]) -> None:
    assert mismatches(OURS, theirs) == told


def test_what_differs_is_bounded_and_printable() -> None:
    told = mismatches(OURS, "V4," + ",".join(f"evil\x1b{n} \x07{'y' * 999}" for n in range(5000)))
    assert 0 < len(told) <= 10 and all(line.isprintable() and len(line) < 300 for line in told)
    assert mismatches(OURS, "V4,tun-mtu 1400", settled=frozenset({"tun-mtu", "dev-type"})) == []

# SPDX-License-Identifier: BSD-2-Clause
"""Sizes of data packets: the published numbers, and packets that are really made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.config.model import Common, Compression, NoWrap, PeerPolicy, Proto, SizeOf
from qubes_miragevpn.crypto.suites import SUITES, Mode
from qubes_miragevpn.protocol.limits import peer_limits
from qubes_miragevpn.protocol.sizes import Carrier
from tests.unit.dataplane.packets import client

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "sizes.json").read_text())


def carrier(fields: dict[str, Any]) -> Carrier:
    fields = dict(fields)
    return Carrier(SUITES[fields.pop("cipher")], **fields)


@pytest.mark.parametrize("vector", VECTORS["link_mtu"], ids=lambda v: f"{v['cipher']}-{v['link_mtu']}")
def test_published_link_mtu(vector: dict[str, Any]) -> None:
    fields = dict(vector)
    expected = fields.pop("link_mtu")
    assert carrier(fields).link_mtu(VECTORS["tun_mtu"]) == expected


def test_published_mssfix() -> None:
    vector = VECTORS["mssfix"]
    for size in range(vector["from"], vector["to"] + 1):
        common = Common(NoWrap(), None, PeerPolicy(ca_pem=b"x"), mssfix=size, mssfix_of=SizeOf.LINK)
        limits = peer_limits(common, Proto.UDP, ("192.0.2.1", 1194), cipher=vector["cipher"], ping=0, silence=0)
        assert (limits.mss4, limits.mss6) == (size - vector["less"], size - vector["less"] - 20)


@pytest.mark.parametrize(
    ("cipher", "digest", "more", "expected"),
    [
        # what openvpn 2.6.14 says over UDP and IPv4 with its default, 1492 of the outer packet
        ("AES-256-GCM", "", {}, 1400),
        ("AES-256-GCM", "", {"epoch": True}, 1396),
        ("AES-256-CBC", "SHA256", {}, 1363),
        ("AES-256-GCM", "", {"compression": Compression.STUB}, 1399),
        ("AES-256-GCM", "", {"compression": Compression.STUB_V2}, 1400),
        ("AES-256-GCM", "", {"peer_id": False}, 1403),
    ],
)
def test_mss_of_the_default(cipher: str, digest: str, more: dict[str, Any], expected: int) -> None:
    common = Common(NoWrap(), None, PeerPolicy(ca_pem=b"x"), digest=digest)
    limits = peer_limits(common, Proto.UDP, ("192.0.2.1", 1194), cipher=cipher, ping=0, silence=0, **more)
    assert (limits.mss4, limits.mss6) == (expected, expected - 20)


@pytest.mark.parametrize("size", [*range(990, 1011)])
def test_cbc_rounds_down_to_blocks(size: int) -> None:
    """Whatever fits the MSS fits the size, and a block more would not: packets really made."""
    common = Common(NoWrap(), None, PeerPolicy(ca_pem=b"x"), mssfix=size, mssfix_of=SizeOf.LINK, digest="SHA256")
    limits = peer_limits(common, Proto.UDP, ("192.0.2.1", 1194), cipher="AES-128-CBC", ping=0, silence=0)
    channel = client("AES-128-CBC")
    for extra in (0, 1):
        channel.send_inner(1, b"x" * (limits.mss4 + 40 + extra), 100.0)
    fits, too_long = (len(packet) for _, _, packet in channel.outbox)
    assert fits <= size < too_long


@pytest.mark.parametrize("suite", ["AES-256-GCM", "AES-256-CBC", "BF-CBC", "none"])
@pytest.mark.parametrize("meaning", [SizeOf.LINK, SizeOf.OUTER])
@pytest.mark.parametrize("size", [300, 577, 1000])
def test_no_fragment_is_longer_than_it_may_be(suite: str, meaning: SizeOf, size: int) -> None:
    common = Common(NoWrap(), None, PeerPolicy(ca_pem=b"x"), fragment=size, fragment_of=meaning, digest="SHA256")
    limits = peer_limits(common, Proto.UDP, ("192.0.2.1", 1194), cipher=suite, ping=0, silence=0)
    channel = client(suite, limits=limits)
    whole = limits.payload.fragment - limits.payload.fragment % 4
    channel.send_inner(1, b"x" * (3 * whole), 100.0)
    longest = max(len(packet) for _, _, packet in channel.outbox)
    most = size - (28 if meaning is SizeOf.OUTER else 0)
    assert most - 20 < longest <= most and len(channel.outbox) == 3
    over_tcp = peer_limits(common, Proto.TCP, ("192.0.2.1", 1194), cipher=suite, ping=0, silence=0)
    assert over_tcp.payload.fragment == 0


@pytest.mark.parametrize("suite", sorted(SUITES))
@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000, 1403])
def test_what_a_packet_really_measures(suite: str, size: int) -> None:
    """The room for the payload is what just fits: one byte more and the packet is too long."""
    facts = SUITES[suite]
    digest = "" if facts.mode is Mode.AEAD else "SHA256"
    made = Carrier(facts, digest)
    channel = client(suite)
    channel.send_inner(1, b"x" * size, 100.0)
    length = len(channel.outbox[0][2])
    overhead = made.payload_overhead()
    assert made.payload_room(length) >= size + overhead
    channel.send_inner(1, b"x" * (made.payload_room(length) - overhead), 100.0)
    channel.send_inner(1, b"x" * (made.payload_room(length) - overhead + 1), 100.0)
    assert len(channel.outbox[1][2]) == length < len(channel.outbox[2][2])

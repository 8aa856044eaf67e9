# SPDX-License-Identifier: BSD-2-Clause
"""Sizes of data packets: the published numbers, and packets that are really made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qubes_miragevpn.crypto.suites import SUITES, Mode
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

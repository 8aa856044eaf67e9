# SPDX-License-Identifier: BSD-2-Clause
"""Addresses of inner packets, and headers that lie."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.dataplane.ip import addresses
from tests.unit.dataplane.packets import ip_packet


@pytest.mark.parametrize(("source", "destination"), [("10.1.2.3", "255.254.253.252"), ("fd00::1", "2001:db8::ffff")])
@pytest.mark.parametrize("payload", [b"", b"x", bytes(1480)])
def test_addresses(source: str, destination: str, payload: bytes) -> None:
    ends = ip_address(source).packed, ip_address(destination).packed
    assert addresses(ip_packet(source, destination, payload)) == ends


@pytest.mark.parametrize("packet", [ip_packet("10.0.0.1", "10.0.0.2"), ip_packet("fd00::1", "fd00::2")])
def test_every_other_length_is_refused(packet: bytes) -> None:
    for end in range(len(packet)):
        with pytest.raises(PeerError):
            addresses(packet[:end])
    with pytest.raises(PeerError):
        addresses(packet + b"\0")


@pytest.mark.parametrize("first", [*range(0x40, 0x45), 0x4F, 0x00, 0x50, 0x65 ^ 0xF0, 0xFF])
def test_bad_versions_and_header_lengths(first: int) -> None:
    packet = ip_packet("10.0.0.1", "10.0.0.2", b"short")
    with pytest.raises(PeerError):
        addresses(bytes([first]) + packet[1:])


def test_an_ipv6_jumbogram_is_refused() -> None:
    packet = ip_packet("fd00::1", "fd00::2", bytes(100))
    with pytest.raises(PeerError):
        addresses(packet[:4] + b"\0\0" + packet[6:])


def test_random_bytes_give_addresses_or_the_one_error() -> None:
    rng = random.Random(3)
    for _ in range(5000):
        packet = rng.randbytes(rng.randrange(0, 80))
        try:
            source, destination = addresses(packet)
        except PeerError:
            continue
        assert len(source) == len(destination) in (4, 16)

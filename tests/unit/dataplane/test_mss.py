# SPDX-License-Identifier: BSD-2-Clause
"""MSS clamping: right when the SYN is right, and nothing at all when it is not."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.dataplane.mss import clamp
from tests.unit.dataplane.packets import ip_packet, tcp_packet

ENDS = {4: ("10.8.0.2", "198.51.100.7"), 6: ("fd00::2", "2001:db8::7")}
MSS_1460 = b"\x02\x04\x05\xb4"
MSS_1300 = b"\x02\x04\x05\x14"
MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (MSS_1460, MSS_1300),
        (b"\x01" + MSS_1460, b"\x01" + MSS_1300),  # at an odd offset: across two words of the checksum
        (b"\x01\x01" + MSS_1460, b"\x01\x01" + MSS_1300),
        (b"\x04\x02\x08\x0a" + bytes(8) + MSS_1460, b"\x04\x02\x08\x0a" + bytes(8) + MSS_1300),
        (MSS_1460 + MSS_1460, MSS_1300 + MSS_1300),  # no hiding behind a first one
        (b"\x02\x04\xff\xff", MSS_1300),
        (b"\x02\x04\x05\x14", b"\x02\x04\x05\x14"),  # as large as it may be
        (b"\x02\x04\x00\x00", b"\x02\x04\x00\x00"),
        (b"\x00" + MSS_1460, b"\x00" + MSS_1460),  # behind the end of the options
        (b"", b""),
    ],
)
@pytest.mark.parametrize("flags", [0x02, 0x12])
def test_syn(version: int, before: bytes, after: bytes, flags: int) -> None:
    """The right answer is the packet built with the lower value, checksum and all."""
    source, destination = ENDS[version]
    assert clamp(tcp_packet(source, destination, before, flags), 1300, 1300) == tcp_packet(
        source, destination, after, flags
    )


@pytest.mark.parametrize("version", [4, 6])
def test_random_values_keep_the_checksum_right(version: int) -> None:
    rng = random.Random(version)
    for _ in range(2000):
        value, limit, pad = rng.randrange(65536), rng.randrange(1, 65536), b"\x01" * rng.randrange(4)
        before = tcp_packet(*ENDS[version], pad + b"\x02\x04" + value.to_bytes(2, "big"))
        after = tcp_packet(*ENDS[version], pad + b"\x02\x04" + min(value, limit).to_bytes(2, "big"))
        assert clamp(before, limit, limit) == after


def test_each_family_has_its_own_limit() -> None:
    four, six = tcp_packet(*ENDS[4], MSS_1460), tcp_packet(*ENDS[6], MSS_1460)
    assert clamp(four, 0, 1300) == four
    assert clamp(six, 1300, 0) == six
    assert clamp(four, 1300, 0) == tcp_packet(*ENDS[4], MSS_1300)
    assert clamp(six, 0, 1300) == tcp_packet(*ENDS[6], MSS_1300)


def test_ipv4_header_options_are_stepped_over() -> None:
    plain, lowered = tcp_packet(*ENDS[4], MSS_1460), tcp_packet(*ENDS[4], MSS_1300)

    def with_options(packet: bytes) -> bytes:
        return b"\x47" + packet[1:20] + b"\x01" * 8 + packet[20:]

    assert clamp(with_options(plain), 1300, 1300) == with_options(lowered)


@pytest.mark.parametrize(
    "packet",
    [
        tcp_packet(*ENDS[4], MSS_1460, flags=0x10),
        tcp_packet(*ENDS[6], MSS_1460, flags=0x18),
        tcp_packet(*ENDS[4], MSS_1460, fragment=MORE_FRAGMENTS),
        tcp_packet(*ENDS[4], MSS_1460, fragment=1),
        ip_packet(*ENDS[4], tcp_packet(*ENDS[4], MSS_1460)[20:], protocol=17),
        ip_packet(*ENDS[6], b"\x06\0\0\0" + tcp_packet(*ENDS[6], MSS_1460)[40:], protocol=44),
    ],
    ids=["ack", "ack 6", "first fragment", "later fragment", "udp", "fragment 6"],
)
def test_what_is_no_whole_syn_stays_as_it_is(packet: bytes) -> None:
    assert clamp(packet, 1300, 1300) == packet


def test_dont_fragment_is_no_fragment() -> None:
    packet = tcp_packet(*ENDS[4], MSS_1460, fragment=DONT_FRAGMENT)
    assert clamp(packet, 1300, 1300) == tcp_packet(*ENDS[4], MSS_1300, fragment=DONT_FRAGMENT)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "options",
    [
        b"\x02\x00\x05\xb4",
        b"\x02\x01\x05\xb4",
        b"\x02\xff\x05\xb4",
        b"\x08\x00" + MSS_1460,
        b"\x08\x01" + MSS_1460,
        b"\x08\xff" + MSS_1460,
        b"\x01\x01\x01\x02",
        b"\x01\x01\x02\x04",
        b"\x02\x03\x05\xb4",
        b"\x02\x05\x05\xb4\x00",
        b"\xff" * 40,
    ],
)
def test_hostile_options_come_out_as_they_went_in(version: int, options: bytes) -> None:
    packet = tcp_packet(*ENDS[version], options)
    assert clamp(packet, 100, 100) == packet


@pytest.mark.parametrize("version", [4, 6])
def test_truncated_and_bent_headers_never_raise(version: int) -> None:
    """Cut at every byte, and with every value in each byte that is a length, an offset or a flag."""
    packet = tcp_packet(*ENDS[version], b"\x01" + MSS_1460 + b"\x08\x0a" + bytes(8))
    tcp = 20 if version == 4 else 40
    for end in range(1, len(packet)):
        assert len(clamp(packet[:end], 1300, 1300)) == end
    for at in (0, 6, 7, 9, tcp + 12, tcp + 13, *range(tcp + 20, len(packet))):
        for value in range(256):
            bent = packet[:at] + bytes([value]) + packet[at + 1 :]
            assert len(clamp(bent, 1300, 1300)) == len(packet)


def test_random_packets_never_raise_nor_change_their_length() -> None:
    rng = random.Random(7)
    for _ in range(5000):
        packet = bytes([rng.choice((0x45, 0x4F, 0x46, 0x60, 0x00))]) + rng.randbytes(rng.randrange(0, 120))
        assert len(clamp(packet, 536, 536)) == len(packet)

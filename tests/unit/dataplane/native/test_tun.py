# SPDX-License-Identifier: BSD-2-Clause
"""Large pieces of the TUN's: cut as a naive twin cuts them, and put together so that the twin gets the packets back."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address
from itertools import pairwise

import pytest

from tests.unit.dataplane.native.twins import _native
from tests.unit.dataplane.packets import checksum

pytestmark = pytest.mark.needs_native

NEEDS_CSUM, TCPV4, TCPV6, UDP_L4, ECN = 1, 1, 4, 5, 0x80
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
VNET = "=BBHHHH"
HERE4, THERE4 = ip_address("10.0.0.2").packed, ip_address("198.51.100.7").packed
HERE6, THERE6 = ip_address("fd00::2").packed, ip_address("2001:db8::7").packed


def ip_header(six: bool, transport: int, protocol: int, ident: int) -> bytes:
    if six:
        return b"\x60\0\0\0" + struct.pack(">HBB", transport, protocol, 64) + HERE6 + THERE6
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + transport, ident, 0x4000, 64, protocol, 0) + HERE4 + THERE4
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:]


def pseudo(six: bool, transport: int, protocol: int) -> bytes:
    if six:
        return HERE6 + THERE6 + struct.pack(">II", transport, protocol)
    return HERE4 + THERE4 + struct.pack(">BBH", 0, protocol, transport)


def tcp(six: bool, seq: int, flags: int, payload: bytes, ident: int = 7, ports: int = 0) -> bytes:
    """A TCP segment with all its checksums, with timestamps as Linux sends them."""
    options = b"\1\1\x08\x0a" + struct.pack(">II", 1000, 2000)
    head = struct.pack(">HHIIBBHHH", 40000 + ports, 443, seq & 0xFFFFFFFF, 77, 8 << 4, flags, 500, 0, 0) + options
    size = len(head) + len(payload)
    total = checksum(pseudo(six, size, 6) + head + payload)
    return ip_header(six, size, 6, ident) + head[:16] + total.to_bytes(2, "big") + head[18:] + payload


def udp(six: bool, payload: bytes, ident: int = 7, ports: int = 0) -> bytes:
    size = 8 + len(payload)
    head = struct.pack(">HHHH", 5000 + ports, 53, size, 0)
    total = checksum(pseudo(six, size, 17) + head + payload) or 0xFFFF
    return ip_header(six, size, 17, ident) + head[:6] + total.to_bytes(2, "big") + payload


def unfinished(packet: bytes, six: bool, field: int) -> bytes:
    """`packet` as the kernel hands it over: in the checksum's place only the sum of the pseudo header."""
    at = (40 if six else 20) + field
    size = len(packet) - (40 if six else 20)
    total = ~checksum(pseudo(six, size, packet[6 if six else 9])) & 0xFFFF
    return packet[:at] + total.to_bytes(2, "big") + packet[at + 2 :]


def large_tcp(six: bool, seq: int, flags: int, payload: bytes, size: int, ident: int = 7) -> bytes:
    """A frame for `segment`: everything in one packet."""
    packet = unfinished(tcp(six, seq, flags, payload, ident), six, 16)
    ip_size = 40 if six else 20
    kind = (TCPV6 if six else TCPV4) | (ECN if flags & CWR else 0)
    return struct.pack(VNET, NEEDS_CSUM, kind, ip_size + 32, size, ip_size, 16) + packet


def naive_tcp(six: bool, seq: int, flags: int, payload: bytes, size: int, ident: int = 7) -> list[bytes]:
    """What the same sender would have sent without any offload."""
    made = []
    for number, at in enumerate(range(0, len(payload), size)):
        part = payload[at : at + size]
        own = flags if at + size >= len(payload) else flags & ~(FIN | PSH)
        made.append(tcp(six, seq + at, own if not number else own & ~CWR, part, (ident + number) & 0xFFFF))
    return made


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR])
def test_tcp_is_cut(six: bool, flags: int) -> None:
    chance = random.Random(flags)
    for _ in range(25):
        size = chance.choice((1, 536, 1379, 1448, chance.randrange(1, 1500)))
        payload = chance.randbytes(chance.randrange(size + 1, min(40 * size + 2, 64000)))
        seq, ident = chance.choice((1, 0xFFFFFFF0, 12345)), chance.choice((0, 0xFFFE, 99))
        frame = large_tcp(six, seq, flags, payload, size, ident)
        assert _native.segment(frame) == naive_tcp(six, seq, flags, payload, size, ident)


@pytest.mark.parametrize("six", [False, True])
def test_udp_is_cut(six: bool) -> None:
    chance = random.Random(six)
    ip_size = 40 if six else 20
    for _ in range(25):
        size = chance.choice((1, 160, 1200, chance.randrange(1, 1400)))
        payload = chance.randbytes(chance.randrange(size + 1, 20 * size + 2))
        packet = unfinished(udp(six, payload, 40), six, 6)
        frame = struct.pack(VNET, NEEDS_CSUM, UDP_L4, ip_size + 8, size, ip_size, 6) + packet
        parts = [payload[at : at + size] for at in range(0, len(payload), size)]
        assert _native.segment(frame) == [udp(six, part, 40 + number) for number, part in enumerate(parts)]


def test_a_checksum_is_finished() -> None:
    whole = tcp(False, 5, ACK, b"data of odd size!")
    frame = struct.pack(VNET, NEEDS_CSUM, 0, 52, 0, 20, 16) + unfinished(whole, False, 16)
    assert _native.segment(frame) == [whole]
    assert _native.segment(bytes(10) + whole) == [whole]


def flows(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """Packets of each flow in their order; those of no flow that may be joined are one of their own."""
    found: dict[bytes, list[bytes]] = {}
    for packet in packets:
        six = packet[0] >> 4 == 6
        ports = packet[40:44] if six else packet[20:24]
        found.setdefault(packet[:1] + packet[6 if six else 9 :][:1] + ports, []).append(packet)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_what_is_joined_comes_apart_again(seed: int) -> None:
    """Any mixture of flows: every packet comes back as it was, each flow in its order; and joining did happen."""
    chance = random.Random(seed)
    keys = [(six, ports) for six in (0, 1) for ports in range(2)]
    state = {key: [chance.randrange(1 << 32), chance.randrange(1 << 16)] for key in keys}
    packets = []
    for _ in range(chance.randrange(20, 120)):
        (six, ports), flow = chance.choice(list(state.items()))
        if chance.random() < 0.2:
            packets.append(udp(bool(six), bytes(chance.choice((100, 100, 37))), flow[1], ports))
        elif chance.random() < 0.05:
            packets.append(tcp(bool(six), flow[0], ACK, b"spoilt", flow[1], ports)[:-1] + b"X")
        else:
            payload = chance.randbytes(chance.choice((1000, 1000, 1000, 1000, 12)))
            flags = chance.choice((ACK, ACK, ACK, ACK, ACK | PSH, ACK | FIN, ACK | CWR))
            if chance.random() < 0.05:
                flow[0] -= 500  # sent again
            packets.append(tcp(bool(six), flow[0], flags, payload, flow[1], ports))
            flow[0] += len(payload)
        flow[1] = flow[1] + 1 & 0xFFFF
    frames = _native.coalesce(packets)
    again = [packet for frame in frames for packet in _native.segment(frame)]
    assert len(frames) < len(packets)
    assert {key: _relaxed(each) for key, each in flows(again).items()} == {
        key: _relaxed(each) for key, each in flows(packets).items()
    }
    alone = _native.coalesce(packets, tcp=False, udp=False)
    assert alone == [bytes(10) + packet for packet in packets]


def _relaxed(packets: list[bytes]) -> list[bytes]:
    """IPv4's identification and header checksum left out: with "don't fragment" they mean nothing (RFC 6864)."""
    return [each if each[0] >> 4 == 6 else each[:4] + each[6:10] + each[12:] for each in packets]


def test_a_row_is_one_frame() -> None:
    payload = random.Random(5).randbytes(10_000)
    row = naive_tcp(False, 1, ACK, payload, 1000)
    [frame] = _native.coalesce(row)
    assert _native.segment(frame) == row
    assert all(one != other for one, other in pairwise(row))

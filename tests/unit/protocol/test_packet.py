# SPDX-License-Identifier: BSD-2-Clause
"""The packet codec: captured packets, truncations, and everything that is not a packet."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.protocol.wire.packet import (
    CONTROL_OPCODES,
    HEAD_SIZE,
    MAX_ACKS,
    MAX_CONTROL_PACKET,
    Body,
    Head,
    Opcode,
    read_body,
    read_head,
)
from qubes_miragevpn.protocol.wire.reader import Reader

CAPTURED = {
    name: bytes.fromhex(text)
    for name, text in json.loads((Path(__file__).parents[2] / "vectors" / "control_channel.json").read_text())[
        "packets"
    ].items()
    if name != "origin"
}


def read(packet: bytes) -> tuple[Head, Body]:
    head = read_head(packet)
    return head, read_body(head.opcode, packet[HEAD_SIZE:])


def test_captured_reset() -> None:
    head, body = read(CAPTURED["client_reset_none"])
    assert head == Head(Opcode.HARD_RESET_CLIENT, 0, bytes.fromhex("6891923fa3103437"))
    assert body == Body((), None, 0, b"")


def test_captured_control_with_acknowledgement() -> None:
    head, body = read(CAPTURED["client_control_with_ack_none"])
    assert head == Head(Opcode.CONTROL, 0, bytes.fromhex("7819bf2ebcd19a45"))
    assert body == Body((0,), bytes.fromhex("eafebfa4418ae31b"), 1, b"\x16\x03\x01")


def test_captured_acknowledgement() -> None:
    head, body = read(CAPTURED["client_ack_none"])
    assert head == Head(Opcode.ACK, 0, bytes.fromhex("aeb9afe1f01d79c8"))
    assert body == Body((0,), bytes.fromhex("dd85db535623b02e"), None)


@pytest.mark.parametrize("name", ["client_reset_none", "client_control_with_ack_none", "client_ack_none"])
def test_what_is_read_is_written_the_same(name: str) -> None:
    head, body = read(CAPTURED[name])
    assert head.encode() + body.encode() == CAPTURED[name]


@pytest.mark.parametrize("name", ["client_reset_none", "client_control_with_ack_none", "client_ack_none"])
def test_every_truncation_is_refused(name: str) -> None:
    packet = CAPTURED[name]
    payload = len(read(packet)[1].payload)
    for size in range(len(packet) - payload):
        with pytest.raises(PeerError):
            read(packet[:size])


@pytest.mark.parametrize("opcode", range(32))
@pytest.mark.parametrize("key_id", range(8))
def test_every_first_byte(opcode: int, key_id: int) -> None:
    packet = bytes((opcode << 3 | key_id,)) + bytes(8)
    if opcode in CONTROL_OPCODES:
        assert read_head(packet) == Head(Opcode(opcode), key_id, bytes(8))
        return
    with pytest.raises(PeerError):
        read_head(packet)


def test_spoken_opcodes_are_these_seven() -> None:
    assert sorted(CONTROL_OPCODES) == [3, 4, 5, 7, 8, 10, 11]


@pytest.mark.parametrize("count", range(256))
def test_number_of_acknowledgements(count: int) -> None:
    body = bytes((count,)) + bytes(4 * count) + (bytes(8) if count else b"") + bytes(4)
    if count <= MAX_ACKS:
        assert read_body(Opcode.CONTROL, body).acks == (0,) * count
        return
    with pytest.raises(PeerError, match="acknowledgements"):
        read_body(Opcode.CONTROL, body)


def test_an_acknowledgement_of_nothing_is_refused() -> None:
    with pytest.raises(PeerError):
        read_body(Opcode.ACK, b"\0")


def test_a_packet_over_the_limit_is_not_looked_at() -> None:
    read_head(bytes((Opcode.CONTROL << 3,)) + bytes(MAX_CONTROL_PACKET - 1))
    with pytest.raises(PeerError):
        read_head(bytes((Opcode.CONTROL << 3,)) + bytes(MAX_CONTROL_PACKET))


def test_any_body_comes_back() -> None:
    dice = random.Random(3)
    for _ in range(500):
        acks = tuple(dice.getrandbits(32) for _ in range(dice.randrange(MAX_ACKS + 1)))
        body = Body(
            acks, dice.randbytes(8) if acks else None, dice.getrandbits(32), dice.randbytes(dice.randrange(1200))
        )
        head = Head(dice.choice(sorted(CONTROL_OPCODES - {Opcode.ACK})), dice.randrange(8), dice.randbytes(8))
        assert read(head.encode() + body.encode()) == (head, body)


def test_random_bytes_are_read_or_refused_and_nothing_else() -> None:
    dice = random.Random(4)
    for _ in range(5000):
        try:
            read(dice.randbytes(dice.randrange(80)))
        except PeerError:
            continue


# --- the reader underneath


def test_reader_takes_in_order_and_refuses_more() -> None:
    reader = Reader(b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "thing")
    assert (reader.u8(), reader.u16(), reader.u32(), reader.left) == (1, 0x0203, 0x04050607, 2)
    with pytest.raises(PeerError, match="thing: 4 bytes expected, 2 left"):
        reader.u32()
    assert reader.rest() == b"\x08\x09" and reader.rest() == b"" and reader.left == 0

# SPDX-License-Identifier: BSD-2-Clause
"""Cutting a TCP stream into packets, however it arrives."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.base.errors import Consequence, MisuseError, PeerError
from qubes_miragevpn.dataplane.framing import MAX_FRAME, FrameReader, frame


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_gives_the_same_packets(seed: int) -> None:
    rng = random.Random(seed)
    packets = [rng.randbytes(rng.choice((1, 2, 100, 1400, MAX_FRAME))) for _ in range(30)]
    stream = b"".join(map(frame, packets))
    reader, got, at = FrameReader(), [], 0
    while at < len(stream):
        size = rng.choice((1, 2, 3, 50, 5000, 65536))
        got += reader.feed(stream[at : at + size])
        at += size
    assert got == packets


def test_byte_by_byte() -> None:
    reader = FrameReader()
    assert [packet for byte in b"\0\3abc\0\1x" for packet in reader.feed(bytes([byte]))] == [b"abc", b"x"]


@pytest.mark.parametrize("length", [0, MAX_FRAME + 1, 0xFFFF])
def test_impossible_lengths_end_the_stream(length: int) -> None:
    reader = FrameReader()
    assert reader.feed(b"\0\1x") == [b"x"]
    with pytest.raises(PeerError) as caught:
        reader.feed(length.to_bytes(2, "big"))
    assert caught.value.consequence is Consequence.END_SESSION


def test_less_than_one_frame_is_kept() -> None:
    reader = FrameReader()
    head = MAX_FRAME.to_bytes(2, "big")
    for _ in range(100):
        assert reader.feed(head + bytes(MAX_FRAME - 1)) == []
        assert reader.feed(b"\0") == [bytes(MAX_FRAME)]
    assert reader._rest == b""


@pytest.mark.parametrize("size", [0, MAX_FRAME + 1])
def test_framing_what_cannot_be_framed_is_our_own_fault(size: int) -> None:
    with pytest.raises(MisuseError):
        frame(bytes(size))

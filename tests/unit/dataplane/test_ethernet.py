# SPDX-License-Identifier: BSD-2-Clause
"""Tunnels of Ethernet frames: what goes through untouched, what is clamped, and what is no frame at all."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.dataplane.ethernet.frame import HEADER, clamp_frame
from qubes_miragevpn.dataplane.inband import OCC_EXIT, PING
from qubes_miragevpn.dataplane.interface import PeerExited, PeerLimits
from qubes_miragevpn.dataplane.mss import clamp
from qubes_miragevpn.dataplane.reference import DataChannel
from tests.unit.dataplane.packets import client, far_end, tcp_packet, wire

ADDRESSES = b"\x02\0\0\0\0\1" + b"\x02\0\0\0\0\2"
SYN4 = tcp_packet("10.0.0.1", "10.0.0.2", b"\x02\x04\x05\xb4")
SYN6 = tcp_packet("fd00::1", "fd00::2", b"\x02\x04\x05\xb4")
IP4, IP6, ARP, VLAN = b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x81\0"


def pair(*, mss4: int = 0, mss6: int = 0, ping: float = 0.0) -> tuple[DataChannel, DataChannel]:
    """Two channels that carry frames to each other."""
    limits = PeerLimits(ethernet=True, mss4=mss4, mss6=mss6, ping=ping)
    return client(limits=limits), far_end(limits=limits)


def carried(sender: DataChannel, receiver: DataChannel, frame: bytes) -> bytes | None:
    return receiver.receive(1, None, wire(sender, frame), 100.0)


@pytest.mark.parametrize(
    "frame",
    [
        ADDRESSES + ARP + bytes(28),
        ADDRESSES + VLAN + b"\0\7" + IP4 + SYN4,
        ADDRESSES + IP4,
        ADDRESSES + IP4 + b"\x60",
        ADDRESSES + b"\x05\xff" + bytes(1500),
        b"\xff" * 6 + ADDRESSES[:6] + b"\x88\xb5" + b"x",
        b"\x45" + bytes(13),
    ],
)
def test_what_is_no_syn_goes_through_as_it_is(frame: bytes) -> None:
    one, two = pair(mss4=1000, mss6=1000)
    assert carried(one, two, frame) == frame and carried(two, one, frame) == frame


@pytest.mark.parametrize(("kind", "packet"), [(IP4, SYN4), (IP6, SYN6)])
def test_mss_is_clamped_inside_of_frames(kind: bytes, packet: bytes) -> None:
    one, two = pair(mss4=1000, mss6=900)
    arrived = carried(one, two, ADDRESSES + kind + packet)
    assert arrived == ADDRESSES + kind + clamp(packet, 1000, 900) != ADDRESSES + kind + packet


def test_messages_are_told_from_frames() -> None:
    one, two = pair(ping=5)
    one.tick(110.0)
    (out,) = one.outbox
    assert two.receive(1, None, out[2], 110.0) is None and PeerExited(1) not in two.events
    one.outbox.clear()
    one.send_inner(1, OCC_EXIT, 110.0)
    assert two.receive(1, None, one.outbox[0][2], 110.0) is None
    assert PeerExited(1) in two.events and two.counters(1).dropped_other == 0
    for short in (b"x", bytes(HEADER - 1), PING[:13]):
        assert carried(one, two, short) is None
    assert two.counters(1).dropped_other == 3


def test_random_frames_never_raise_and_only_syns_change() -> None:
    dice = random.Random(1)
    for _ in range(3000):
        kind = dice.choice((IP4, IP6, VLAN, dice.randbytes(2)))
        frame = ADDRESSES + kind + dice.choice((SYN4, SYN6, dice.randbytes(60)))[: dice.randrange(70)]
        changed = clamp_frame(frame, 1000, 1000)
        assert len(changed) == len(frame) and changed[:HEADER] == frame[:HEADER]
        if kind not in (IP4, IP6):
            assert changed == frame

# SPDX-License-Identifier: BSD-2-Clause
"""The reliability layer as a play, one line per case.

A script is a row of steps: ``q`` queue a packet, ``a3`` the peer acknowledges 3, ``r5`` packet 5 arrives, ``t2.5`` the
clock goes to 2.5. After ``>`` stand the packets that leave at that step (``0,1``), or those that come in order, and
``!`` marks a refusal.
"""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.protocol.control.reliability import (
    MAX_QUEUED,
    MAX_RETRY,
    PACKET_COST,
    RECEIVE_WINDOW,
    SEND_WINDOW,
    Incoming,
    Reliability,
)
from qubes_miragevpn.protocol.wire.packet import MAX_ACKS, Opcode


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def play(layer: Reliability, script: str) -> None:
    now = 0.0
    for step in script.split():
        what, _, then = step.partition(">")
        argument = what[1:]
        match what[0]:
            case "q":
                layer.queue(Opcode.CONTROL, b"payload")
            case "a":
                layer.acknowledge(tuple(numbers(argument)), now)
            case "t":
                now = float(argument)
            case "r" if then == "!":
                with pytest.raises(PeerError):
                    layer.receive(int(argument), Incoming(Opcode.CONTROL, argument.encode()))
                continue
            case "r":
                ready = layer.receive(int(argument), Incoming(Opcode.CONTROL, argument.encode()))
                assert [int(one.payload) for one in ready] == numbers(then), step
                continue
        assert [packet.message_id for packet in layer.due(now)] == numbers(then), step


SENDING = [
    "q>0 q>1 t1.9> t2>0,1 t5.9> t6>0,1 t14>0,1 t30>0,1 t46>0,1 t62>0,1",  # 2, 4, 8, 16, 16, 16
    "q>0 a0> t2> t100>",
    "q>0 q>1 q>2 q>3 q>4 q>5 q> q> a0>6 a1>7 a2>",  # a window of six
    "q>0 q>1 q>2 q>3 a3> a2> a1>0",  # three later ones acknowledged: at once
    "q>0 q>1 q>2 q>3 a3,2,1>0 a3,2,1>",
    "q>0 q>1 q>2 q>3 a3> a3> a3> a3>",  # the same acknowledgement again is none
    "q>0 a1,7,4294967295> t2>0",  # never sent
    "q>0 q>1 a1> t2>0",
    "q>0 t1> q>1 t2>0 t3>1 t6>0 t7>1",  # each has its own time
    "q>0 t1000000>0 t1000016>0",  # a leap of the clock is one retransmission
]


@pytest.mark.parametrize("script", SENDING)
def test_sending(script: str) -> None:
    play(Reliability(2.0), script)


@pytest.mark.parametrize("script", ["q>0 t2> t1000>", "q>0 q>1 q>2 q>3 a3,2,1>"])
def test_a_reliable_transport_sends_once(script: str) -> None:
    play(Reliability(0.0), script)


def test_a_server_after_its_cookie_begins_at_one() -> None:
    play(Reliability(2.0, first_send_id=1, first_receive_id=1), "q>1 a0> a1> r0> r1>1 r2>2")


RECEIVING = [
    "r0>0 r1>1 r2>2",
    "r0>0 r0> r1>1",  # again
    "r1> r2> r0>0,1,2",  # early
    "r2> r2> r1> r0>0,1,2",
    "r12>! r11> r0>0 r12>",  # the window is twelve
    "r4294967295>! r0>0",
    "r0>0 r1>1 r0> r13>",
    "r0>0 r13>!",
]


@pytest.mark.parametrize("script", RECEIVING)
def test_receiving(script: str) -> None:
    play(Reliability(2.0), script)


def test_what_arrives_is_acknowledged_again_and_what_is_refused_is_not() -> None:
    layer = Reliability(2.0)
    play(layer, "r0>0 r0> r3> r13>!")
    assert layer.take_acks(MAX_ACKS) == (0, 3) and not layer.must_ack
    play(layer, "r0>")
    assert layer.must_ack and layer.take_acks(MAX_ACKS) == (0, 3)  # 3 rides along once more


def test_acknowledgements_are_bounded_and_fresh_ones_come_first() -> None:
    layer = Reliability(2.0)
    for number in range(10):
        layer.receive(number, Incoming(Opcode.CONTROL, b""))
    assert layer.take_acks(4) == (0, 1, 2, 3)
    assert layer.take_acks(8) == (4, 5, 6, 7, 8, 9, 3, 2)
    assert not layer.must_ack and len(layer.take_acks(4)) == 4


def test_the_queue_is_bounded() -> None:
    layer = Reliability(2.0)
    for _ in range(MAX_QUEUED // (PACKET_COST + 984) + SEND_WINDOW):
        layer.queue(Opcode.CONTROL, bytes(984))
        layer.due(0.0)
    with pytest.raises(PeerError) as caught:
        layer.queue(Opcode.CONTROL, b"")
    assert caught.value.consequence is Consequence.END_SESSION


def test_the_retransmission_time_is_bounded_for_a_day() -> None:
    """CVE-2026-84732: acknowledgements of ids never sent, for a day; the timeout must neither grow nor overflow."""
    layer, now, sent = Reliability(2.0), 0.0, 0
    layer.queue(Opcode.CONTROL, b"")
    layer.due(now)
    while now < 24 * 3600:
        layer.acknowledge((1, 99, 2**32 - 1), now)
        before, following = now, layer.next_deadline()
        assert following is not None
        now = following
        assert now - before <= MAX_RETRY
        sent += len(layer.due(now))
    assert 24 * 3600 / MAX_RETRY <= sent <= 24 * 3600 / MAX_RETRY + 4


@pytest.mark.parametrize("seed", range(20))
def test_two_layers_deliver_all_in_order_over_a_terrible_link(seed: int) -> None:
    """Against a list: whatever the link does, the other side reads exactly what was queued."""
    dice = random.Random(seed)
    sender, receiver = Reliability(1.0), Reliability(1.0)
    queued, read, air = [n.to_bytes(2, "big") for n in range(40)], [], []  # type: ignore[var-annotated]
    waiting, now = list(queued), 0.0
    while len(read) < len(queued) and now < 10_000:
        while waiting and sender.idle:
            for payload in waiting[:5]:
                sender.queue(Opcode.CONTROL, payload)
            del waiting[:5]
        air += [
            (packet.message_id, packet.payload) for packet in sender.due(now) for _ in range(dice.choice((0, 1, 1, 2)))
        ]
        dice.shuffle(air)
        for _ in range(min(len(air), dice.randrange(4))):
            message_id, payload = air.pop()
            try:
                read += [one.payload for one in receiver.receive(message_id, Incoming(Opcode.CONTROL, payload))]
            except PeerError:
                continue
        if dice.random() < 0.5:
            sender.acknowledge(receiver.take_acks(4), now)
        now += 0.3
        assert len(receiver._early) < RECEIVE_WINDOW and len(receiver._to_ack) <= 4 * RECEIVE_WINDOW
    assert read == queued

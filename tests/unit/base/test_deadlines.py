# SPDX-License-Identifier: BSD-2-Clause
"""The deadlines of many peers, compared at random with a naive twin."""

from __future__ import annotations

import random

from qubes_miragevpn.base.deadlines import Deadlines


def test_earliest_first_and_each_once() -> None:
    deadlines = Deadlines()
    for number, when in ((1, 3.0), (2, 1.0), (3, 2.0)):
        deadlines.set(number, when)
    assert deadlines.next() == 1.0
    assert deadlines.take_due(2.5) == [2, 3]
    assert deadlines.next() == 3.0 and deadlines.take_due(2.5) == []


def test_agrees_with_a_naive_twin_and_stays_small() -> None:
    dice = random.Random(7)
    deadlines, naive = Deadlines(), dict[int, float]()
    now = 0.0
    for _ in range(20_000):
        number = dice.randrange(40)
        match dice.randrange(4):
            case 0:
                deadlines.set(number, None)
                naive.pop(number, None)
            case 1:
                now += dice.random()
                due = sorted(n for n, when in naive.items() if when <= now)
                assert sorted(deadlines.take_due(now)) == due
                for gone in due:
                    del naive[gone]
            case _:
                naive[number] = now + dice.randrange(50) / 4
                deadlines.set(number, naive[number])
        assert deadlines.next() == min(naive.values(), default=None)
        assert len(deadlines._heap) <= 2 * 40 + 64 + 1

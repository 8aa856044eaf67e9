# SPDX-License-Identifier: BSD-2-Clause
"""Replay windows: their edges, and a naive twin that remembers everything."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.crypto.replay import MAX_WINDOW, ControlReplay, ReplayWindow


def accepted(window: ReplayWindow, packet_id: int) -> bool:
    try:
        window.check(packet_id)
    except PeerError:
        return False
    window.mark(packet_id)
    return True


def test_id_zero_is_invalid_before_and_after_the_first_packet() -> None:
    window = ReplayWindow(64)
    assert not accepted(window, 0)
    assert accepted(window, 1)
    assert not accepted(window, 0)


@pytest.mark.parametrize(
    ("behind", "fine"),
    [(1, True), (62, True), (63, True), (64, False), (65, False), (500, False)],
)
def test_edge_of_the_window(behind: int, fine: bool) -> None:
    window = ReplayWindow(64)
    assert accepted(window, 1000)
    assert accepted(window, 1000 - behind) is fine
    assert not accepted(window, 1000 - behind)


def test_duplicates_are_refused_wherever_they_are() -> None:
    window = ReplayWindow(64)
    for packet_id in range(1, 200):
        assert accepted(window, packet_id)
        assert not accepted(window, packet_id)
        assert not accepted(window, max(1, packet_id - 40))


@pytest.mark.parametrize("leap", [63, 64, 65, 1 << 31, (1 << 32) - 2])
def test_a_leap_forgets_nothing_that_is_still_inside(leap: int) -> None:
    window = ReplayWindow(64)
    assert accepted(window, 1)
    assert accepted(window, 1 + leap)
    assert not accepted(window, 1)
    assert not accepted(window, 1 + leap)
    assert accepted(window, leap)


def test_near_the_end_of_the_numbers() -> None:
    window = ReplayWindow(64)
    assert accepted(window, 0xFFFFFFFE)
    assert accepted(window, 0xFFFFFFFF)
    assert not accepted(window, 0xFFFFFFFF)
    assert not accepted(window, 1)  # a sender that wrapped is refused


def test_check_alone_remembers_nothing() -> None:
    window = ReplayWindow(64)
    window.check(5)
    window.check(5)
    window.check(0xFFFFFFFF)
    assert accepted(window, 1)


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 300])
def test_against_a_twin_that_remembers_everything(size: int) -> None:
    rng = random.Random(size)
    window, seen, highest, base = ReplayWindow(size), set[int](), 0, 1
    for _ in range(4000):
        base += rng.choice((0, 1, 1, 1, 2, size - 1, size, size + 1)) if rng.random() < 0.7 else 0
        packet_id = max(0, base - rng.randrange(0, 2 * size + 2))
        expected = packet_id > 0 and packet_id not in seen and packet_id > highest - size
        assert accepted(window, packet_id) is expected
        if expected:
            seen.add(packet_id)
            highest = max(highest, packet_id)


@pytest.mark.parametrize("size", [0, -1, MAX_WINDOW + 1])
def test_silly_sizes_are_our_own_fault(size: int) -> None:
    with pytest.raises(MisuseError):
        ReplayWindow(size)


def control_accepted(window: ControlReplay, time: int, packet_id: int) -> bool:
    try:
        window.check(time, packet_id)
    except PeerError:
        return False
    window.mark(time, packet_id)
    return True


def test_control_time_backwards_is_refused() -> None:
    window = ControlReplay()
    assert control_accepted(window, 1000, 1)
    assert not control_accepted(window, 999, 2)
    assert not control_accepted(window, 0, 0xFFFFFFFF)
    assert control_accepted(window, 1000, 2)


def test_control_newer_time_begins_again() -> None:
    window = ControlReplay()
    assert control_accepted(window, 1000, 70)
    assert control_accepted(window, 1001, 1)
    assert not control_accepted(window, 1001, 1)
    assert not control_accepted(window, 1000, 71)
    assert control_accepted(window, 0xFFFFFFFF, 1)


def test_control_window_of_64() -> None:
    window = ControlReplay()
    assert control_accepted(window, 7, 100)
    assert control_accepted(window, 7, 37)
    assert not control_accepted(window, 7, 36)
    assert not control_accepted(window, 7, 37)


@pytest.mark.parametrize("time", [0, 5, 6])
def test_control_id_zero_is_invalid_at_any_time(time: int) -> None:
    window = ControlReplay()
    assert control_accepted(window, 5, 1)
    assert not control_accepted(window, time, 0)


def test_control_check_of_a_newer_time_changes_nothing_until_marked() -> None:
    window = ControlReplay()
    assert control_accepted(window, 5, 1)
    window.check(0xFFFFFFFF, 1)
    assert control_accepted(window, 5, 2)

# SPDX-License-Identifier: BSD-2-Clause
"""Who has to go where there is no room: shares, the largest crowd, and those who go last."""

from __future__ import annotations

import random

import pytest

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.protocol.serving.crowd import Crowd


def crowd(text: str) -> Crowd[str]:
    """Members like ``a1``, of the source that the letter is: eight in all, four of one source."""
    made: Crowd[str] = Crowd(8, 4, "strangers")
    for member in text.split():
        assert made.room(member[0]) is None
        made.add(member, member[0])
    return made


def test_there_is_room() -> None:
    assert crowd("a1 a2 a3 b1 b2 b3 b4").room("a") is None


def test_one_source_has_its_share() -> None:
    for full in ("a1 a2 a3 a4", "a1 a2 a3 a4 b1 b2 b3 b4"):
        with pytest.raises(PeerError, match="too many strangers from one address"):
            crowd(full).room("a", yields=lambda _: True)


@pytest.mark.parametrize(
    ("full", "source", "goes"),
    [
        ("a1 a2 a3 a4 b1 b2 b3 b4", "c", "a1"),
        ("b1 a1 a2 a3 a4 b2 b3 b4", "c", "b1"),
        ("b1 c1 a1 a2 a3 b2 c2 d1", "d", "a1"),
        ("a1 b1 c1 d1 e1 f1 g1 h1", "i", "a1"),
    ],
)
def test_the_first_of_the_largest_crowd_goes(full: str, source: str, goes: str) -> None:
    assert crowd(full).room(source) == goes


def test_nobody_goes_for_one_of_the_largest_crowd_but_who_yields() -> None:
    full = crowd("a1 b1 c1 d1 e1 f1 g1 h1")
    with pytest.raises(PeerError, match=r"too many strangers\Z"):
        full.room("c")
    with pytest.raises(PeerError):
        full.room("c", yields=lambda member: member == "b1")
    assert full.room("c", yields=lambda member: member == "a1") == "a1"


def test_some_go_last() -> None:
    full = crowd("a1 a2 a3 a4 b1 b2 b3 b4")
    assert full.room("c", last=lambda member: member in "a1 a2 b1") == "a3"
    assert full.room("c", last=lambda _: True) == "a1"


def test_it_never_grows_beyond_its_bounds() -> None:
    dice, made = random.Random(5), Crowd[int](20, 6, "strangers")
    for number in range(5000):
        source = dice.choice("abcdefghij")
        try:
            goes = made.room(source)
        except PeerError:
            goes = dice.choice(list(made))
            made.remove(goes)
            continue
        if goes is not None:
            made.remove(goes)
            made.remove(goes)
        made.add(number, source)
        assert len(made) <= 20 and max(made._of.values()) <= 6 and sum(made._of.values()) == len(made)
    for member in list(made):
        made.remove(member)
    assert not made._of and len(made) == 0

# SPDX-License-Identifier: BSD-2-Clause
"""What a rule between directives is, and the makers of the simplest ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qubes_miragevpn.config.reading.collect import Entry, Place, Settings

PULLS = frozenset({Place.CLIENT})
SERVES = frozenset({Place.SERVER})
CLIENT = frozenset({Place.CLIENT, Place.CONNECTS})
SERVER = frozenset({Place.SERVER, Place.WAITS})
BOTH = CLIENT | SERVER
STATIC = frozenset({Place.STATIC})
EQUALS = frozenset({Place.CONNECTS, Place.WAITS})


@dataclass(frozen=True)
class Breach:
    """A broken rule: at which line (None: the file as a whole), what is wrong, what to do."""

    entry: Entry | None
    problem: str
    fix: str = ""


@dataclass(frozen=True)
class Rule:
    """`name` is what the tests call it; a rule that is not `fatal` gives a warning."""

    name: str
    places: frozenset[Place]
    check: Callable[[Settings], Breach | None]
    fatal: bool = True


def together(first: str, second: str, problem: str, fix: str) -> Callable[[Settings], Breach | None]:
    """Both directives at once are wrong."""

    def check(settings: Settings) -> Breach | None:
        if settings.has(first) and settings.has(second):
            return Breach(settings.last(second), problem, fix)
        return None

    return check


def needs(first: str, second: str) -> Callable[[Settings], Breach | None]:
    """`first` makes no sense without `second`."""

    def check(settings: Settings) -> Breach | None:
        if settings.has(first) and not settings.has(second):
            return Breach(settings.last(first), f"'{first}' needs '{second}'", f"add a '{second}' line or block")
        return None

    return check


def wants(name: str, problem: str, fix: str) -> Callable[[Settings], Breach | None]:
    """The directive must be there."""
    return lambda settings: None if settings.has(name) else Breach(None, problem, fix)

# SPDX-License-Identifier: BSD-2-Clause
"""When a working tunnel is left by itself (``inactive``, ``session-timeout``), and how the peer is told that we leave.

Pure policy, asked with the time `now`. Sources: OpenVPN's forward.c (check_inactivity_timeout), sig.c (explicit exit
notification). What counts as activity is inner packets, both ways: the data plane counts those, and no pings.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = float("inf")
EXIT_EVERY = 1.0  # seconds between two farewells on the data channel
MAX_EXITS = 5
"""Farewells at most, whatever ``explicit-exit-notify`` says: who ends a program does not wait for longer."""

_LOOKS = 16  # looks at the counters within the time of ``inactive``, but at most one a second


@dataclass
class Lifetime:
    """How long a tunnel may go on. `idle`: so many seconds in which less than `least` bytes were carried end it."""

    began: float
    longest: float = 0.0  # seconds; 0: for ever
    idle: float = 0.0  # seconds; 0: however idle
    least: int = 0

    def __post_init__(self) -> None:
        self._ends = self.began + self.longest if self.longest else NEVER
        self._active = self.began  # when `least` bytes had been carried once more
        self._carried = 0  # and how much it was in all by then
        self._look_at = self._next_look(self.began)

    def _next_look(self, now: float) -> float:
        return now + max(self.idle / _LOOKS, 1.0) if self.idle else NEVER

    @property
    def deadline(self) -> float | None:
        """When to ask `over` or `look`."""
        at = min(self._ends, self._look_at)
        return None if at == NEVER else at

    def over(self, now: float) -> bool:
        """The session has lasted as long as it may."""
        return now >= self._ends

    def look(self, now: float) -> bool:
        """The traffic should be counted now, and `too_idle` told of it."""
        if now < self._look_at:
            return False
        self._look_at = self._next_look(now)
        return True

    def too_idle(self, carried: int, now: float) -> bool:
        """Take the count of all bytes so far; True if the tunnel has been idle for too long."""
        if carried - self._carried >= max(self.least, 1):
            self._carried, self._active = carried, now
        return bool(self.idle) and now >= self._active + self.idle


class Farewell:
    """The repetitions of a farewell that may get lost: `times` in all, the first one is said already."""

    def __init__(self, times: int, now: float) -> None:
        self._left = min(times, MAX_EXITS) - 1
        self.at = now + EXIT_EVERY

    @property
    def over(self) -> bool:
        """Everything is said."""
        return self._left <= 0

    def due(self, now: float) -> bool:
        """It is time to say it once more."""
        if self.over or now < self.at:
            return False
        self._left -= 1
        self.at = now + EXIT_EVERY
        return True

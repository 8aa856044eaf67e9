# SPDX-License-Identifier: BSD-2-Clause
"""How often a peer may have us do something: so many times within a period, then no more until that is over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """`most` times within any `period` seconds."""

    most: int
    period: float


class Ration:
    """Keeps a pace; remembers `most` moments and nothing else."""

    def __init__(self, pace: Pace) -> None:
        self._period = pace.period
        self._moments: deque[float] = deque(maxlen=pace.most)

    def take(self, now: float) -> bool:
        """Take one, if there is one left: tell whether there was."""
        if len(self._moments) == self._moments.maxlen and now < self._moments[0] + self._period:
            return False
        self._moments.append(now)
        return True

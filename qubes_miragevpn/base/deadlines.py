# SPDX-License-Identifier: BSD-2-Clause
"""The next deadline of many peers at a cost that does not grow with their number.

A heap of (when, number) with lazy deletion: an entry counts only while it is the number's present deadline. Old
entries go when they come to the top, or all at once when they outnumber the others.
"""

from __future__ import annotations

import heapq

_SLACK = 64  # stale entries that are put up with whatever the number of peers


class Deadlines:
    """At most one deadline for each number."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._present: dict[int, float] = {}

    def set(self, number: int, when: float | None) -> None:
        """`number`'s deadline is `when` from now on; None: it has none."""
        if self._present.get(number) == when:
            return
        if when is None:
            self._present.pop(number, None)
            return
        self._present[number] = when
        heapq.heappush(self._heap, (when, number))
        if len(self._heap) > 2 * len(self._present) + _SLACK:
            self._heap = [(at, which) for which, at in self._present.items()]
            heapq.heapify(self._heap)

    def first(self) -> tuple[float, int] | None:
        """The earliest deadline, and whose it is."""
        while self._heap and self._present.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def next(self) -> float | None:
        """The earliest deadline."""
        found = self.first()
        return None if found is None else found[0]

    def take_due(self, now: float) -> list[int]:
        """The numbers whose deadline has come, earliest first; they have none until it is set again."""
        due = []
        while (when := self.next()) is not None and when <= now:
            number = heapq.heappop(self._heap)[1]
            del self._present[number]
            due.append(number)
        return due

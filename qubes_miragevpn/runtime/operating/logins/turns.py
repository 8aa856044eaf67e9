# SPDX-License-Identifier: BSD-2-Clause
"""Whose turn it is to be judged: so many at once, of one source a share of them, and among sources in turn.

Who sends a hundred wrong passwords waits for himself; somebody else's login goes next, however late it came.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Hashable


class Turns:
    """`most` at once, `share` of them for one source."""

    def __init__(self, most: int, share: int) -> None:
        self._free = most
        self._share = share
        self._taken: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}  # whose turn it is next stands first

    def of(self, source: Hashable) -> Turn:
        """A turn of this source, for ``async with``, any number of times."""
        return Turn(self, source)

    async def take(self, source: Hashable) -> None:
        """Wait for a turn."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(source, deque()).append(mine)
        self._grant()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.cancelled():
                self._leave(source, mine)
            else:  # it was granted in the moment in which nobody wanted it any more
                self.give_back(source)
            raise

    def give_back(self, source: Hashable) -> None:
        """A turn is over."""
        self._free += 1
        self._taken[source] -= 1
        if not self._taken[source]:
            del self._taken[source]
        self._grant()

    def _leave(self, source: Hashable, mine: asyncio.Future[None]) -> None:
        line = self._waiting.get(source, deque())
        if mine in line:  # else it was passed over already
            line.remove(mine)
            if not line:
                del self._waiting[source]

    def _grant(self) -> None:
        while self._free:
            source = next((each for each in self._waiting if self._taken[each] < self._share), None)
            if source is None:
                return
            line = self._waiting.pop(source)
            following = line.popleft()
            if line:
                self._waiting[source] = line  # behind the others
            if not following.done():
                self._free -= 1
                self._taken[source] += 1
                following.set_result(None)


class Turn:
    """What one of them holds while it works; not while it waits for somebody."""

    def __init__(self, turns: Turns, source: Hashable) -> None:
        self._turns = turns
        self._source = source

    async def __aenter__(self) -> None:
        await self._turns.take(self._source)

    async def __aexit__(self, *_: object) -> None:
        self._turns.give_back(self._source)

# SPDX-License-Identifier: BSD-2-Clause
"""Telling listeners of every change, a value each; who does not keep up is let go, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from qubes_miragevpn.base.errors import MirageError

MAX_LISTENERS = 4  # a tray, a script, and two to spare; each holds one of the control socket's places
MAX_WAITING = 64  # values that a listener has not taken yet; a switch makes four

Value = Mapping[str, Any]


class TooManyListeners(MirageError):
    """No more can be told of changes."""


class Listener:
    """Who is told; `close` when done."""

    def __init__(self, hub: Hub, first: Iterable[Value]) -> None:
        self._hub = hub
        self._waiting: asyncio.Queue[Value | None] = asyncio.Queue(MAX_WAITING + 1)
        for value in first:
            self._waiting.put_nowait(value)

    def tell(self, value: Value) -> None:
        """Add a value; the one that is too many is the last: nothing comes after it."""
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put_nowait(value)
        else:
            self._waiting.put_nowait(None)
            self.close()

    async def next(self) -> Value | None:
        """The next value, or None when some were lost: nothing comes any more."""
        return await self._waiting.get()

    def close(self) -> None:
        """Listen no more. Twice is fine."""
        self._hub.listeners.discard(self)


class Hub:
    """All listeners."""

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()

    def listen(self, first: Iterable[Value], *, owner: bool) -> Listener:
        """A new listener, who is told `first` to begin with; raises `TooManyListeners`.

        The last place is the `owner`'s, dom0 or root here, whoever else has taken all the others.
        """
        if len(self.listeners) >= MAX_LISTENERS - (not owner):
            raise TooManyListeners("too many listen already")
        listener = Listener(self, first)
        self.listeners.add(listener)
        return listener

    def publish(self, value: Value) -> None:
        """Tell everybody."""
        for listener in list(self.listeners):
            listener.tell(value)

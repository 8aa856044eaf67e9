# SPDX-License-Identifier: BSD-2-Clause
"""What a server pushed: the parts of a PUSH_REPLY put together, and what PUSH_UPDATEs make of it.

Both come in parts, each but the last with ``push-continuation 2``. Bounded in parts, in bytes, and updates in number.
"""

from __future__ import annotations

from collections.abc import Iterable

from qubes_miragevpn.base.errors import Consequence, PeerError
from qubes_miragevpn.config.pushed import Updated, apply_update
from qubes_miragevpn.protocol.ration import Pace, Ration

MAX_PARTS = 64  # that continue each other; at ~1 KB each no honest server comes near
MAX_BYTES = 64 * 1024
UPDATES = Pace(20, 60.0)  # of whole updates; each may reconfigure the machine


MAX_NOTES = 8
"""Lines in the log of one update: a server could name thousands of options that nobody knows, every few seconds."""


def in_few_lines(notes: Iterable[str]) -> list[str]:
    """The first of `notes`, and how many there are more."""
    every = list(notes)
    if len(every) <= MAX_NOTES:
        return every
    return [*every[: MAX_NOTES - 1], f"and {len(every) - MAX_NOTES + 1} more"]


class Pushes:
    """The options in force, and the parts of what is on its way."""

    def __init__(self) -> None:
        self.options: tuple[str, ...] = ()
        self._parts: list[str] = []
        self._count = 0
        self._updates = Ration(UPDATES)

    def reply(self, options: tuple[str, ...], *, more: bool) -> bool:
        """Take a part of the reply; return whether it is whole. Raises `PeerError` (end of session)."""
        whole = self._gather(options, more)
        if whole is None:
            return False
        self.options = whole
        return True

    def update(self, options: tuple[str, ...], now: float, *, more: bool) -> Updated | None:
        """Take a part of an update; return what it comes to when it is whole. Raises `PeerError` (end of session)."""
        whole = self._gather(options, more)
        if whole is None:
            return None
        if not self._updates.take(now):
            raise PeerError("the server changes the settings without end", Consequence.END_SESSION)
        updated = apply_update(self.options, whole)
        self.options = updated.options
        return updated

    def _gather(self, options: tuple[str, ...], more: bool) -> tuple[str, ...] | None:
        self._parts += options
        self._count += 1
        if self._count > MAX_PARTS or sum(map(len, self._parts)) > MAX_BYTES:
            raise PeerError("the server pushes without end", Consequence.END_SESSION)
        if more:
            return None
        whole, self._parts, self._count = tuple(self._parts), [], 0
        return whole

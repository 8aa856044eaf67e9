# SPDX-License-Identifier: BSD-2-Clause
"""Dropped packets in the debug log, so few that whoever sends garbage cannot fill a disk."""

from __future__ import annotations

import logging

from qubes_miragevpn.base.text import printable

WINDOW = 10.0  # seconds
LINES = 10  # per window


def lead(client: str) -> str:
    """What stands in front of a line about this client."""
    return f"{client} " if client else ""


class DropLog:
    """At most `LINES` lines in `WINDOW` seconds; how many were left out is said with the next one."""

    def __init__(self, logger: logging.Logger) -> None:
        self._log = logger
        self._window = float("-inf")
        self._lines = 0
        self._silent = 0

    def add(self, reason: str, now: float, client: str = "") -> None:
        """A packet was dropped for `reason`, of this client of a server's."""
        if not self._log.isEnabledFor(logging.DEBUG):
            return
        if now - self._window >= WINDOW:
            self._window, self._lines = now, 0
        if self._lines >= LINES:
            self._silent += 1
            return
        self._lines += 1
        unsaid, self._silent = self._silent, 0
        more = f" (and {unsaid} that were not logged)" if unsaid else ""
        self._log.debug("%spacket dropped: %s%s", lead(client), printable(reason), more, extra={"client": client})

# SPDX-License-Identifier: BSD-2-Clause
"""The end of the service's log, kept in memory for whom dom0's policy lets ask (miragevpn.Log).

Bounded in lines and in characters, so that a reply holds all of it, and printable: what strangers said is in it.
"""

from __future__ import annotations

import logging
import time
from collections import deque

from qubes_miragevpn.base.text import printable

MAX_LINES = 200  # an hour of a tunnel that comes and goes
MAX_LINE = 300  # characters; with quotes escaped all lines stay within a reply of 128 KiB


class RecentLines(logging.Handler):
    """A handler that keeps the last lines: ``2026-01-02T03:04:05Z warning control: what happened``."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        source = record.name.removeprefix("miragevpn").lstrip(".") or "miragevpn"
        try:
            line = f"{when} {record.levelname.lower()} {source}: {record.getMessage()}"
        except Exception:  # a log call that is wrong must not end what it was to tell of
            self.handleError(record)
            return
        self._lines.append(printable(line, MAX_LINE - 3))

    def lines(self) -> list[str]:
        """The lines kept, the last one last."""
        return list(self._lines)

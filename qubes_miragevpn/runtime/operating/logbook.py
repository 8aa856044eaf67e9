# SPDX-License-Identifier: BSD-2-Clause
"""The last lines of the log, for who asks later, and every new one for who listens."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from qubes_miragevpn.base.text import printable

_FLAGS = {logging.DEBUG: "D", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "N", logging.CRITICAL: "F"}
MAX_LINE = 1000


@dataclass(frozen=True)
class Line:
    """When (seconds of the wall clock), how grave (openvpn's letter: D I W N F) and what."""

    at: int
    flag: str
    text: str


class Logbook(logging.Handler):
    """Keeps the newest `most` lines, and tells `listener` of each."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.lines: deque[Line] = deque(maxlen=most)
        self.listener: Callable[[Line], None] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in."""
        line = Line(int(record.created), _FLAGS.get(record.levelno, "I"), printable(record.getMessage(), MAX_LINE))
        self.lines.append(line)
        if self.listener is not None:
            self.listener(line)

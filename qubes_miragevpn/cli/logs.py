# SPDX-License-Identifier: BSD-2-Clause
"""Log lines: `time source message`, one line each, on standard error.

On a terminal the time is short and the level shows as a colour (unless NO_COLOR is set, https://no-color.org). Under
systemd, whose journal keeps time itself, the line carries the level as sd-daemon(3) has it, and no time.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

ROOT = "miragevpn"

_COLOURS = {logging.DEBUG: "\x1b[2m", logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m"}
_PLAIN = "\x1b[0m"
_SOURCE = "\x1b[36m"
_JOURNAL = {logging.DEBUG: "<7>", logging.INFO: "<6>", logging.WARNING: "<4>", logging.ERROR: "<3>"}


def set_up(*, debug: bool = False, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Send everything below the logger `miragevpn` to `stream` (standard error). Calling again replaces."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(stream, environ))
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def coloured(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """True if what is written to `stream` may hold colours."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"


class _Line(logging.Formatter):
    """`time source message`; line breaks within a message are shown, not made."""

    def __init__(self, time_format: str, *, colour: bool = False) -> None:
        super().__init__()
        self._time_format = time_format
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        source = record.name.removeprefix(ROOT).lstrip(".") or ROOT
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        if self._colour:
            colour = _COLOURS.get(record.levelno, "")
            source, message = f"{_SOURCE}{source}{_PLAIN}", f"{colour}{message}{_PLAIN if colour else ''}"
        return self._lead(record) + f"{source} {message}" + self._traceback(record)

    def _lead(self, record: logging.LogRecord) -> str:
        return time.strftime(self._time_format, time.localtime(record.created)) + " "

    def _traceback(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class _JournalLine(_Line):
    def _lead(self, record: logging.LogRecord) -> str:
        return _JOURNAL.get(record.levelno, "<6>")


def _formatter(stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    if _is_journal(stream, environ):
        return _JournalLine("")
    if stream.isatty():
        return _Line("%H:%M:%S", colour=coloured(stream, environ))
    return _Line("%Y-%m-%dT%H:%M:%S%z")


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """JOURNAL_STREAM names device and inode of the stream that it means (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

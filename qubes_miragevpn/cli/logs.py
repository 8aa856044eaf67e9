# SPDX-License-Identifier: BSD-2-Clause
"""Log lines: `time source message`, one line each, on standard error.

On a terminal the time is short and the level shows as a colour (unless NO_COLOR is set, https://no-color.org). Under
systemd, whose journal keeps time itself, the line carries the level as sd-daemon(3) has it, and no time.
An exception is part of its line, with the place where it was raised; the whole traceback is for those who debug.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
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
    handler.setFormatter(_formatter(stream, environ, debug))
    for name, level in ((ROOT, logging.DEBUG if debug else logging.INFO), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def coloured(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """True if what is written to `stream` may hold colours."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"


class _Line(logging.Formatter):
    """`time source message`; line breaks within a message are shown, not made."""

    def __init__(self, time_format: str, *, debug: bool, colour: bool = False) -> None:
        super().__init__()
        self._debug = debug
        self._time_format = time_format
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        source = record.name.removeprefix(ROOT).lstrip(".") or ROOT
        message = _one_line(record.getMessage() + self._short_exception(record))
        if self._colour:
            colour = _COLOURS.get(record.levelno, "")
            source, message = f"{_SOURCE}{source}{_PLAIN}", f"{colour}{message}{_PLAIN if colour else ''}"
        return self._lead(record) + f"{source} {message}" + self._traceback(record)

    def _lead(self, record: logging.LogRecord) -> str:
        return time.strftime(self._time_format, time.localtime(record.created)) + " "

    def _short_exception(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or self._debug:
            return ""
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        return f" ({type(error).__name__}: {error}{place})"

    def _traceback(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info and self._debug else ""


class _JournalLine(_Line):
    def _lead(self, record: logging.LogRecord) -> str:
        return _JOURNAL.get(record.levelno, "<6>")


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")


def _formatter(stream: TextIO, environ: Mapping[str, str], debug: bool) -> logging.Formatter:
    if _is_journal(stream, environ):
        return _JournalLine("", debug=debug)
    if stream.isatty():
        return _Line("%H:%M:%S", debug=debug, colour=coloured(stream, environ))
    return _Line("%Y-%m-%dT%H:%M:%S%z", debug=debug)


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """JOURNAL_STREAM names device and inode of the stream that it means (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

# SPDX-License-Identifier: BSD-2-Clause
"""The end of the log that may be asked for: bounded, printable, and never in the way of what logs."""

from __future__ import annotations

import json
import logging

from qubes_miragevpn.qube.recent import MAX_LINE, MAX_LINES, RecentLines
from qubes_miragevpn.qube.rpc.messages import MAX_REPLY, render_reply


def record(
    message: str, *arguments: object, level: int = logging.INFO, name: str = "miragevpn.control"
) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, message, arguments, None)
    made.created = 1767323045.0
    return made


def test_a_line_is_one_printable_line() -> None:
    recent = RecentLines()
    recent.handle(record("the server says \x1b[2J%s", "two\nlines"))
    recent.handle(record("up", level=logging.WARNING, name="miragevpn"))
    assert recent.lines() == [
        r"2026-01-02T03:04:05Z info control: the server says \x1b[2Jtwo\x0alines",
        "2026-01-02T03:04:05Z warning miragevpn: up",
    ]


def test_the_reply_holds_the_longest_log() -> None:
    recent = RecentLines()
    for number in range(MAX_LINES + 5):
        recent.handle(record('"' * 2 * MAX_LINE + str(number)))
    assert len(recent.lines()) == MAX_LINES
    assert max(map(len, recent.lines())) <= MAX_LINE
    reply = render_reply({"lines": recent.lines()})
    assert len(reply) <= MAX_REPLY and len(json.loads(reply)["result"]["lines"]) == MAX_LINES


def test_a_log_call_that_is_wrong_ends_nothing() -> None:
    recent = RecentLines()
    recent.handleError = lambda record: None  # type: ignore[method-assign]  # it would print a traceback
    recent.handle(record("%d", "not a number"))
    assert recent.lines() == []

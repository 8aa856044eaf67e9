# SPDX-License-Identifier: BSD-2-Clause
"""Log lines on a terminal, in a file, in the journal."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from qubes_miragevpn.cli import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO, environ: dict[str, str], *, debug: bool = False) -> list[str]:
    logs.set_up(debug=debug, stream=stream, environ=environ)
    log = logging.getLogger("miragevpn.tunnel")
    log.debug("detail")
    log.info("forged\n12:00:00 line")
    log.warning("careful")
    log.error("bad")
    return stream.getvalue().splitlines()


@pytest.fixture(autouse=True)
def restore() -> object:
    logger = logging.getLogger(logs.ROOT)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_a_file_gets_whole_times_and_no_colour() -> None:
    first, second, third = lines(io.StringIO(), {})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} tunnel forged\\n12:00:00 line", first)
    assert second.endswith(" tunnel careful") and third.endswith(" tunnel bad")


def test_a_terminal_gets_short_times_and_colours() -> None:
    first, second, third = lines(Terminal(), {})
    assert re.fullmatch(r"\d\d:\d\d:\d\d \x1b\[36mtunnel\x1b\[0m forged\\n12:00:00 line", first)
    assert second.endswith("\x1b[33mcareful\x1b[0m") and third.endswith("\x1b[31mbad\x1b[0m")


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_refused(environ: dict[str, str]) -> None:
    assert not any("\x1b" in line for line in lines(Terminal(), environ))


def test_debug_says_more() -> None:
    assert len(lines(io.StringIO(), {}, debug=True)) == 4


def test_the_journal_gets_levels_instead_of_times(tmp_path: Path) -> None:
    with open(tmp_path / "journal", "w+") as stream:
        status = os.fstat(stream.fileno())
        logs.set_up(stream=stream, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        logging.getLogger("miragevpn.tunnel").warning("careful")
        logging.getLogger("miragevpn").info("on")
        stream.seek(0)
        assert stream.read().splitlines() == ["<4>tunnel careful", "<6>miragevpn on"]


def test_a_stream_that_is_not_the_journal_is_not_taken_for_it(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+") as stream:
        logs.set_up(stream=stream, environ={"JOURNAL_STREAM": "1:2"})
        logging.getLogger("miragevpn").info("on")
        stream.seek(0)
        assert not stream.read().startswith("<")


@pytest.mark.parametrize("name", ["miragevpn.tunnel", "asyncio"])
def test_an_exception_is_one_line_and_a_traceback_for_those_who_debug(name: str) -> None:
    for debug in (False, True):
        stream = io.StringIO()
        logs.set_up(debug=debug, stream=stream, environ={})
        try:
            raise KeyError("x\ny")
        except KeyError:
            logging.getLogger(name).error("bug", exc_info=sys.exc_info())
        shown = stream.getvalue().splitlines()
        if debug:
            assert shown[0].endswith(" bug") and shown[1].startswith("Traceback")
        else:
            assert len(shown) == 1
            assert re.search(r" bug \(KeyError: 'x\\ny' at test_logs.py:\d+\)$", shown[0])

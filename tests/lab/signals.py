# SPDX-License-Identifier: BSD-2-Clause
"""SIGTERM and SIGHUP end a program as Ctrl-C does: by an exception that lets every `with` clean up."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ending_signals() -> Iterator[None]:
    """Turn the ending signals into `KeyboardInterrupt`; a second one while cleaning up is ignored."""

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    handled = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, before in handled.items():
            signal.signal(number, before)

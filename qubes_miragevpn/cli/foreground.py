# SPDX-License-Identifier: BSD-2-Clause
"""What `client` and `server` share: running a driver in the foreground until a signal.

The first SIGINT, SIGTERM or SIGHUP asks the machine to leave, the second ends at once (and still undoes what was
changed), the third ends the process where it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from qubes_miragevpn.base.exitcodes import ExitCode
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.dataplane.interface import Counters
from qubes_miragevpn.protocol.contract import Command, Stop, StopKind
from qubes_miragevpn.runtime.driving.base import Driver

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ENDED_BY_FORCE = 130  # what a shell reports for a program that SIGINT killed

_EXIT = {
    StopKind.ASKED: ExitCode.OK,
    StopKind.AUTH: ExitCode.AUTH,
    StopKind.CREDENTIALS: ExitCode.AUTH,
    StopKind.CONNECTION: ExitCode.CONNECTION,
    StopKind.SYSTEM: ExitCode.SYSTEM,
}


async def run_in_foreground(
    driver: Driver,
    life: Coroutine[Any, Any, Stop],
    log: logging.Logger,
    actions: Mapping[signal.Signals, Callable[[], None]],
) -> Stop:
    """Run `life` (of `driver`) to its end, obeying signals; `actions` outrank the ending ones."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(life)
    asked = 0

    def end() -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            log.info("ending")
            driver.command(Command.DISCONNECT)
        elif asked == 2:
            task.cancel()
        else:
            os._exit(ENDED_BY_FORCE)

    for number in set(ENDING) - set(actions):
        loop.add_signal_handler(number, end)
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        return await task
    except asyncio.CancelledError:
        if not asked:
            raise
        return Stop(StopKind.ASKED, "ended by signal")


def report_end(stop: Stop, counters: Counters, log: logging.Logger) -> int:
    """Log why and after how much the run ended; return the exit code."""
    level = logging.INFO if stop.kind is StopKind.ASKED else logging.ERROR
    log.log(level, "ended: %s", printable(stop.reason, 500))
    log.info("%s", totals(counters))
    return int(_EXIT[stop.kind])


def totals(counters: Counters) -> str:
    """Counters for people."""
    dropped = counters.dropped_auth + counters.dropped_replay + counters.dropped_other
    shown = f"received {amount(counters.bytes_in)}, sent {amount(counters.bytes_out)}"
    return shown + (f", dropped {dropped} packets" if dropped else "")


def amount(size: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"

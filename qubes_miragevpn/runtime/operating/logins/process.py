# SPDX-License-Identifier: BSD-2-Clause
"""A program of the operator's that judges: its words as they are, no shell, no input, and only so much time.

It runs in a session of its own, so that whatever it started ends with it where it must be ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

RUN_TIME = 60.0  # seconds


async def run(words: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> int:
    """The exit code of `words`, run in `folder`; raises OSError if they cannot be, TimeoutError after `RUN_TIME`."""
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(RUN_TIME):
            return await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def clear(room: Path) -> None:
    """Remove the directory `room` with what a program was told there: also where nobody waits for that any more.

    A thread's work that is cancelled before its turn is never done; this is.
    """
    await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, shutil.rmtree, room, True))

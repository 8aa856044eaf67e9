# SPDX-License-Identifier: BSD-2-Clause
"""Run a coroutine in a network namespace of its own, which has no name and goes with the thread that is in it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_CLONE_NEWNET = 0x40000000


def ip(command: str) -> str:
    """Run ip(8) in the namespace of this thread."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {command}: {done.stderr}"
    return done.stdout


def settled(*devs: str) -> None:
    """Wait until the kernel has told of the carrier, which it does a moment after the last end is up."""
    while not all("state UP" in ip(f"link show {dev}") for dev in devs):
        pass


def in_netns(play: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `play()` with an event loop in a fresh namespace (lo up); raise what it raises."""
    raised: list[BaseException] = []

    def thread() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            if libc.unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            ip("link set lo up")
            asyncio.run(play())
        except BaseException as error:
            raised.append(error)

    runner = threading.Thread(target=thread)
    runner.start()
    runner.join()
    if raised:
        raise raised[0]

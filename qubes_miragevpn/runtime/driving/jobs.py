# SPDX-License-Identifier: BSD-2-Clause
"""A line of asynchronous jobs: one at a time, in order, and each can be called off.

A driver's look-ups, connection attempts and changes to the host take time and must never overlap. Whatever a job
raises that it did not handle itself is a bug, and ends the driver through `failed`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

MAX_WAITING = 64  # a machine asks for a handful at most; more is a machine gone wild


@dataclass(frozen=True)
class _Job:
    name: Hashable
    work: Callable[[], Awaitable[None]]


class Jobs:
    """Runs jobs in the order they were added. Create inside a running loop; `close()` when done."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._waiting: deque[_Job] = deque()
        self._current: tuple[_Job, asyncio.Task[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def add(self, name: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` once everything added before is done."""
        if self._closed:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._failed(RuntimeError(f"{MAX_WAITING} jobs are waiting: {name!r}"))
            return
        self._waiting.append(_Job(name, work))
        self._next()

    def drop(self, name: Hashable, *, running: bool = True) -> None:
        """Call off every job of that name; with `running` also the one that is being done."""
        self._waiting = deque(job for job in self._waiting if job.name != name)
        if running and self._current is not None and self._current[0].name == name:
            self._current[1].cancel()

    async def close(self) -> None:
        """Call everything off and wait for the end of the one being done."""
        self._closed = True
        self._waiting.clear()
        if self._current is not None:
            task = self._current[1]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])

    def _next(self) -> None:
        if self._current is None and self._waiting:
            job = self._waiting.popleft()
            task = self._loop.create_task(self._do(job))
            self._current = (job, task)
            task.add_done_callback(self._done)

    async def _do(self, job: _Job) -> None:
        await job.work()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._current = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
        self._next()

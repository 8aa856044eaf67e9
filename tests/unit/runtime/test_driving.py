# SPDX-License-Identifier: BSD-2-Clause
"""The parts of the drivers: the line of jobs, the log of dropped packets."""

from __future__ import annotations

import asyncio
import logging

import pytest

from qubes_miragevpn.runtime.driving.droplog import LINES, WINDOW, DropLog
from qubes_miragevpn.runtime.driving.jobs import MAX_WAITING, Jobs


def test_jobs_run_in_order_and_can_be_called_off() -> None:
    done: list[str] = []

    async def run() -> None:
        jobs = Jobs(lambda error: done.append(repr(error)))
        hold = asyncio.Event()

        async def held() -> None:
            try:
                await hold.wait()
            finally:
                done.append("held ended")

        def job(name: str) -> None:
            async def work() -> None:
                await asyncio.sleep(0)
                done.append(name)

            jobs.add(name, work)

        jobs.add("held", held)
        for name in ("a", "b", "a", "c"):
            job(name)
        jobs.drop("a")
        await asyncio.sleep(0)
        jobs.drop("held", running=False)
        await asyncio.sleep(0)
        assert done == []
        jobs.drop("held")
        while done[-1:] != ["c"]:
            await asyncio.sleep(0)
        await jobs.close()
        job("after the end")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert done == ["held ended", "b", "c"]


def test_what_a_job_raises_is_told_and_the_next_one_runs() -> None:
    told: list[BaseException] = []

    async def run() -> None:
        jobs = Jobs(told.append)
        ran = asyncio.Event()

        async def bug() -> None:
            raise KeyError("x")

        async def fine() -> None:
            ran.set()

        jobs.add("bug", bug)
        jobs.add("fine", fine)
        await ran.wait()
        await jobs.close()

    asyncio.run(run())
    assert [type(error) for error in told] == [KeyError]


def test_waiting_jobs_are_bounded() -> None:
    told: list[BaseException] = []

    async def run() -> None:
        jobs = Jobs(told.append)
        for _ in range(MAX_WAITING + 5):
            jobs.add("x", lambda: asyncio.sleep(60))
        await jobs.close()

    asyncio.run(run())
    assert len(told) == 4  # one was begun at once


def test_drops_are_logged_by_few_and_the_others_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "miragevpn")
    drops = DropLog(logging.getLogger("miragevpn.test"))
    for _ in range(LINES + 90):
        drops.add("bad\x07", 100.0)
    drops.add("worse", 100.0 + WINDOW, "ada/192.0.2.1:5")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == LINES + 1
    assert lines[0] == "packet dropped: bad\\x07"
    assert lines[-1] == "ada/192.0.2.1:5 packet dropped: worse (and 90 that were not logged)"
    assert getattr(caplog.records[-1], "client") == "ada/192.0.2.1:5"  # noqa: B009

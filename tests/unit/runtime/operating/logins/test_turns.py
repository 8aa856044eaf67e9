# SPDX-License-Identifier: BSD-2-Clause
"""Whose turn it is: shares, the order among sources, and those who do not want theirs any more."""

from __future__ import annotations

import asyncio

from qubes_miragevpn.runtime.operating.logins.turns import Turns


class Work:
    """Tasks that each take a turn and hold it until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, *names: str) -> None:
        """Each wants a turn of the source that its first letter is."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._work(name))
        await _settled()

    async def _work(self, name: str) -> None:
        async with self._turns.of(name[0]):
            self.running.append(name)
            await self._ends[name].wait()
            self.running.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await _settled()

    async def call_off(self, *names: str) -> None:
        for name in names:
            self._tasks[name].cancel()
        await _settled()


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_crowd_from_one_source_delays_nobody_else() -> None:
    async def run() -> None:
        work = Work(Turns(4, 2))
        await work.begin(*(f"a{n}" for n in range(50)))
        assert work.running == ["a0", "a1"]
        await work.begin("b0", "c0")
        assert work.running == ["a0", "a1", "b0", "c0"]

    asyncio.run(run())


def test_sources_take_turns() -> None:
    """Where everything is taken, who came last and alone goes before a crowd that came first."""

    async def run() -> None:
        work = Work(Turns(2, 2))
        await work.begin("a0", "a1", "a2", "a3", "a4", "b0", "c0")
        order = []
        for name in ("a0", "a1", "a2", "b0", "c0"):
            await work.end(name)
            order.append(work.running[-1])
        assert order == ["a2", "b0", "c0", "a3", "a4"]

    asyncio.run(run())


def test_who_does_not_want_a_turn_any_more_takes_none() -> None:
    async def run() -> None:
        turns = Turns(1, 1)
        work = Work(turns)
        await work.begin("a0", "a1", "b0", "c0")
        await work.call_off("b0")  # while it waits
        await work.end("a0")
        assert work.running == ["a1"]
        work._ends["a1"].set()
        await asyncio.sleep(0)  # its turn is over, and granted to the next
        await work.call_off("a1", "c0")
        await work.begin("d0")
        assert work.running == ["d0"]
        await work.end("d0")
        assert not turns._waiting and not turns._taken and turns._free == 1

    asyncio.run(run())


def test_one_that_is_ended_at_work_gives_its_turn_back() -> None:
    async def run() -> None:
        work = Work(Turns(1, 1))
        await work.begin("a0", "b0")
        await work.call_off("a0")
        assert work.running == ["a0", "b0"]

    asyncio.run(run())

# SPDX-License-Identifier: BSD-2-Clause
"""The server's side of logging in: every question of the protocol machine is a task, and its verdict an event.

Bounded in number and time: so many are worked on at once, so many wait (for their turn, which goes from source to
source, or for somebody's answer), and the rest is refused at once. Whoever only waits keeps nobody else from being
judged, and whose client left is judged no more. A judge that fails refuses. Nothing that a client said is logged but
its name, made printable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from qubes_miragevpn.base.errors import MirageError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Command, LoginRules, Method, Pam, PasswordFile
from qubes_miragevpn.protocol.contract import LoginAnswered, LoginJudged, LoginPending, VerifyLogin
from qubes_miragevpn.protocol.serving.peer import tag
from qubes_miragevpn.protocol.serving.registry import source_of
from qubes_miragevpn.runtime.operating.logins.turns import Turn, Turns

AT_ONCE = 8
SHARE = 4  # of those from one address (a /64 of IPv6), so that guessing passwords there delays nobody elsewhere
WAITING = 256
LONGEST = 600.0
"""Seconds that a verdict may take when the client was told to wait."""

_log = logging.getLogger("miragevpn.login")


@dataclass(frozen=True)
class Verdict:
    """Whether somebody may enter; if not, what he is `told` and `why` for the log."""

    granted: bool
    told: str = ""
    why: str = ""


@dataclass
class Case:
    """One login: what is known of it, and how its judge can have the client wait or hear its answers."""

    asked: VerifyLogin
    pending: Callable[[float, tuple[str, ...]], None]
    turn: Turn
    """Held by its judge while that works; not while it waits for somebody."""

    answers: asyncio.Queue[Secret] = field(default_factory=lambda: asyncio.Queue(maxsize=1))


class Way(Protocol):
    """A way to judge; raises OSError or `MirageError` if it cannot."""

    async def judge(self, case: Case) -> Verdict:
        """The verdict."""


class Judge:
    """Answers a server's questions by the method that its configuration names."""

    def __init__(self, rules: LoginRules, folder: Path, report: Callable[[LoginJudged | LoginPending], None]) -> None:
        """`folder`: from where the paths in `rules` count."""
        self._method = _method(rules.method, folder)
        self._report = report
        self._turns = Turns(AT_ONCE, SHARE)
        self._cases: dict[tuple[int, int], Case] = {}
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}

    def use(self, rules: LoginRules, folder: Path) -> None:
        """Judge by these rules from now on."""
        self._method = _method(rules.method, folder)

    def ask(self, asked: VerifyLogin) -> None:
        """Judge this login; the verdict is reported."""
        if len(self._cases) >= AT_ONCE + WAITING:
            self._report(LoginJudged(asked.peer, asked.attempt, False, why="too many logins are being judged"))
            return
        turn = self._turns.of(source_of(asked.endpoint))
        case = Case(asked, lambda seconds, messages: self._pending(asked, seconds, messages), turn)
        key = asked.peer, asked.attempt
        self._cases[key] = case
        self._tasks[key] = task = asyncio.get_running_loop().create_task(self._judge(case))
        task.add_done_callback(lambda _: self._ended(key))

    def forget(self, peer: int, attempt: int) -> None:
        """Nobody waits for this verdict any more."""
        if (task := self._tasks.get((peer, attempt))) is not None:
            task.cancel()

    def answered(self, answered: LoginAnswered) -> None:
        """A client answered a question of its judge; a second answer to the same question is nobody's."""
        case = self._cases.get((answered.peer, answered.attempt))
        if case is not None and not case.answers.full():
            case.answers.put_nowait(answered.answer)

    async def close(self) -> None:
        """Judge no more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: tuple[int, int]) -> None:
        del self._cases[key], self._tasks[key]

    def _pending(self, asked: VerifyLogin, seconds: float, messages: tuple[str, ...]) -> None:
        case = self._cases.get((asked.peer, asked.attempt))
        if case is not None:
            self._report(LoginPending(asked.peer, asked.attempt, seconds, messages))

    async def _judge(self, case: Case) -> None:
        asked = case.asked
        try:
            async with asyncio.timeout(LONGEST):
                verdict = await self._method.judge(case)
        except TimeoutError:
            verdict = Verdict(False, why="the judge took too long")
        except (OSError, MirageError) as error:
            who = tag(asked.endpoint, asked.username or asked.common_name)
            _log.error("%s login cannot be judged: %s", who, printable(str(error)), extra={"client": who})
            verdict = Verdict(False, why="it cannot be judged")
        self._report(LoginJudged(asked.peer, asked.attempt, verdict.granted, verdict.told, verdict.why))


def _method(method: Method, folder: Path) -> Way:
    from qubes_miragevpn.runtime.operating.logins.pam import PamAccounts
    from qubes_miragevpn.runtime.operating.logins.passwords import Passwords
    from qubes_miragevpn.runtime.operating.logins.program import Program

    match method:
        case PasswordFile(path):
            return Passwords(folder / path)
        case Command():
            return Program(method, folder)
        case Pam(service):
            return PamAccounts(service)

# SPDX-License-Identifier: BSD-2-Clause
"""A program that judges the metadata of tls-crypt-v2 client keys, for ``tls-crypt-v2-verify``.

It is told what openvpn tells it and nothing else: `script_type`, `metadata_type` (0: what the operator wrote, 1: the
time of issue) and `metadata_file`. It ends with 0 for a key that is good; with anything else, or not in time, the key
is not. So many run at once, of one source a share of them. Source: openvpn(8), tls-crypt-v2-verify.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

from qubes_miragevpn.protocol.contract import ClientKeyJudged, VerifyClientKey
from qubes_miragevpn.protocol.serving.registry import source_of
from qubes_miragevpn.runtime.operating.logins import process
from qubes_miragevpn.runtime.operating.logins.judge import AT_ONCE, SHARE, WAITING
from qubes_miragevpn.runtime.operating.logins.turns import Turns


class ClientKeys:
    """Answers a server's questions about client keys by running `words` in `folder`."""

    def __init__(self, words: tuple[str, ...], folder: Path, report: Callable[[ClientKeyJudged], None]) -> None:
        self._words = words
        self._folder = folder
        self._report = report
        self._turns = Turns(AT_ONCE, SHARE)
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def ask(self, asked: VerifyClientKey) -> None:
        """Judge this key; the verdict is reported."""
        if len(self._tasks) >= AT_ONCE + WAITING:
            self._report(ClientKeyJudged(asked.peer, False, "too many client keys are being judged"))
            return
        self._tasks[asked.peer] = task = asyncio.get_running_loop().create_task(self._judge(asked))
        task.add_done_callback(lambda ended: self._ended(asked.peer, ended))

    def forget(self, peer: int) -> None:
        """Nobody waits for this verdict any more."""
        if (task := self._tasks.get(peer)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Judge no more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, peer: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(peer) is task:
            del self._tasks[peer]

    async def _judge(self, asked: VerifyClientKey) -> None:
        try:
            async with self._turns.of(source_of(asked.endpoint)):
                code = await self._run(asked)
        except TimeoutError:
            verdict = ClientKeyJudged(asked.peer, False, f"the program took longer than {process.RUN_TIME:g} s")
        except OSError as error:
            verdict = ClientKeyJudged(asked.peer, False, f"the program cannot be run: {error.strerror}")
        else:
            verdict = ClientKeyJudged(asked.peer, code == 0, f"the program ended with {code}")
        self._report(verdict)

    async def _run(self, asked: VerifyClientKey) -> int:
        room = Path(tempfile.mkdtemp(prefix="miragevpn-key-"))
        try:
            path = room / "metadata"
            path.write_bytes(asked.metadata)
            told = {
                "script_type": "tls-crypt-v2-verify",
                "metadata_type": str(asked.kind),
                "metadata_file": str(path),
            }
            return await process.run(self._words, told, self._folder)
        finally:
            await process.clear(room)

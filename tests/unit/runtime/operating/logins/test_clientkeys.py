# SPDX-License-Identifier: BSD-2-Clause
"""The judge of client keys with real programs: what they are told, what they say, and those that do not end."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qubes_miragevpn.protocol.contract import ClientKeyJudged, VerifyClientKey
from qubes_miragevpn.runtime.operating.logins import clientkeys, process
from qubes_miragevpn.runtime.operating.logins.clientkeys import ClientKeys

Program = Callable[[str], tuple[str, ...]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def write(text: str) -> tuple[str, ...]:
        path = tmp_path / "judge"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path), "a b", "$(touch x)"

    return write


def key(peer: int = 1, kind: int = 0, metadata: bytes = b"qube one") -> VerifyClientKey:
    return VerifyClientKey(peer, (f"192.0.2.{peer % 250}", 4000), kind, metadata)


def judged(words: tuple[str, ...], folder: Path, *asked: VerifyClientKey) -> list[ClientKeyJudged]:
    """The verdicts, in the order in which they came."""
    reported: list[ClientKeyJudged] = []

    async def run() -> None:
        judge = ClientKeys(words, folder, reported.append)
        for each in asked:
            judge.ask(each)
        async with asyncio.timeout(30):
            while len(reported) < len(asked):
                await asyncio.sleep(0.01)
        await judge.close()
        assert not judge._tasks

    asyncio.run(run())
    return reported


def test_it_is_told_what_openvpn_tells_and_nothing_else(tmp_path: Path, program: Program) -> None:
    found = program(
        f'cat "$metadata_file" >{tmp_path}/told; echo "$#|$1|$2|$metadata_type|$script_type" >>{tmp_path}/told;'
        f' env >{tmp_path}/env; echo "$metadata_file" >{tmp_path}/file'
    )
    assert judged(found, tmp_path, key(kind=7, metadata=b"one\0\xff\n")) == [
        ClientKeyJudged(1, True, "the program ended with 0")
    ]
    assert (tmp_path / "told").read_bytes() == b"one\0\xff\n2|a b|$(touch x)|7|tls-crypt-v2-verify\n"
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"script_type", "metadata_type", "metadata_file"}
    assert not Path((tmp_path / "file").read_text().strip()).exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "why"), [("exit 1", "ended with 1"), ("exit 200", "with 200"), ("kill -9 $$", "with -9")]
)
def test_anything_but_0_refuses(tmp_path: Path, program: Program, text: str, why: str) -> None:
    (found,) = judged(program(text), tmp_path, key())
    assert not found.granted and why in found.why


def test_a_program_that_cannot_be_run_refuses(tmp_path: Path) -> None:
    (found,) = judged((str(tmp_path / "none"),), tmp_path, key())
    assert not found.granted and "cannot be run: No such file" in found.why


def test_one_that_does_not_end_is_ended(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RUN_TIME", 2.0)
    (found,) = judged(program(f"echo $$ >{tmp_path}/pid; sleep 60 & sleep 60"), tmp_path, key())
    assert not found.granted and "took longer" in found.why
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_so_many_at_once_and_the_rest_refused(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clientkeys, "WAITING", 2)
    found = judged(program("exit 0"), tmp_path, *(key(peer) for peer in range(15)))
    assert sum(each.granted for each in found) == clientkeys.AT_ONCE + 2
    assert {each.why for each in found if not each.granted} == {"too many client keys are being judged"}


def test_what_nobody_waits_for_is_ended(tmp_path: Path, program: Program) -> None:
    async def run() -> None:
        judge = ClientKeys(program(f"echo $$ >{tmp_path}/pid; exec sleep 60"), tmp_path, reported.append)
        judge.ask(key())
        deadline = time.monotonic() + 20
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        judge.forget(1)
        judge.forget(2)
        while judge._tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not judge._tasks

    reported: list[ClientKeyJudged] = []
    asyncio.run(run())
    assert not reported
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_it_was_told_is_removed_even_if_that_has_to_wait(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All threads are busy when the program ends, and then its bearer leaves: the file goes all the same."""
    (tmp_path / "rooms").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "rooms"))

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        free = threading.Event()
        busy = asyncio.ensure_future(asyncio.to_thread(free.wait))
        judge = ClientKeys(program(f"echo >{tmp_path}/ran"), tmp_path, lambda _: None)
        judge.ask(key())
        deadline = time.monotonic() + 30
        while not (tmp_path / "ran").exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        judge.forget(1)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(judge.close())
        await asyncio.sleep(0.05)
        free.set()  # where nobody had noticed the program's end yet, `close` waits for this
        await asyncio.gather(closing, busy)

    asyncio.run(run())
    assert (tmp_path / "ran").exists() and not list((tmp_path / "rooms").iterdir())

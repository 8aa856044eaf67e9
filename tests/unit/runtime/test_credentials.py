# SPDX-License-Identifier: BSD-2-Clause
"""The question at the terminal, on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
import termios
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.config.model import Credentials
from qubes_miragevpn.runtime.plain.credentials import (
    ask_at_terminal,
    ask_challenge_at_terminal,
    ask_for_proxy_at_terminal,
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """The keyboard's side and the program's side."""
    keyboard, program = pty.openpty()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: program))
    yield keyboard, program
    os.close(keyboard)
    os.close(program)


def echo(program: int) -> bool:
    return bool(termios.tcgetattr(program)[3] & termios.ECHO)


async def silent(program: int) -> None:
    while echo(program):
        await asyncio.sleep(0.001)


def test_name_and_password_are_read_the_password_without_echo(
    terminal: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    keyboard, program = terminal

    async def run() -> None:
        asking = asyncio.create_task(ask_at_terminal("wrong\x1b password"))
        os.write(keyboard, b"alice\n")
        await silent(program)
        os.write(keyboard, b"s3 cret \n")
        given = await asking
        assert given is not None
        assert (given.username, given.password) == ("alice", Secret(b"s3 cret "))
        assert echo(program)

    asyncio.run(run())
    assert capsys.readouterr().err == "wrong\\x1b password\nUser name: Password: \n"
    assert b"cret" not in os.read(keyboard, 1000)


def test_for_a_proxy_the_question_names_it(terminal: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    keyboard, program = terminal

    async def run() -> None:
        asking = asyncio.create_task(ask_for_proxy_at_terminal("the proxy\x1b", ""))
        os.write(keyboard, b"alice\n")
        await silent(program)
        os.write(keyboard, b"open\n")
        assert await asking == Credentials("alice", Secret(b"open"))

    asyncio.run(run())
    assert capsys.readouterr().err == "User name for the proxy\\x1b: Password for the proxy\\x1b: \n"


@pytest.mark.parametrize("seen", [True, False])
def test_a_question_is_answered_with_or_without_echo(
    terminal: tuple[int, int], capsys: pytest.CaptureFixture[str], seen: bool
) -> None:
    keyboard, program = terminal

    async def run() -> None:
        asking = asyncio.create_task(ask_challenge_at_terminal("Code\x1b?", seen))
        if not seen:
            await silent(program)
        os.write(keyboard, b"123\n")
        assert await asking == Secret(b"123")
        assert echo(program)

    asyncio.run(run())
    assert capsys.readouterr().err == "Code\\x1b? " + ("" if seen else "\n")


def test_echo_is_back_when_the_question_is_called_off(terminal: tuple[int, int]) -> None:
    keyboard, program = terminal

    async def run() -> None:
        asking = asyncio.create_task(ask_at_terminal(""))
        os.write(keyboard, b"alice\n")
        await silent(program)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert echo(program)

    asyncio.run(run())


@pytest.mark.parametrize("typed", [b"\n", b"\x04"])
def test_no_answer_is_none(terminal: tuple[int, int], typed: bytes) -> None:
    os.write(terminal[0], typed)
    assert asyncio.run(ask_at_terminal("")) is None


def test_without_a_terminal_nobody_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert asyncio.run(ask_at_terminal("")) is None
    monkeypatch.setattr(sys, "stdin", None)
    assert asyncio.run(ask_at_terminal("")) is None
    assert capsys.readouterr().err == ""

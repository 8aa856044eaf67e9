# SPDX-License-Identifier: BSD-2-Clause
"""Asking for user name and password at the terminal.

The terminal is read by the event loop, so that a signal or the end of the connection attempt ends the question at
once, and its settings are always put back: a shell must not be left without echo. Without a terminal nobody is asked.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios

from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.model import Credentials

MAX_QUESTION = 500  # characters shown of a question
MAX_LINE = 4096  # what a terminal's line can hold (termios(3), canonical mode)


async def ask_for_proxy_at_terminal(proxy: str, again: str) -> Credentials | None:
    """As `ask_at_terminal`, for `proxy`, which is named: nobody is to type the server's password for it."""
    return await ask_at_terminal(again, whom=proxy)


async def ask_at_terminal(again: str, *, known: str | None = None, whom: str = "") -> Credentials | None:
    """Return what the user types, or None if there is no terminal or no answer.

    `again` is why we ask again, `whom` for what, if not for the server. A user name that is `known` is not asked for.
    """
    try:
        terminal = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None
    if not os.isatty(terminal):
        return None
    if again:
        _show(f"{printable(again)}\n")
    username = known
    target = f" for {printable(whom, MAX_QUESTION)}" if whom else ""
    if username is None:
        username = (await read_line(terminal, f"User name{target}: ")).decode("utf-8", "surrogateescape")
    if not username:
        return None
    whose = "" if known is None else f" of {printable(known)}"
    password = await read_line(terminal, f"Password{whose}{target}: ", echo=False)
    return Credentials(username, Secret(password)) if password else None


async def ask_challenge_at_terminal(text: str, echo: bool) -> Secret | None:
    """Return the user's answer to `text`, or None if there is no terminal or no answer."""
    try:
        terminal = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None
    if not os.isatty(terminal):
        return None
    answer = await read_line(terminal, f"{printable(text, MAX_QUESTION)} ", echo=echo)
    return Secret(answer) if answer else None


async def read_line(terminal: int, prompt: str, *, echo: bool = True) -> bytes:
    """Show `prompt`, return the line typed at `terminal` without its end; empty at end of file."""
    before = termios.tcgetattr(terminal)
    silent = list(before)
    silent[3] &= ~termios.ECHO
    _show(prompt)
    try:
        if not echo:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, silent)
        return await _line(terminal)
    finally:
        if not echo:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
            _show("\n")


async def _line(terminal: int) -> bytes:
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()

    def readable() -> None:
        try:
            data = os.read(terminal, MAX_LINE)  # a whole line, or the end of file
        except OSError:
            data = b""
        if not line.done():
            line.set_result(data)

    loop.add_reader(terminal, readable)
    try:
        return (await line).rstrip(b"\r\n")
    finally:
        loop.remove_reader(terminal)


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()

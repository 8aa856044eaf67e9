# SPDX-License-Identifier: BSD-2-Clause
"""The management socket as a play: lines in, lines out; and callers who are up to no good."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.runtime.operating.logbook import Logbook
from qubes_miragevpn.runtime.operating.management import MAX_CALLERS, Management
from qubes_miragevpn.runtime.operating.roster import Roster, State
from tests.unit.runtime.operating.test_roster import ROSTER


class Server:
    """`Operated`: notes what it is asked to do."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def roster(self) -> Roster:
        return ROSTER

    def size(self) -> int:
        return len(ROSTER.members)

    def totals(self) -> tuple[int, int]:
        return 30, 40

    def dismiss(self, number: int, message: str) -> bool:
        self.done.append((number, message))
        return number in (3, 4)

    def update(self, number: int | None, options: tuple[str, ...]) -> int:
        self.done.append((number, options))
        return 1 if number in (None, 3) else 0

    def signal(self, name: str) -> None:
        self.done.append(name)


class Caller:
    """One connection to the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def line(self) -> str:
        async with asyncio.timeout(5):
            return (await self.reader.readline()).decode().rstrip("\r\n")

    async def ask(self, command: str) -> str:
        self.writer.write(command.encode() + b"\n")
        return await self.line()

    async def ask_all(self, command: str) -> list[str]:
        lines = [await self.ask(command)]
        while lines[-1] != "END":
            lines.append(await self.line())
        return lines


Play = Callable[[Management, Server, Callable[[], Awaitable[Caller]]], Awaitable[None]]


def with_management(tmp_path: Path, play: Play, *, hold: bool = False) -> None:
    async def run() -> None:
        server, path = Server(), tmp_path / "socket"
        management = Management(path, server, Logbook(3), hold=hold)
        await management.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

        async def call() -> Caller:
            caller = Caller(*await asyncio.open_unix_connection(path))
            assert (await caller.line()).startswith(">INFO:OpenVPN Management Interface Version 5")
            return caller

        try:
            await play(management, server, call)
        finally:
            await management.close()
        assert not path.exists()

    asyncio.run(run())


ANSWERS = {
    "load-stats": "SUCCESS: nclients=2,bytesin=30,bytesout=40",
    "kill bob": "SUCCESS: common name 'bob' found, 1 client(s) killed",
    "kill 192.0.2.7:1194": "SUCCESS: 2 client(s) at address 192.0.2.7:1194 killed",
    "kill eve": "ERROR: common name 'eve' not found",
    "kill 192.0.2.8:1": "ERROR: client at address 192.0.2.8:1 not found",
    "kill": "ERROR: the 'kill' command requires 1 parameter",
    "client-kill 3": "SUCCESS: client-kill command succeeded",
    "client-kill 4 HALT,go away": "SUCCESS: client-kill command succeeded",
    "client-kill 9": "ERROR: client-kill command failed",
    "client-kill x": "ERROR: cannot parse CID",
    "client-kill 3 PUSH_REPLY,route 0.0.0.0": "ERROR: client-kill command failed",
    "client-kill": "ERROR: the 'client-kill' command requires at least 1 parameter",
    'push-update-broad "route 10.9.0.0 255.255.0.0, -dns"': "SUCCESS: push-update command succeeded",
    "push-update-cid 3 ?tun-mtu 1400": "SUCCESS: push-update command succeeded",
    'push-update-cid 9 "-route"': "ERROR: push-update command failed",
    'push-update-cid x "-route"': "ERROR: push-update-cid fail during cid parsing",
    'push-update-broad "-route': "ERROR: push-update command failed: a quote has no end",
    "push-update-broad ,": "ERROR: push-update command failed: no option is given",
    "push-update-broad -ifconfig": "ERROR: push-update command failed: 'ifconfig' cannot be changed while a client is "
    "connected",
    f"push-update-broad {'x' * 925}": "ERROR: push-update command failed: an option is malformed or too long",
    "push-update-cid 3": "ERROR: the 'push-update-cid' command requires at least 2 parameter",
    "signal SIGUSR1": "SUCCESS: signal SIGUSR1 thrown",
    "signal SIGKILL": "ERROR: signal 'SIGKILL' is not a known signal type",
    "status 9": "ERROR: bad status format version number",
    "bytecount 0": "SUCCESS: bytecount interval changed",
    "hold": "SUCCESS: hold=0",
    "log": "ERROR: the 'log' command requires at least 1 parameter",
    "log foo": "ERROR: log parameter must be 'on' or 'off' or some number n or 'all'",
    "state 0": "ERROR: state parameter must be 'on' or 'off' or some number n or 'all'",
    "nonsense": "ERROR: unknown command, enter 'help' for more options",
    "\x1b[31m": "ERROR: unknown command, enter 'help' for more options",
}


def test_answers(tmp_path: Path) -> None:
    async def play(management: Management, server: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        caller = await call()
        assert {command: await caller.ask(command) for command in ANSWERS} == ANSWERS
        assert server.done == [
            *((number, "RESTART") for number in (4, 3, 4, 3)),
            (4, "HALT,go away"),
            (9, "RESTART"),
            (None, ("route 10.9.0.0 255.255.0.0", "-dns")),
            (3, ("?tun-mtu 1400",)),
            (9, ("-route",)),
            "SIGUSR1",
        ]
        assert (await caller.ask_all("version"))[1:] == ["Management Version: 5", "END"]
        assert len(await caller.ask_all("status")) > 5 and len(await caller.ask_all("help")) > 10
        assert await caller.ask("exit") == ""

    with_management(tmp_path, play)


def test_log_and_states(tmp_path: Path) -> None:
    async def play(management: Management, server: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        def log(text: str) -> None:
            management.logbook.handle(logging.LogRecord("x", logging.WARNING, "", 0, text, (), None))

        for number in range(5):
            log(f"line {number}")
        management.became(State("CONNECTING"))
        management.became(State("CONNECTED", "SUCCESS", "10.8.0.1", ("192.0.2.1", 1194), "fd00::1"))
        caller = await call()
        assert [line.split(",")[1:] for line in (await caller.ask_all("log all"))[:-1]] == [
            ["W", "line 2"], ["W", "line 3"], ["W", "line 4"],
        ]  # fmt: skip
        assert len(await caller.ask_all("log 1")) == 2
        assert [line.split(",", 1)[1] for line in (await caller.ask_all("state"))[:-1]] == [
            "CONNECTED,SUCCESS,10.8.0.1,,,192.0.2.1,1194,fd00::1"
        ]
        assert len(await caller.ask_all("state all")) == 3
        assert await caller.ask("log on") == "SUCCESS: real-time log notification set to ON"
        assert await caller.ask("state on") == "SUCCESS: real-time state notification set to ON"
        log("now\r\n>STATE:forged")
        assert (await caller.line()).endswith(",W,now\\x0d\\x0a>STATE:forged")
        management.became(State("EXITING"))
        assert (await caller.line()).split(",")[1] == "EXITING"

    with_management(tmp_path, play)


def test_byte_counts(tmp_path: Path) -> None:
    async def play(management: Management, server: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        caller = await call()
        await caller.ask("bytecount 1")
        assert [await caller.line(), await caller.line()] == [">BYTECOUNT_CLI:3,10,20", ">BYTECOUNT_CLI:4,10,20"]
        assert (await caller.ask("pid")).startswith("SUCCESS: pid="), "who has moved nothing since is not told again"

    with_management(tmp_path, play)


def test_holding(tmp_path: Path) -> None:
    async def play(management: Management, server: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        waiting = asyncio.create_task(management.released())
        caller = await call()
        assert await caller.line() == ">HOLD:Waiting for hold release:0"
        assert await caller.ask("hold") == "SUCCESS: hold=1" and not waiting.done()
        assert await caller.ask("hold release") == "SUCCESS: hold release succeeded"
        await waiting
        assert not management.holding

    with_management(tmp_path, play, hold=True)


def test_callers_are_bounded(tmp_path: Path) -> None:
    """One line too long, one caller too many, one who never reads: each is ended, and the others are served."""

    async def play(management: Management, server: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        greedy = await call()
        greedy.writer.write(b"x" * 5000)
        assert (await greedy.line()).startswith("ERROR: a command has at most") and await greedy.line() == ""
        deaf = await call()
        deaf.writer.write(b"help\n" * 100_000)
        for _ in range(200):
            await asyncio.sleep(0)
        others = [await call() for _ in range(MAX_CALLERS - 1)]
        assert await others[0].ask("hold") == "SUCCESS: hold=0"
        assert deaf.reader.at_eof() or len(management._callers) <= MAX_CALLERS

    with_management(tmp_path, play)


@pytest.mark.parametrize(
    "untrusted", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 900 + b"\n", b"\xff\xfe\n", b"x" * (1 << 20), b"sign"]
)
def test_callers_who_speak_something_else(tmp_path: Path, untrusted: bytes) -> None:
    """HTTP, NULs, no ASCII, a megabyte without an end, and who says nothing more: another caller notices nothing."""

    async def play(management: Management, server: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        odd, other = await call(), await call()
        odd.writer.write(untrusted)
        assert await other.ask("hold") == "SUCCESS: hold=0"
        if untrusted != b"sign":
            assert (await odd.line()).startswith("ERROR: ")
        assert server.done == []

    with_management(tmp_path, play)


def test_a_path_that_is_taken(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "file").write_text("precious")
        with pytest.raises(SystemRefused, match="cannot make the management socket"):
            await Management(tmp_path / "file", Server(), Logbook(1)).start()
        assert (tmp_path / "file").read_text() == "precious"

    asyncio.run(run())


def test_the_socket_of_another_server_is_left_alone(tmp_path: Path) -> None:
    """A second start by mistake fails for its port later on; the server that runs keeps its socket meanwhile."""

    async def play(management: Management, _: Server, call: Callable[[], Awaitable[Caller]]) -> None:
        second = Management(tmp_path / "socket", Server(), Logbook(3))
        with pytest.raises(SystemRefused, match="a server answers there"):
            await second.start()
        await second.close()
        caller = await call()
        assert (await caller.ask("pid")).startswith("SUCCESS: pid=")

    with_management(tmp_path, play)

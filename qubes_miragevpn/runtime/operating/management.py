# SPDX-License-Identifier: BSD-2-Clause
"""OpenVPN's management protocol for a server, on a UNIX socket, as far as existing tools use it.

Lines of text each way. A command is answered by ``SUCCESS: ...``, ``ERROR: ...`` or lines that end with ``END``; what
happens meanwhile comes in lines that begin with ``>``. Source: OpenVPN doc/management-notes.txt, management interface
version 5. Only a UNIX socket for its owner alone: whoever may write there may end the server. Bounded: callers, the
length of a line, and what waits for a caller that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qubes_miragevpn.base.errors import ConfigError, SystemRefused
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.runtime.operating.logbook import Line, Logbook
from qubes_miragevpn.runtime.operating.roster import STATUS_VERSIONS, Roster, State, status
from qubes_miragevpn.runtime.operating.updates import read_options

MAX_CALLERS = 8
MAX_COMMAND = 1024
"""Bytes of one line."""

MAX_WAITING = 1 << 20
"""Bytes that wait for a caller who does not read; more, and he is cut off. A status of 1024 clients has 200 KiB."""

VERSION = 5
SIGNALS = ("SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2")


class Operated(Protocol):
    """What can be asked of the server."""

    def roster(self) -> Roster:
        """Who is connected."""

    def size(self) -> int:
        """How many are."""

    def totals(self) -> tuple[int, int]:
        """Bytes received and sent since the start."""

    def dismiss(self, number: int, message: str) -> bool:
        """Send a client away with this control message; False if there is none of that number."""

    def update(self, number: int | None, options: tuple[str, ...]) -> int:
        """Change what this client (None: every one) was pushed; how many there are that take it."""

    def signal(self, name: str) -> None:
        """Do what a signal of this name would do."""


class Management:
    """The socket and what all callers share; `hold` waits until somebody releases it."""

    def __init__(self, path: Path, operated: Operated, logbook: Logbook, *, hold: bool = False) -> None:
        self._path = path
        self.operated = operated
        self.logbook = logbook
        self.hold = hold
        self.states: list[State] = []
        self._released = asyncio.Event()
        self._callers: dict[asyncio.Task[None], _Caller] = {}
        self._server: asyncio.AbstractServer | None = None
        self._loop = asyncio.get_running_loop()
        logbook.listener = self._logged

    async def start(self) -> None:
        """Listen; a socket that a killed server left behind is replaced. Raises `SystemRefused`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(self._path.lstat().st_mode):
                    self._demand_unused()
                    self._path.unlink()
            before = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(before)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_COMMAND)
        except OSError as error:
            listener.close()
            what = f"cannot make the management socket {self._path}: {error.strerror or error}"
            raise SystemRefused(what, "write another path in 'management', or remove what is there") from error

    def _demand_unused(self) -> None:
        """Raise OSError if somebody listens at the socket that is there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
            try:
                caller.connect(str(self._path))
            except ConnectionRefusedError:
                return
        raise OSError(errno.EADDRINUSE, "a server answers there")

    async def released(self) -> None:
        """Wait for a caller's `hold release`, if the server is to hold."""
        if not self.hold:
            return
        for caller in self._callers.values():
            caller.say(">HOLD:Waiting for hold release:0")
        await self._released.wait()

    def release(self) -> None:
        """Let the server go on."""
        self._released.set()

    @property
    def holding(self) -> bool:
        """Whether the server waits."""
        return self.hold and not self._released.is_set()

    def became(self, state: State) -> None:
        """Note a new state of the server, and tell those who listen."""
        self.states.append(state)
        for caller in self._callers.values():
            if caller.hears_states:
                caller.say(f">STATE:{state.line()}")

    async def close(self) -> None:
        """End: no further callers, present ones are cut off."""
        self.logbook.listener = None
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(OSError):
                self._path.unlink()
        for task in list(self._callers):
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)

    def _logged(self, line: Line) -> None:
        self._loop.call_soon_threadsafe(self._tell, line)

    def _tell(self, line: Line) -> None:
        for caller in self._callers.values():
            if caller.hears_log:
                caller.say(f">LOG:{_log_line(line)}")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._callers) >= MAX_CALLERS:
            writer.write(b"ERROR: too many callers\r\n")
            writer.close()
            return
        caller = _Caller(self, reader, writer)
        task = asyncio.get_running_loop().create_task(caller.serve())
        self._callers[task] = caller
        task.add_done_callback(lambda done: self._callers.pop(done, None))


class _Caller:
    """One connection."""

    def __init__(self, shared: Management, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._shared = shared
        self._reader = reader
        self._writer = writer
        self._ticker: asyncio.Task[None] | None = None
        self._ended = False
        self.hears_log = False
        self.hears_states = False

    def say(self, *lines: str) -> None:
        """Send lines; who does not read them is cut off."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_WAITING:
            transport.abort()
            return
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())

    async def serve(self) -> None:
        """Answer until the caller leaves."""
        self.say(f">INFO:OpenVPN Management Interface Version {VERSION} -- type 'help' for more info")
        if self._shared.holding:
            self.say(">HOLD:Waiting for hold release:0")
        try:
            while not self._ended:
                untrusted_line = await self._reader.readline()
                if not untrusted_line:
                    return
                self._obey(untrusted_line)
        except ValueError:  # longer than the limit
            self.say(f"ERROR: a command has at most {MAX_COMMAND} bytes")
        except OSError:
            return
        finally:
            self._tick(0)
            self._writer.close()

    def _obey(self, untrusted_line: bytes) -> None:
        words = untrusted_line.decode("ascii", "replace").split()
        if not words:
            return
        command = _COMMANDS.get(words[0])
        if command is None:
            self.say("ERROR: unknown command, enter 'help' for more options")
        elif len(words) - 1 < command.wanted:
            least = "at least " if words[0] in ("client-kill", "log", "push-update-cid") else ""
            self.say(f"ERROR: the '{words[0]}' command requires {least}{command.wanted} parameter")
        else:
            command.run(self, words[1:])

    # --- commands

    def _version(self, words: list[str]) -> None:
        if words:  # the version that the caller understands; this one is what we speak
            return
        title = self._shared.operated.roster().title
        self.say(f"OpenVPN Version: {title}", f"Management Version: {VERSION}", "END")

    def _pid(self, _: list[str]) -> None:
        self.say(f"SUCCESS: pid={os.getpid()}")

    def _help(self, _: list[str]) -> None:
        title = self._shared.operated.roster().title
        self.say(f"Management Interface for {title}", "Commands:")
        self.say(*(f"{command.usage:<23}: {command.what}" for command in _COMMANDS.values() if command.usage), "END")

    def _exit(self, _: list[str]) -> None:
        self._ended = True

    def _status(self, words: list[str]) -> None:
        version = _number(words[0]) if words else STATUS_VERSIONS[0]
        if version not in STATUS_VERSIONS:
            self.say("ERROR: bad status format version number")
        else:
            self.say(*status(self._shared.operated.roster(), version).splitlines())

    def _load_stats(self, _: list[str]) -> None:
        received, sent = self._shared.operated.totals()
        clients = self._shared.operated.size()
        self.say(f"SUCCESS: nclients={clients},bytesin={received},bytesout={sent}")

    def _state(self, words: list[str]) -> None:
        lines = [state.line() for state in self._shared.states]
        if words:
            self._recall(words, "state", lines)
        else:
            self.say(*lines[-1:], "END")

    def _log(self, words: list[str]) -> None:
        self._recall(words, "log", [_log_line(line) for line in self._shared.logbook.lines])

    def _recall(self, words: list[str], what: str, lines: list[str]) -> None:
        """``[on|off] [N|all]``."""
        if words and words[0] in ("on", "off"):
            heard = words.pop(0) == "on"
            if what == "log":
                self.hears_log = heard
            else:
                self.hears_states = heard
            self.say(f"SUCCESS: real-time {what} notification set to {'ON' if heard else 'OFF'}")
            if not words:
                return
        newest = len(lines) if words[0] == "all" else _number(words[0])
        if not newest and words[0] != "all":
            self.say(f"ERROR: {what} parameter must be 'on' or 'off' or some number n or 'all'")
        else:
            self.say(*(lines[-newest:] if newest else []), "END")

    def _bytecount(self, words: list[str]) -> None:
        self.say("SUCCESS: bytecount interval changed")
        self._tick(_number(words[0]))

    def _tick(self, seconds: int) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if seconds:
            self._ticker = asyncio.get_running_loop().create_task(self._count(min(seconds, 86400)))

    async def _count(self, seconds: int) -> None:
        told: dict[int, tuple[int, int]] = {}
        while True:
            counts = {each.number: (each.bytes_in, each.bytes_out) for each in self._shared.operated.roster().members}
            for number, (received, sent) in counts.items():
                if told.get(number) != (received, sent):
                    self.say(f">BYTECOUNT_CLI:{number},{received},{sent}")
            told = counts
            await asyncio.sleep(seconds)

    def _kill(self, words: list[str]) -> None:
        members = self._shared.operated.roster().members
        address = ":" in words[0]
        chosen = [
            each for each in members if words[0] in ((each.endpoint, each.real_address) if address else (each.name,))
        ]
        done = sum(self._shared.operated.dismiss(each.number, "RESTART") for each in chosen)
        shown = printable(words[0])
        if done:
            which = (
                f"{done} client(s) at address {shown}" if address else f"common name '{shown}' found, {done} client(s)"
            )
            self.say(f"SUCCESS: {which} killed")
        else:
            which = f"client at address {shown}" if address else f"common name '{shown}'"
            self.say(f"ERROR: {which} not found")

    def _client_kill(self, words: list[str]) -> None:
        if not words[0].isdigit():
            self.say("ERROR: cannot parse CID")
            return
        message = " ".join(words[1:]) or "RESTART"
        known = message.split(",")[0] in ("RESTART", "HALT") and printable(message) == message
        done = known and self._shared.operated.dismiss(_number(words[0]), message)
        self.say("SUCCESS: client-kill command succeeded" if done else "ERROR: client-kill command failed")

    def _push_update_broad(self, words: list[str]) -> None:
        self._push_update(None, words)

    def _push_update_cid(self, words: list[str]) -> None:
        if not words[0].isdigit():
            self.say("ERROR: push-update-cid fail during cid parsing")
            return
        self._push_update(_number(words[0]), words[1:])

    def _push_update(self, number: int | None, words: list[str]) -> None:
        try:
            done = self._shared.operated.update(number, read_options(" ".join(words)))
        except ConfigError as error:
            self.say(f"ERROR: push-update command failed: {printable(error.problem)}")
            return
        self.say("SUCCESS: push-update command succeeded" if done else "ERROR: push-update command failed")

    def _signal(self, words: list[str]) -> None:
        if words[0] not in SIGNALS:
            self.say(f"ERROR: signal '{printable(words[0])}' is not a known signal type")
            return
        self.say(f"SUCCESS: signal {words[0]} thrown")
        self._shared.operated.signal(words[0])

    def _hold(self, words: list[str]) -> None:
        if not words:
            self.say(f"SUCCESS: hold={int(self._shared.hold)}")
        elif words[0] in ("on", "off"):
            self._shared.hold = words[0] == "on"
            self.say(f"SUCCESS: hold flag set to {words[0].upper()}")
        elif words[0] == "release":
            self.say("SUCCESS: hold release succeeded")
            self._shared.release()
        else:
            self.say("ERROR: bad hold command parameter")


def _log_line(line: Line) -> str:
    return f"{line.at},{line.flag},{line.text}"


def _number(word: str) -> int:
    return int(word) if word.isascii() and word.isdigit() and len(word) <= 9 else 0


@dataclass(frozen=True)
class _Command:
    run: Callable[[_Caller, list[str]], None]
    usage: str = ""
    what: str = ""
    wanted: int = 0


_COMMANDS: Mapping[str, _Command] = {
    "bytecount": _Command(_Caller._bytecount, "bytecount n", "Bytes of each client, every n seconds (0=off).", 1),
    "client-kill": _Command(_Caller._client_kill, "client-kill CID [M]", "Send away with M (RESTART, HALT).", 1),
    "exit": _Command(_Caller._exit),
    "help": _Command(_Caller._help, "help", "Print this message."),
    "hold": _Command(_Caller._hold, "hold [on|off|release]", "Show or set the hold flag, or let the server begin."),
    "kill": _Command(_Caller._kill, "kill cn|IP:port", "Send away the clients of that name, or the one there.", 1),
    "load-stats": _Command(_Caller._load_stats, "load-stats", "Clients and bytes in all."),
    "log": _Command(_Caller._log, "log [on|off] [N|all]", "Log lines as they come, and the last N.", 1),
    "pid": _Command(_Caller._pid, "pid", "The server's process id."),
    "push-update-broad": _Command(_Caller._push_update_broad, 'push-update-broad "O"', "Push options to all.", 1),
    "push-update-cid": _Command(_Caller._push_update_cid, 'push-update-cid CID "O"', "Push options to one.", 2),
    "quit": _Command(_Caller._exit, "exit|quit", "Close the session."),
    "signal": _Command(_Caller._signal, "signal s", f"Send a signal: {', '.join(SIGNALS)}.", 1),
    "state": _Command(_Caller._state, "state [on|off] [N|all]", "Like log, for states."),
    "status": _Command(_Caller._status, "status [n]", "Who is connected, in format 1, 2 or 3."),
    "version": _Command(_Caller._version, "version", "The server's version."),
}  # fmt: skip

# SPDX-License-Identifier: BSD-2-Clause
"""A program that judges, for ``auth-user-pass-verify``: its words as they are, no shell, and it may take its time.

The program is told what openvpn tells it: `username` (and `password`, unless it is in a file that is its last
argument), `common_name`, `untrusted_ip`, `untrusted_port`, the client's IV_ and UV_ lines, and the names of three
files that it may write: `auth_failed_reason_file` (what the client is told), `auth_pending_file` (seconds, a method,
and what the client is asked or shown) and `auth_control_file`. It ends with 0 (may enter), 1 (may not), or 2: then the
verdict is what it, or whoever it started, writes into `auth_control_file`: 1 or 0, or 2 for a client that waits.
A client's answer to a question goes to the same program, as its last argument behind the word ``response``.
Source: openvpn(8), auth-user-pass-verify.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

from qubes_miragevpn.base.errors import PeerError
from qubes_miragevpn.config.model import Command
from qubes_miragevpn.runtime.files import read_bounded
from qubes_miragevpn.runtime.operating.logins import process
from qubes_miragevpn.runtime.operating.logins.judge import LONGEST, Case, Verdict

LOOK = 0.25  # seconds between two looks at the control file
MAX_ANSWERS = 16  # of a client in one login; each runs the program
MAX_TOLD = 2048  # bytes of a file that the program writes
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FACT = re.compile(r"((?:IV|UV)_[A-Z0-9_]{1,60})=([\x20-\x7e]{0,255})")
_INFO = re.compile(r"(?:WEB_AUTH|OPEN_URL|CR_TEXT):[\x20-\x7e]{1,1000}")


class Program:
    """Judges by running a program in `folder`."""

    def __init__(self, command: Command, folder: Path) -> None:
        self._command = command
        self._folder = folder

    async def judge(self, case: Case) -> Verdict:
        """Run it, and wait for what it says."""
        asked = case.asked
        said = (asked.username, asked.password.reveal().decode("utf-8", "surrogateescape"), asked.common_name)
        if not all(text.isprintable() for text in said):  # a line of its own, or nothing
            return Verdict(False, why="control characters in user name or password")
        room = Path(tempfile.mkdtemp(prefix="miragevpn-login-"))
        try:
            return await self._judge(case, room, said)
        finally:
            await process.clear(room)

    async def _judge(self, case: Case, room: Path, said: tuple[str, str, str]) -> Verdict:
        username, password, _ = said
        arguments = []
        if self._command.by_file:
            (room / "login").write_text(f"{username}\n{password}\n", encoding="utf-8", errors="surrogateescape")
            arguments = [str(room / "login")]
        environment = self._environment(case, room, said)
        code = await self._run(case, arguments, environment)
        if code == 2:
            return await self._deferred(case, room, environment)
        if code == 0:
            return Verdict(True)
        return Verdict(False, _told(room / "reason"), "the program refused" if code == 1 else f"it ended with {code}")

    def _environment(self, case: Case, room: Path, said: tuple[str, str, str]) -> dict[str, str]:
        host, port = case.asked.endpoint[:2]
        facts = (found for fact in case.asked.facts if (found := _FACT.fullmatch(fact)))
        told = {found[1]: found[2] for found in facts}
        told |= {
            "PATH": _PATH,
            "script_type": "user-pass-verify",
            "username": said[0],
            "common_name": said[2],
            "untrusted_ip6" if ":" in str(host) else "untrusted_ip": str(host),
            "untrusted_port": str(port),
            "auth_control_file": str(room / "control"),
            "auth_pending_file": str(room / "pending"),
            "auth_failed_reason_file": str(room / "reason"),
        }
        return told if self._command.by_file else told | {"password": said[1]}

    async def _run(self, case: Case, arguments: list[str], environment: dict[str, str]) -> int:
        async with case.turn:
            return await process.run((*self._command.words, *arguments), environment, self._folder)

    async def _deferred(self, case: Case, room: Path, environment: dict[str, str]) -> Verdict:
        """Look at what the program left behind until it is a verdict."""
        told, answers = False, 0
        while True:
            if not told and (room / "pending").exists():
                case.pending(*_pending(room / "pending"))
                told = True
            match _told(room / "control")[:1]:
                case "1":
                    return Verdict(True)
                case "0":
                    return Verdict(False, _told(room / "reason"), "the program refused")
            try:
                async with asyncio.timeout(LOOK):
                    answer = await case.answers.get()
            except TimeoutError:
                continue
            answers += 1
            if answers > MAX_ANSWERS:
                return Verdict(False, why="too many answers to one question")
            (room / "response").write_bytes(answer.reveal() + b"\n")
            await self._run(case, ["response", str(room / "response")], environment)


def _pending(path: Path) -> tuple[float, tuple[str, ...]]:
    """Seconds, and what the client is sent; raises `PeerError` for anything else."""
    seconds, _, info = [*_told(path).splitlines(), "", "", ""][:3]
    if not seconds.isascii() or not seconds.isdigit() or (info and not _INFO.fullmatch(info)):
        raise PeerError("auth_pending_file holds no seconds, method and message")
    return min(float(seconds[:6]), LONGEST), ((f"INFO_PRE,{info}",) if info else ())


def _told(path: Path) -> str:
    try:
        return read_bounded(path)[:MAX_TOLD].decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return ""

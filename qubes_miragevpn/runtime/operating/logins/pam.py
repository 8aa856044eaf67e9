# SPDX-License-Identifier: BSD-2-Clause
"""The machine's own accounts, for ``auth-pam SERVICE``: PAM in a process of its own.

PAM modules are foreign code that may block, change the process, or crash it: none of that reaches the server. The
process reads user name and password from its standard input and tells the verdict by its exit code. Source: pam(3),
pam_conv(3); Linux-PAM's _pam_types.h.
"""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import re
import sys
from typing import Any

from qubes_miragevpn.base.errors import SystemRefused
from qubes_miragevpn.runtime.operating.logins.judge import Case, Verdict

RUN_TIME = 60.0
GRANTED, REFUSED, UNABLE = 0, 1, 2
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_PROMPT_ECHO_OFF, _PROMPT_ECHO_ON = 1, 2
_SUCCESS, _CONV_ERR = 0, 19
_MAX_MESSAGES = 32


class PamAccounts:
    """Judges by the PAM service of this name."""

    def __init__(self, service: str) -> None:
        self._service = service

    async def judge(self, case: Case) -> Verdict:
        """Ask PAM."""
        username, password = case.asked.username.encode("utf-8", "surrogateescape"), case.asked.password.reveal()
        if b"\n" in username or not username or b"\0" in username + password:
            return Verdict(False, why="not a user name")
        async with case.turn:
            code = await self._ask(username, password)
        if code not in (GRANTED, REFUSED):
            raise SystemRefused(f"PAM cannot be asked for {self._service}", "does /etc/pam.d have that service?")
        return Verdict(code == GRANTED, why="" if code == GRANTED else "PAM refused")

    async def _ask(self, username: bytes, password: bytes) -> int | None:
        # -P: nothing is imported from the folder in which the server happens to run, which may be anybody's
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", __name__, self._service,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(RUN_TIME):
                await process.communicate(username + b"\n" + password)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_ASK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.POINTER(_Message)), ctypes.POINTER(ctypes.POINTER(_Response)),
    ctypes.c_void_p,
)  # fmt: skip


class _Conversation(ctypes.Structure):
    _fields_ = (("ask", _ASK), ("data", ctypes.c_void_p))


def authenticate(service: str, username: bytes, password: bytes) -> int:
    """Ask PAM in this very process: `GRANTED`, `REFUSED` or `UNABLE`."""
    name = ctypes.util.find_library("pam")
    if name is None or not _SERVICE.fullmatch(service):
        return UNABLE
    pam, libc = ctypes.CDLL(name), ctypes.CDLL(None)
    libc.calloc.restype = libc.strdup.restype = ctypes.c_void_p
    libc.calloc.argtypes, libc.strdup.argtypes = (ctypes.c_size_t, ctypes.c_size_t), (ctypes.c_char_p,)
    answers = {_PROMPT_ECHO_OFF: password, _PROMPT_ECHO_ON: username}

    def ask(count: int, messages: Any, responses: Any, _: Any) -> int:
        if not 0 < count <= _MAX_MESSAGES:
            return _CONV_ERR
        made = ctypes.cast(libc.calloc(count, ctypes.sizeof(_Response)), ctypes.POINTER(_Response))
        for number in range(count):
            answer = answers.get(messages[number].contents.style)
            if answer is not None:
                made[number].text = libc.strdup(answer)  # PAM frees both
        responses[0] = made
        return _SUCCESS

    conversation, handle = _Conversation(_ASK(ask), None), ctypes.c_void_p()
    if pam.pam_start(service.encode(), username, ctypes.byref(conversation), ctypes.byref(handle)) != _SUCCESS:
        return UNABLE
    code = pam.pam_authenticate(handle, 0)
    if code == _SUCCESS:
        code = pam.pam_acct_mgmt(handle, 0)
    pam.pam_end(handle, code)
    return GRANTED if code == _SUCCESS else REFUSED


def main() -> int:
    """The process of its own."""
    username, _, password = sys.stdin.buffer.read(4096).partition(b"\n")
    return authenticate(sys.argv[1], username, password)


if __name__ == "__main__":
    sys.exit(main())

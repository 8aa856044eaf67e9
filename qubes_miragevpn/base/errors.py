# SPDX-License-Identifier: BSD-2-Clause
"""Errors, told apart by who can act on them.

`PeerError`: the other side (or somebody between) broke the protocol.
`MisuseError`: our own caller broke a contract; it is a bug.
`ConfigError`: the operator can mend it; it names file and line.
`SystemRefused`: the machine denies what we need (permission, missing device, missing tool).
"""

from __future__ import annotations

from enum import Enum


class Consequence(Enum):
    """What a `PeerError` means for the one who receives it."""

    DROP = "drop"  # forget this packet; the session is untouched
    END_SESSION = "end session"  # the session cannot go on; another may be tried
    FATAL = "fatal"  # trying again cannot help (wrong password, bad certificate)


class MirageError(Exception):
    """Base of every error this package raises on purpose."""


class PeerError(MirageError):
    """The peer or the network sent something that is not acceptable."""

    def __init__(self, reason: str, consequence: Consequence = Consequence.DROP) -> None:
        super().__init__(reason)
        self.reason = reason
        self.consequence = consequence


class MisuseError(MirageError):
    """A caller inside this package broke a contract."""


class SystemRefused(MirageError):
    """The operating system denies something we cannot do without.

    `what` says what was tried and why it failed; `remedy` what to do next.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy


class ConfigError(MirageError):
    """The operator's text cannot be accepted.

    `file` and `line` (1-based, 0 when the text as a whole is meant) say where, `problem`
    what is wrong, `fix` what to write instead (may be empty).
    """

    def __init__(self, problem: str, *, file: str = "", line: int = 0, fix: str = "") -> None:
        self.problem = problem
        self.file = file
        self.line = line
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else (f"{self.file}: " if self.file else "")
        return f"{where}{self.problem}" + (f" ({self.fix})" if self.fix else "")


class KeyLocked(ConfigError):
    """A private key is encrypted, and the configuration leaves its password to the user, who was not asked or erred."""

# SPDX-License-Identifier: BSD-2-Clause
"""What a row of the option table says about one directive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.rows.arguments import Arg, ArgumentError


@dataclass(frozen=True)
class Applied:
    """The directive does what OpenVPN's manual says."""


@dataclass(frozen=True)
class NoEffect:
    """The directive is accepted and changes nothing, because of `reason`; `warn` if the operator should know.

    Never the fate of a directive that would make the connection safer.
    """

    reason: str
    warn: bool = True


@dataclass(frozen=True)
class Refused:
    """The directive is an error: `reason` completes "'name' ...", `fix` says what to write instead."""

    reason: str
    fix: str


@dataclass(frozen=True)
class ByFirstWord:
    """The fate hangs on the first argument ("" when there is none)."""

    fates: Mapping[str, Applied | NoEffect | Refused]
    otherwise: Applied | NoEffect | Refused

    def pick(self, words: Sequence[str]) -> Applied | NoEffect | Refused:
        """The fate of a directive with these words."""
        return self.fates.get(words[0] if words else "", self.otherwise)


Outcome = Applied | NoEffect | Refused
Fate = Outcome | ByFirstWord

APPLIED = Applied()


class Repeat(Enum):
    """What a second line of the same directive means."""

    LAST = "the last one counts"
    ADD = "each one counts"


@dataclass(frozen=True)
class Row:
    """One directive.

    `client`, `server` and `pushed` are its fates in a client's file, a server's file and a PUSH_REPLY; None: it may
    not stand there. `point` is that in a file of a tunnel between two (static key mode, or TLS without ``pull``), where
    it is not the client's. `single` is that in a server's file for one client. `connection`: it may stand in a
    ``<connection>`` block, where it does what it does in a client's file, or nothing. `block`: it may be given as
    ``<name>``, in place of its first argument. `args` None: the words are not looked at (rows that are never
    applied).
    `more`: further words of that kind may follow. `fills` names the model's field that the only argument goes to.
    `secret`: its words are never shown.
    """

    name: str
    summary: str
    args: tuple[Arg, ...] | None = ()
    more: Arg | None = None
    client: Fate | None = None
    server: Fate | None = None
    pushed: Fate | None = None
    point: Fate | None = None
    single: Fate | None = None
    connection: bool | NoEffect = False
    block: bool = False
    repeat: Repeat = Repeat.LAST
    limit: int = 1024  # lines of a directive that adds up
    fills: tuple[type, str] | None = None
    secret: bool = False
    aliases: tuple[str, ...] = ()

    def read(self, words: Sequence[str]) -> tuple[Any, ...]:
        """Return one value per argument (None: left out), then those of `more`; raises `ArgumentError`."""
        args = self.args or ()
        wanted = sum(not arg.optional for arg in args)
        if len(words) < wanted:
            raise ArgumentError(f"'{self.name}' needs {args[len(words)].label}: write {self.usage()}")
        if len(words) > len(args) and self.more is None:
            raise ArgumentError(f"'{self.name}' has too many words: write {self.usage()}")
        values = [self._value(arg, word) for arg, word in zip(args, words, strict=False)]
        values += [None] * (len(args) - len(values))
        if self.more is not None:
            values += [self._value(self.more, word) for word in words[len(args) :]]
        return tuple(values)

    def _value(self, arg: Arg, word: str) -> Any:
        try:
            return arg.kind.parse(word)
        except ValueError:
            shown = "" if self.secret else f", not '{printable(word, 60)}'"
            raise ArgumentError(f"the {arg.label} of '{self.name}' must be {arg.kind.expected}{shown}") from None

    def usage(self) -> str:
        """The directive as the manual writes it: ``name WANTED [LEFT-OUT] [MORE ...]``."""
        words = [self.name]
        for arg in self.args or ():
            label = arg.label.upper().replace(" ", "-")
            words.append(f"[{label}]" if arg.optional else label)
        if self.more is not None:
            words.append(f"[{self.more.label.upper()} ...]")
        return " ".join(words)


def without_effect(name: str, reason: str, *, server: bool = True, client: bool = True, warn: bool = True) -> Row:
    """A row that is accepted wherever a file may hold it, and changes nothing."""
    fate = NoEffect(reason, warn)
    return Row(name, "", None, client=fate if client else None, server=fate if server else None)


def refused(name: str, reason: str, fix: str) -> Row:
    """A row that is an error in every file."""
    fate = Refused(reason, fix)
    return Row(name, "", None, client=fate, server=fate, connection=True, secret=True)

# SPDX-License-Identifier: BSD-2-Clause
"""Directives to settings: every line is looked up in the table of rows, its words are read, its fate is carried out.

Unknown, misplaced and refused directives are errors with file and line; several are found in one reading. Words that
could be secrets (a password on the wrong line, a line of a key without its block) never get into a message.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.config.reading import sources
from qubes_miragevpn.config.reading.lexer import Directive, lex
from qubes_miragevpn.config.reading.sources import NO_COMMAND_LINE, CommandLine, ReadFile, beside, nothing_to_read
from qubes_miragevpn.config.rows.arguments import PATH, ArgumentError
from qubes_miragevpn.config.rows.row import ByFirstWord, Fate, NoEffect, Refused, Repeat, Row
from qubes_miragevpn.config.rows.table import ROWS

MAX_ERRORS = 20  # after so many the reading ends
MAX_WARNINGS = 200
INLINE = "[inline]"

# The longest name openvpn has is of 31 characters; anything else may be a line of a key and is not repeated.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}\Z")


_AS_A_SERVER = frozenset({"bind", "dh", "tls-crypt-v2-max-age", "tls-crypt-v2-verify", "verify-client-cert"})
"""What the waiting end of a tunnel between two has of a server's; the rest is as at the other end."""


class Place(Enum):
    """What a directive stands in."""

    CLIENT = "a client's file"
    SERVER = "a server's file"
    CONNECTION = "a <connection> block"
    STATIC = "a file of the static key mode"
    CONNECTS = "a file of a TLS tunnel between two, at the end that connects"
    SINGLE = "a server's file for one client"
    WAITS = "a file of a TLS tunnel between two, at the end that waits"


@dataclass(frozen=True)
class Entry:
    """A directive that is applied: one value per argument of its row (None: left out), then those of `more`.

    `number` counts the directives of all files and of the command line in the order in which they count.
    """

    row: Row
    args: tuple[Any, ...]
    file: str
    line: int
    block: bytes | None = None
    nested: Settings | None = None
    inline_named: bool = False  # written as "NAME [inline]": the block stands elsewhere
    number: int = 0

    def error(self, problem: str, fix: str = "") -> ConfigError:
        """An error about this line."""
        return ConfigError(problem, file=self.file, line=self.line, fix=fix)

    def warning(self, text: str) -> str:
        """A warning about this line."""
        return f"{self.file}:{self.line}: {text}" if self.line else f"{self.file}: {text}"


@dataclass
class Settings:
    """All applied entries of one file or block, in the order of the file."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)

    def last(self, name: str) -> Entry | None:
        """The entry that counts for a directive that does not add up."""
        found = self.entries.get(name)
        return found[-1] if found else None

    def all(self, name: str) -> tuple[Entry, ...]:
        """Every entry of a directive that adds up."""
        return tuple(self.entries.get(name, ()))

    def has(self, name: str) -> bool:
        """Whether the directive was given."""
        return name in self.entries

    def value(self, name: str, default: Any = None) -> Any:
        """The first argument of the entry that counts, or `default`."""
        entry = self.last(name)
        return entry.args[0] if entry else default

    def fields(self, model: type) -> dict[str, Any]:
        """The fields of `model` that rows fill by themselves (`Row.fills`); a flag fills True."""
        filled: dict[str, Any] = {}
        for found in self.entries.values():
            row = found[-1].row
            if row.fills is not None and row.fills[0] is model:
                filled[row.fills[1]] = found[-1].args[0] if found[-1].args else True
        return filled


@dataclass
class Findings:
    """What is to be said about a file, each list bounded. `notes`: what has no effect and harms nothing by that."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if len(self.warnings) < MAX_WARNINGS and text not in self.warnings:
            self.warnings.append(text)

    @property
    def full(self) -> bool:
        """Whether reading on is of no use."""
        return len(self.errors) >= MAX_ERRORS


def collect(
    text: bytes,
    *,
    file: str,
    place: Place,
    read_file: ReadFile = nothing_to_read,
    command_line: CommandLine = NO_COMMAND_LINE,
) -> tuple[Settings, Findings]:
    """Read a whole file and what belongs to it. Errors are in the findings; what could be read is in the settings."""
    findings = Findings()
    try:
        directives = sources.directives(text, file=file, read_file=read_file, command_line=command_line)
    except ConfigError as error:
        findings.errors.append(error)
        return Settings(), findings
    optional = frozenset(
        word for directive in directives if directive.name == "ignore-unknown-option" for word in directive.words
    )
    settings = _gather(directives, place, optional, findings)
    _join_inline(settings, findings)
    return settings, findings


def _gather(directives: Iterable[Directive], place: Place, optional: frozenset[str], findings: Findings) -> Settings:
    settings = Settings()
    for number, directive in enumerate(directives):
        if findings.full:
            break
        try:
            entry = _read(directive, place, optional, findings)
            if entry is not None:
                _add(settings, replace(entry, number=number), findings)
        except ConfigError as error:
            findings.errors.append(error)
    return settings


def _read(directive: Directive, place: Place, optional: frozenset[str], findings: Findings) -> Entry | None:
    """Return the entry of a directive that is applied, None for one without effect."""
    name, words = directive.name, directive.words
    if name == "setenv" and words[:1] == ("opt",) and len(words) > 1:
        name, words, optional = words[1], words[2:], optional | {words[1]}
    row = ROWS.get(name)
    if row is None:
        if name in optional and _NAME.match(name):
            findings.warn(f"{directive.file}:{directive.line}: '{name}' is unknown; ignored, as the file allows")
            return None
        raise _unknown(directive, name)
    fate = _fate(row, place)
    if fate is None:
        raise _misplaced(directive, row, place)
    if directive.block is not None and not row.block and row.args is not None:
        raise _error(directive, f"'{row.name}' cannot be given as a block", f"write {row.usage()}")
    outcome = fate.pick(words) if isinstance(fate, ByFirstWord) else fate
    if isinstance(outcome, Refused):
        raise _error(directive, f"'{name}' {outcome.reason}", outcome.fix)
    entry = _entry(row, directive, words, optional, findings)
    if isinstance(outcome, NoEffect):
        said = entry.warning(f"'{name}' has no effect: {outcome.reason}")
        if outcome.warn:
            findings.warn(said)
        elif len(findings.notes) < MAX_WARNINGS:
            findings.notes.append(said)
        return None
    return entry


def _fate(row: Row, place: Place) -> Fate | None:
    if place is Place.SERVER:
        return row.server
    if place is Place.SINGLE:
        return row.single
    if place is Place.WAITS:
        return row.server if row.name in _AS_A_SERVER else row.point or row.client
    if place in (Place.STATIC, Place.CONNECTS):
        return row.point or row.client
    if place is Place.CONNECTION and isinstance(row.connection, NoEffect):
        return row.connection
    if place is Place.CLIENT or row.connection or isinstance(row.client, NoEffect):
        return row.client
    return None


def _entry(
    row: Row, directive: Directive, words: tuple[str, ...], optional: frozenset[str], findings: Findings
) -> Entry:
    file, line, block = directive.file, directive.line, directive.block
    if row.args is None:
        return Entry(row, (), file, line, block)
    if row.name == "connection":
        if block is None:
            raise _error(directive, "'connection' is a block", "write <connection>, its lines, </connection>")
        inner = lex(block, file=file, first_line=line + 1)
        return Entry(row, (), file, line, block, _gather(inner, Place.CONNECTION, optional, findings))
    if block is not None:
        return Entry(row, (None,) * len(row.args), file, line, block)
    try:
        args = row.read(words)
    except ArgumentError as error:
        raise _error(directive, str(error)) from None
    if directive.folder:
        args = _from_folder(row, args, directive.folder)
    return Entry(row, args, file, line, inline_named=row.block and words[:1] == (INLINE,))


def _from_folder(row: Row, args: tuple[Any, ...], folder: str) -> tuple[Any, ...]:
    """The arguments with their paths as they count from the profile's own directory."""
    kinds = [arg.kind for arg in row.args or ()]
    kinds += [row.more.kind] * (len(args) - len(kinds)) if row.more else []
    return tuple(
        beside(folder, arg) if kind is PATH and arg is not None and arg not in (INLINE, "stdin") else arg
        for kind, arg in zip(kinds, args, strict=True)
    )


def _add(settings: Settings, entry: Entry, findings: Findings) -> None:
    row = entry.row
    before = settings.entries.setdefault(row.name, [])
    if row.repeat is Repeat.ADD:
        if len(before) >= row.limit:
            raise entry.error(f"there are more than {row.limit} lines of '{row.name}'")
        before.append(entry)
        return
    # Of a directive that does not add up two entries are kept at most: a block, and the line that announces it.
    alike = [other for other in before if other.inline_named == entry.inline_named]
    differs = bool(alike) and (entry.args, entry.block) != (alike[-1].args, alike[-1].block)
    if differs and entry.line:  # on the command line it is meant so
        findings.warn(entry.warning(f"'{row.name}' was given in line {alike[-1].line} as well; the last one counts"))
    before[:] = [other for other in before if other.inline_named != entry.inline_named] + [entry]


def _join_inline(settings: Settings, findings: Findings) -> None:
    """Join ``NAME [inline] ...`` with the block <NAME>: the line's further words are the block's."""
    for name, found in settings.entries.items():
        named = [entry for entry in found if entry.inline_named]
        if not named:
            continue
        rest = [entry for entry in found if not entry.inline_named]
        if not rest:
            fix = f"write <{name}>, its content, </{name}>"
            findings.errors.append(named[-1].error(f"'{name} {INLINE}' has no block <{name}>", fix))
            continue
        words = tuple(
            ours if ours is not None else theirs
            for ours, theirs in zip(rest[-1].args[1:], named[-1].args[1:], strict=True)
        )
        rest[-1] = replace(rest[-1], args=(rest[-1].args[0], *words))
        settings.entries[name] = rest


def _error(directive: Directive, problem: str, fix: str = "") -> ConfigError:
    return ConfigError(problem, file=directive.file, line=directive.line, fix=fix)


def _unknown(directive: Directive, name: str) -> ConfigError:
    if name.startswith("</"):
        return _error(directive, "a closing tag has no opening one")
    if not _NAME.match(name):
        return _error(directive, "this is no directive", "is it a line of a block whose <tag> is missing?")
    close = difflib.get_close_matches(name, ROWS, n=1, cutoff=0.8)
    fix = f"did you mean '{close[0]}'?" if close else "remove the line if the connection does not need it"
    return _error(directive, f"unknown directive '{name}'", fix)


def _misplaced(directive: Directive, row: Row, place: Place) -> ConfigError:
    if place is Place.CONNECTION and row.client is not None:
        return _error(
            directive,
            f"'{row.name}' is not supported in {place.value}",
            "write it outside of the block, where it counts for every remote",
        )
    if row.client is None and row.server is None:
        return _error(directive, f"'{row.name}' is for a server's push only", "remove the line")
    home = Place.SERVER if row.client is None else Place.CLIENT
    return _error(directive, f"'{row.name}' has no meaning in {place.value}, only in {home.value}", "remove the line")

# SPDX-License-Identifier: BSD-2-Clause
"""Where directives come from: a file, the files it includes with ``config``, and the command line after it.

As in openvpn, all of them are one sequence, in which a later line outranks an earlier one: ``config`` stands for the
lines of the file it names, and the words of the command line are read as if they stood below the file. A relative path
counts from the file that names it; on the command line from the caller's directory. Includes are bounded in depth
and number, and a file that includes itself is refused.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, replace

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.base.text import printable
from qubes_miragevpn.config.reading.lexer import MAX_LINE, MAX_TEXT, Directive, lex

MAX_DEPTH = 10  # files within files; openvpn's own limit
MAX_INCLUDES = 64  # files in all: each is read whole, and may be named more than once
MAX_ARGUMENTS = 4096  # words of a command line
COMMAND_LINE = "command line"

ReadFile = Callable[[str], bytes]


def nothing_to_read(path: str) -> bytes:
    """The `ReadFile` of a text that may name no file."""
    raise FileNotFoundError(2, "No such file or directory", path)


@dataclass(frozen=True)
class CommandLine:
    """Options after the file's name: their words, and the directory that their paths count from."""

    words: tuple[str, ...] = ()
    directory: str = ""


NO_COMMAND_LINE = CommandLine()


def directives(
    text: bytes, *, file: str, read_file: ReadFile = nothing_to_read, command_line: CommandLine = NO_COMMAND_LINE
) -> list[Directive]:
    """All directives in the order in which they count; raises `ConfigError`."""
    reader = _Reader(read_file)
    reader.take(lex(text, file=file), (file,))
    reader.take(_arguments(command_line), (COMMAND_LINE,))
    return reader.found


class _Reader:
    """Gathers directives and follows ``config`` lines."""

    def __init__(self, read_file: ReadFile) -> None:
        self.found: list[Directive] = []
        self._read_file = read_file
        self._includes = 0
        self._bytes = 0

    def take(self, directives: list[Directive], within: tuple[str, ...]) -> None:
        """Take what one source holds; `within` are the files that lead to it."""
        for directive in directives:
            if directive.name == "config" and directive.block is None and len(directive.words) == 1:
                self._include(directive, within)
            else:
                self.found.append(directive)

    def _include(self, directive: Directive, within: tuple[str, ...]) -> None:
        path = beside(directive.folder, directive.words[0])
        shown = printable(path)
        name = posixpath.normpath(path)
        if name in within:
            raise _error(directive, f"'{shown}' includes itself", "remove the line")
        self._includes += 1
        if len(within) > MAX_DEPTH or self._includes > MAX_INCLUDES:
            raise _error(directive, f"more than {MAX_INCLUDES} files are included, or deeper than {MAX_DEPTH}", "")
        try:
            text = self._read_file(path)
        except OSError as error:
            why = printable(error.strerror or type(error).__name__, 80)
            raise _error(directive, f"cannot read '{shown}' of 'config': {why}", "") from None
        self._bytes += len(text)
        if self._bytes > MAX_TEXT:
            raise _error(directive, f"the included files have more than {MAX_TEXT} bytes", "")
        folder = posixpath.dirname(path)
        # only the name as it was written gets into messages, never a whole path of the machine
        self.take([replace(one, folder=folder) for one in lex(text, file=shown)], (*within, name))


def _arguments(command_line: CommandLine) -> list[Directive]:
    """``--name word word --name ...``, as openvpn reads its command line."""
    words = command_line.words
    if len(words) > MAX_ARGUMENTS or any(len(word) > MAX_LINE for word in words):
        raise ConfigError("is too long", file=COMMAND_LINE)
    found: list[Directive] = []
    at = 0
    while at < len(words):
        if not words[at].startswith("--") or words[at] == "--":
            fix = "options are written as --NAME ARGUMENTS"
            raise ConfigError(f"'{printable(words[at], 60)}' is not an option", file=COMMAND_LINE, fix=fix)
        end = at + 1
        while end < len(words) and not words[end].startswith("--"):
            end += 1
        for word in words[at:end]:
            _demand_text(word)
        found.append(
            Directive(words[at][2:], tuple(words[at + 1 : end]), COMMAND_LINE, 0, folder=command_line.directory)
        )
        at = end
    return found


def _demand_text(word: str) -> None:
    if any(ord(character) < 0x20 or ord(character) == 0x7F or "\ud800" <= character <= "\udfff" for character in word):
        raise ConfigError("holds a control character, or is not UTF-8", file=COMMAND_LINE)


def beside(folder: str, path: str) -> str:
    """`path` as it counts from `folder` ("" the profile's own)."""
    if not folder or path.startswith(("/", "~")):
        return path
    return posixpath.join(folder, path)


def _error(directive: Directive, problem: str, fix: str) -> ConfigError:
    return ConfigError(problem, file=directive.file, line=directive.line, fix=fix)

# SPDX-License-Identifier: BSD-2-Clause
"""Configuration text to directives: words, comments, quotes, inline blocks; nothing about their meaning.

The rules are OpenVPN 2.6's (observed, and its man page): a word ends at white space; a word that begins with ``"``
or ``'`` ends at the same sign; outside single quotes a backslash may stand before a backslash, ``"`` or a
space; ``#`` or ``;`` where a word would begin starts a comment; ``--`` before the name is dropped; ``<name>`` on a
line of its own starts a block that ends with ``</name>``. Everything is bounded; any input ends in directives or in one
`ConfigError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qubes_miragevpn.base.errors import ConfigError, MirageError

MAX_TEXT = 1 << 20  # bytes of a whole file, its inline blocks included
MAX_LINES = 1 << 15  # a megabyte of base64 in lines of 64 has 16 Ki lines
MAX_LINE = 4096  # characters of a line outside of blocks (OpenVPN: 256)
MAX_BLOCK = 1 << 18  # bytes of an inline block; the CA bundle of a whole distribution has about 220 KiB
MAX_WORDS = 64  # words of a line (OpenVPN: 16)

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\r\v\f]*")
_WORD = re.compile(r"(?:[^\\ \t\r\v\f]|\\.)+")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"')
_SINGLE = re.compile(r"'([^']*)'")
_ESCAPE = re.compile(r"\\(.)")
_PLAIN = re.compile(r"""[^"'\\#;]*\Z""")
_TAG = re.compile(r"<([A-Za-z0-9_-]{1,64})>\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class WordError(MirageError):
    """A line cannot be split into words; whoever asked knows whose line it is."""


@dataclass(frozen=True)
class Directive:
    """One directive as written: its name, the words after it, or the content of its block.

    `line` counts from 1 (0: on the command line). `folder` is where its relative paths count from, beginning at the
    profile's own directory ("").
    """

    name: str
    words: tuple[str, ...]
    file: str
    line: int
    block: bytes | None = None
    folder: str = ""


def split_words(line: str) -> tuple[str, ...]:
    """Split one line into words by OpenVPN's rules; raises `WordError`."""
    if len(line) > MAX_LINE:
        raise WordError(f"the line has more than {MAX_LINE} characters")
    words = _split_plain(line) if _PLAIN.match(line) else _split_quoted(line)
    if len(words) > MAX_WORDS:
        raise WordError(f"the line has more than {MAX_WORDS} words")
    for word in words:
        if _CONTROL.search(word):
            raise WordError("the line holds a control character")
        if not word.isascii() and any("\ud800" <= c <= "\udfff" for c in word):
            raise WordError("the line is not UTF-8")
    return tuple(words)


def _split_plain(line: str) -> list[str]:
    return re.findall(r"[^ \t\r\v\f]+", line)


def _split_quoted(line: str) -> list[str]:
    words: list[str] = []
    at = 0
    while True:
        at = _end_of(_SPACE, line, at)
        if at == len(line) or line[at] in "#;":
            return words
        if line[at] == "'":
            found = _SINGLE.match(line, at)
            text = found[1] if found else ""
        elif line[at] == '"':
            found = _DOUBLE.match(line, at)
            text = _unescape(found[1]) if found else ""
        else:
            found = _WORD.match(line, at)
            text = _unescape(found[0]) if found else ""
        if found is None:
            raise WordError("a quotation is not closed" if line[at] in "'\"" else "the line ends in a backslash")
        words.append(text)
        at = found.end()


def _end_of(pattern: re.Pattern[str], line: str, at: int) -> int:
    found = pattern.match(line, at)
    return found.end() if found else at


def _unescape(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1] not in '\\" \t':
            raise WordError("a backslash stands before something that needs none")
        return found[1]

    return _ESCAPE.sub(one, text)


def lex(text: bytes, *, file: str, first_line: int = 1) -> list[Directive]:
    """Return the directives of `text` in order; `first_line` is the number of its first line. Raises `ConfigError`."""
    if len(text) > MAX_TEXT:
        raise ConfigError(f"the file has more than {MAX_TEXT} bytes", file=file)
    if text.count(b"\n") >= MAX_LINES:
        raise ConfigError(f"the file has more than {MAX_LINES} lines", file=file)
    lines = text.removeprefix(_BOM).decode("utf-8", "surrogateescape").split("\n")
    directives: list[Directive] = []
    at = 0
    while at < len(lines):
        number = first_line + at
        try:
            words = split_words(lines[at])
        except WordError as error:
            raise ConfigError(str(error), file=file, line=number, fix=_advice(str(error))) from None
        at += 1
        if not words:
            continue
        tag = _TAG.match(words[0]) if len(words) == 1 else None
        if tag is None:
            directives.append(Directive(words[0].removeprefix("--"), words[1:], file, number))
            continue
        block, at = _read_block(lines, at, tag[1], file, number)
        directives.append(Directive(tag[1], (), file, number, block))
    return directives


def _read_block(lines: list[str], at: int, name: str, file: str, number: int) -> tuple[bytes, int]:
    """Return the block's content and the index after its closing tag."""
    closing = f"</{name}>"
    content: list[str] = []
    size = 0
    while at < len(lines):
        line = lines[at].rstrip("\r")
        at += 1
        if line.lstrip(" \t").startswith(closing):
            return "".join(content).encode("utf-8", "surrogateescape"), at
        content.append(line + "\n")
        size += len(line) + 1
        if size > MAX_BLOCK:
            raise ConfigError(f"the block <{name}> has more than {MAX_BLOCK} bytes", file=file, line=number)
    raise ConfigError(
        f"the block <{name}> is not closed", file=file, line=number, fix=f"write {closing} on a line after its content"
    )


def _advice(problem: str) -> str:
    if "backslash" in problem:
        return "write a backslash as two, also in a Windows path"
    if "quotation" in problem:
        return "close it on the same line, or write the sign in the other kind of quotes"
    if "UTF-8" in problem:
        return "save the file as UTF-8"
    if "control" in problem:
        return "is this a configuration file? save it as plain UTF-8 text"
    return ""

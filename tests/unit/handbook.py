# SPDX-License-Identifier: BSD-2-Clause
"""The handbook (doc/handbook) as tests read it: pages, fenced blocks, and the commands in them as a shell splits them.

A block begins with ```console PLACE and perhaps a NAME by which a test finds it; each of its lines is a command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "doc" / "handbook"
PLACES = ("dom0", "build", "template", "sys-vpn", "qube", "server", "linux")
OPERATORS = ("|", "||", "&&", ";", "&", ">", ">>", "<")


@dataclass(frozen=True)
class Block:
    """A fenced block: `kind` is the fence's first word, `words` the ones after it."""

    page: str
    kind: str
    words: tuple[str, ...]
    text: str

    @property
    def place(self) -> str:
        """Where a console block is typed."""
        return self.words[0] if self.words else ""

    @property
    def lines(self) -> list[str]:
        """Its lines that say something."""
        return [line.strip() for line in self.text.splitlines() if line.strip()]


def pages() -> dict[str, str]:
    """The text of every page by its file's name."""
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    found = re.findall(r"^( *)```(\S*)([^\n]*)\n(.*?)^\1```$", pages()[page], flags=re.MULTILINE | re.DOTALL)
    return [Block(page, kind, tuple(words.split()), text) for _, kind, words, text in found]


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", pages()[page], flags=re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`\n]+)`", text)


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, redirections and `sudo` left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    command: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if redirected:
            redirected = False
        elif word in (">", ">>", "<"):
            redirected = True
        elif word in OPERATORS:
            if command:
                yield command[1:] if command[0] == "sudo" else command
            command = []
        else:
            command.append(word)

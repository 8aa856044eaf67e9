# SPDX-License-Identifier: BSD-2-Clause
"""Words to lines that the lexer reads back as the same words: quotes where they are needed, and nowhere else."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+=,?!*%^~$&()-]+\Z")


def quote(word: str) -> str:
    """One word as the lexer reads it back."""
    if _PLAIN.match(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def line_of(*words: object) -> str:
    """A directive and its words; those that are None are not there."""
    return " ".join(quote(_text(word)) for word in words if word is not None)


def _text(value: object) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value)

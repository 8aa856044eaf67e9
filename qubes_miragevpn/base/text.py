# SPDX-License-Identifier: BSD-2-Clause
"""Text from outside made safe to show: one line, printable, bounded."""

from __future__ import annotations


def printable(untrusted: str | bytes, limit: int = 200) -> str:
    """Return `untrusted` as one line of printable ASCII of at most `limit` characters.

    Anything else (control characters, escape sequences, non-ASCII) becomes ``\\xNN``, so that a peer
    can neither forge log lines nor drive a terminal (class of CVE-2024-5594).
    """
    raw = untrusted.encode("utf-8", "surrogateescape") if isinstance(untrusted, str) else untrusted
    shown = "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in raw[:limit])
    return shown[:limit] + ("..." if len(raw) > limit or len(shown) > limit else "")

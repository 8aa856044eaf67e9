# SPDX-License-Identifier: BSD-2-Clause
"""A value that does not show itself in logs, tracebacks or comparisons by accident."""

from __future__ import annotations

import hmac


class Secret:
    """Bytes that print as ``<secret>``; `reveal()` is the one way to read them."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes; the caller must not keep or log them."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(("Secret", len(self._value)))

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")

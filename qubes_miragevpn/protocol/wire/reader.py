# SPDX-License-Identifier: BSD-2-Clause
"""One place where bytes from the network are taken apart: short or odd input is one typed error."""

from __future__ import annotations

from qubes_miragevpn.base.errors import PeerError


class Reader:
    """Reads big-endian values from `data`; every method raises `PeerError` when too little is left."""

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._position = 0
        self._what = what

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > self.left:
            raise PeerError(f"{self._what}: {size} bytes expected, {self.left} left")
        chunk = self._data[self._position : self._position + size]
        self._position += size
        return chunk

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.left)

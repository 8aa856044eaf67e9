# SPDX-License-Identifier: BSD-2-Clause
"""The 2048-bit static key and its halves.

Layout (OpenVPN "struct key2"): ``key[0].cipher 64 | key[0].hmac 64 | key[1].cipher 64 | key[1].hmac 64``.
The same layout holds the 256 bytes of data-channel key material.
"""

from __future__ import annotations

from dataclasses import dataclass

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret

KEY2_SIZE = 256


@dataclass(frozen=True)
class KeyHalf:
    """One ``struct key``: 64 bytes for the cipher, 64 for the HMAC, of which a user takes what it needs."""

    cipher: Secret
    hmac: Secret


def split_key2(key2: bytes) -> tuple[KeyHalf, KeyHalf]:
    """Return (key[0], key[1]) of 256 bytes."""
    if len(key2) != KEY2_SIZE:
        raise MisuseError(f"a key2 has {KEY2_SIZE} bytes, not {len(key2)}")
    quarters = [Secret(key2[i : i + 64]) for i in range(0, KEY2_SIZE, 64)]
    return KeyHalf(quarters[0], quarters[1]), KeyHalf(quarters[2], quarters[3])

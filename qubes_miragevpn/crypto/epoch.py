# SPDX-License-Identifier: BSD-2-Clause
"""Keys of the epoch data format: a chain of secrets, each of which gives one data key (OpenVPN's crypto_epoch.c).

    E(1)   = the first 32 bytes of the direction's key material
    K(i)   = Expand-Label(E(i), "data_key", key size)
    IV(i)  = Expand-Label(E(i), "data_iv", 12)
    E(i+1) = Expand-Label(E(i), "datakey upd", 32)

Expand-Label is TLS 1.3's HKDF-Expand-Label (RFC 8446, section 7.1) with "ovpn " for a prefix. Whoever has E(i) learns
nothing of an earlier secret, so that a secret which is not needed any more is simply forgotten.
"""

from __future__ import annotations

import hmac

from qubes_miragevpn.base.errors import MisuseError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.aead import NONCE_SIZE, Aead
from qubes_miragevpn.crypto.suites import Suite

SECRET_SIZE = 32
LAST_EPOCH = 0xFFFF
_HASH_SIZE = 32


def hkdf_expand(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3)."""
    out = block = b""
    for number in range(1, -(-size // _HASH_SIZE) + 1):
        block = hmac.digest(secret, block + info + bytes((number,)), "sha256")
        out += block
    return out[:size]


def expand_label(secret: bytes, label: bytes, size: int, context: bytes = b"") -> bytes:
    """OpenVPN's Expand-Label; `secret` has 32 bytes."""
    name = b"ovpn " + label
    info = size.to_bytes(2, "big") + bytes((len(name),)) + name + bytes((len(context),)) + context
    return hkdf_expand(secret, info, size)


class EpochChain:
    """One direction's chain of secrets, at `epoch`."""

    __slots__ = ("_secret", "_suite", "epoch")

    def __init__(self, suite: Suite, first: Secret) -> None:
        if len(first) != SECRET_SIZE:
            raise MisuseError(f"the first secret of an epoch chain has {SECRET_SIZE} bytes, not {len(first)}")
        self._suite = suite
        self._secret = first.reveal()
        self.epoch = 1

    def advance(self) -> None:
        """Go on to the next epoch; the secret of this one is forgotten."""
        if self.epoch >= LAST_EPOCH:
            raise MisuseError("there is no epoch after the last one")
        self._secret = expand_label(self._secret, b"datakey upd", SECRET_SIZE)
        self.epoch += 1

    def key(self) -> tuple[Aead, int]:
        """The AEAD of this epoch, and its implicit IV as a number."""
        key = Secret(expand_label(self._secret, b"data_key", self._suite.key_size))
        return Aead(self._suite, key), int.from_bytes(expand_label(self._secret, b"data_iv", NONCE_SIZE), "big")

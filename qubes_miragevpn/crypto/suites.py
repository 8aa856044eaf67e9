# SPDX-License-Identifier: BSD-2-Clause
"""The data-channel cipher suites and the names they go by.

Only AEAD suites: every packet is authenticated together with its header, and there is no separate HMAC key.
Names are those of ``data-ciphers`` and of the pushed ``cipher`` (OpenVPN prints the upper-case forms below;
OpenSSL's own names for the GCM suites, ``id-aes256-GCM``, occur in old profiles). CBC, CFB, OFB, BF-CBC and
``none`` are not here: a name that is not in `SUITES` is refused by whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# AES-GCM loses its confidentiality margin with the number of blocks under one key. With s = blocks of plaintext,
# q = packets and a distinguishing advantage p of at most 2^-57 (draft-irtf-cfrg-aead-limits, section 5.1.1):
#     q + s <= p^(1/2) * 2^(129/2) - 1 = 2^(-28.5 + 64.5) - 1 = 2^36 - 1
# Blocks are of 16 bytes, so that is 1 TiB of long packets. ChaCha20-Poly1305 is bound by the packet id first.
GCM_USAGE_LIMIT = (1 << 36) - 1


@dataclass(frozen=True)
class Suite:
    """One AEAD suite; sizes in bytes.

    `implicit_iv_size` bytes of the key material follow the 4-byte packet id in the 12-byte nonce.
    `usage_limit` is the most blocks plus packets that one key may protect in one direction; 0: no limit.
    """

    name: str
    key_size: int
    tag_size: int = 16
    implicit_iv_size: int = 8
    usage_limit: int = 0


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Suite("AES-128-GCM", key_size=16, usage_limit=GCM_USAGE_LIMIT),
            Suite("AES-256-GCM", key_size=32, usage_limit=GCM_USAGE_LIMIT),
            Suite("CHACHA20-POLY1305", key_size=32),
        )
    }
)
"""Every suite there is, by canonical name."""

_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "ID-AES128-GCM": "AES-128-GCM",
        "ID-AES256-GCM": "AES-256-GCM",
    }
)


def canonical_cipher(name: str) -> str | None:
    """Return the key of `SUITES` that `name` means (any case, OpenSSL's aliases), or None if there is none."""
    upper = name.upper()
    upper = _ALIASES.get(upper, upper)
    return upper if upper in SUITES else None

# SPDX-License-Identifier: BSD-2-Clause
"""The data-channel cipher suites and the names they go by.

Names are those of ``data-ciphers`` and of the pushed ``cipher`` (OpenVPN prints the forms below; OpenSSL's own names
for the GCM suites, ``id-aes256-GCM``, occur in old profiles). AEAD suites authenticate every packet together with its
header. The others need an HMAC beside them (``auth``), and are there for servers that know nothing better.

A suite with a text in `insecure` is taken only where the operator names it in ``allow-insecure-crypto``. A name that
is not in `SUITES` (CFB and OFB modes, Camellia, ARIA, SEED ...) is refused by whoever asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

# AES-GCM loses its confidentiality margin with the number of blocks under one key. With s = blocks of plaintext,
# q = packets and a distinguishing advantage p of at most 2^-57 (draft-irtf-cfrg-aead-limits, section 5.1.1):
#     q + s <= p^(1/2) * 2^(129/2) - 1 = 2^(-28.5 + 64.5) - 1 = 2^36 - 1
# Blocks are of 16 bytes, so that is 1 TiB of long packets. ChaCha20-Poly1305 is bound by the packet id first.
GCM_USAGE_LIMIT = (1 << 36) - 1

# Blocks of 64 bits repeat by chance after 2^32 of them, 32 GiB, and each repetition tells something about the
# plaintext (CVE-2016-6329). OpenVPN renews such keys after 64 MB.
SMALL_BLOCK_BYTES = 64 << 20


class Mode(Enum):
    """How a suite makes a packet."""

    AEAD = "authenticated encryption"
    CBC = "CBC with an HMAC"
    CLEAR = "an HMAC and no encryption"


@dataclass(frozen=True)
class Suite:
    """One suite; sizes in bytes.

    `implicit_iv_size` bytes of the key material follow the 4-byte packet id in the 12-byte nonce (AEAD).
    `block_size` is that of CBC. `usage_limit` is the most blocks plus packets that one key may protect in one
    direction, `renew_bytes` the volume after which a key is to be replaced; 0: no limit.
    """

    name: str
    key_size: int
    tag_size: int = 16
    implicit_iv_size: int = 8
    usage_limit: int = 0
    mode: Mode = Mode.AEAD
    block_size: int = 0
    renew_bytes: int = 0
    insecure: str = ""


def _cbc(name: str, key_size: int, block_size: int = 16, renew_bytes: int = 0, insecure: str = "") -> Suite:
    return Suite(
        name, key_size, 0, 0, mode=Mode.CBC, block_size=block_size, renew_bytes=renew_bytes, insecure=insecure
    )


_SMALL_BLOCKS = "its blocks of 64 bits give away parts of what is sent after some gigabytes (SWEET32)"

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        suite.name: suite
        for suite in (
            Suite("AES-128-GCM", key_size=16, usage_limit=GCM_USAGE_LIMIT),
            Suite("AES-192-GCM", key_size=24, usage_limit=GCM_USAGE_LIMIT),
            Suite("AES-256-GCM", key_size=32, usage_limit=GCM_USAGE_LIMIT),
            Suite("CHACHA20-POLY1305", key_size=32),
            _cbc("AES-128-CBC", 16),
            _cbc("AES-192-CBC", 24),
            _cbc("AES-256-CBC", 32),
            _cbc("BF-CBC", 16, 8, SMALL_BLOCK_BYTES, _SMALL_BLOCKS),
            _cbc("DES-EDE3-CBC", 24, 8, SMALL_BLOCK_BYTES, _SMALL_BLOCKS),
            Suite("none", 0, 0, 0, mode=Mode.CLEAR, insecure="nothing is encrypted: everybody on the way reads it all"),
        )
    }
)
"""Every suite there is, by canonical name."""

_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "ID-AES128-GCM": "AES-128-GCM",
        "ID-AES192-GCM": "AES-192-GCM",
        "ID-AES256-GCM": "AES-256-GCM",
        "BLOWFISH-CBC": "BF-CBC",
        "DES3": "DES-EDE3-CBC",
        "NONE": "none",
        "[NULL-CIPHER]": "none",  # how an options string calls it
    }
)


def canonical_cipher(name: str) -> str | None:
    """Return the key of `SUITES` that `name` means (any case, OpenSSL's aliases), or None if there is none."""
    upper = name.upper()
    upper = _ALIASES.get(upper, upper)
    return upper if upper in SUITES else None

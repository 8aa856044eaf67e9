# SPDX-License-Identifier: BSD-2-Clause
"""Profiles that take for ever to read: refused in time, and before the service reads them."""

from __future__ import annotations

import base64
import os
import time

import pytest

from qubes_miragevpn.base.errors import ConfigError
from qubes_miragevpn.qube.profiles import trial
from tests.unit.config.trust import Made
from tests.unit.qube.profiles.test_bundle import packed
from tests.unit.qube.profiles.test_store import WHOLE

PBES2, PBKDF2, HMAC_SHA256, AES256_CBC = (
    bytes.fromhex(oid)
    for oid in ("06092a864886f70d01050d", "06092a864886f70d01050c", "06082a864886f70d0209", "060960864801650304012a")
)


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content).to_bytes(2, "big").lstrip(b"\0") or b"\0"
    return bytes([tag]) + (length if len(content) < 128 else bytes([0x80 | len(length)]) + length) + content


def locked_key(rounds: int) -> str:
    """EncryptedPrivateKeyInfo (RFC 5958) with PBES2 (RFC 8018) and so many rounds."""
    number = der(2, rounds.to_bytes(5, "big").lstrip(b"\0"))
    derivation = der(0x30, PBKDF2, der(0x30, der(4, os.urandom(8)), number, der(0x30, HMAC_SHA256, b"\x05\0")))
    cipher = der(0x30, AES256_CBC, der(4, os.urandom(16)))
    key = der(0x30, der(0x30, PBES2, der(0x30, derivation, cipher)), der(4, os.urandom(160)))
    body = base64.encodebytes(key).decode()
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{body}-----END ENCRYPTED PRIVATE KEY-----\n"


def profile(rounds: int) -> bytes:
    text = WHOLE + b"cert me.crt\nkey me.key\n"
    own = Made("own").pem.encode()
    return packed({"a.ovpn": text, "me.crt": own, "me.key": locked_key(rounds).encode()})


def test_what_takes_for_ever_to_unlock() -> None:
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="takes more than it may"):
        trial.bear(profile((1 << 31) - 1))
    assert time.monotonic() - begin < trial.LAST, "by its processor time"


def test_what_can_be_read_or_is_refused_in_time() -> None:
    """Whatever is wrong with it: the service says that."""
    for handed in (WHOLE, profile(600_000), b"\0garbage"):
        trial.bear(handed)

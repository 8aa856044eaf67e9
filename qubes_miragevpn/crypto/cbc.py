# SPDX-License-Identifier: BSD-2-Clause
"""A block cipher in CBC mode with PKCS #7 padding (RFC 5652, section 6.3), and HMAC keys to go with it.

CBC alone protects nothing against change: whoever uses it verifies an HMAC over IV and ciphertext first
(`dataplane.formats.cbc`), and only then decrypts. What is wrong with a padding is therefore never seen by somebody
without the key; all the same it gives the very error that a wrong HMAC gives.
"""

from __future__ import annotations

import hmac
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.digests import digest_size, hashlib_name
from qubes_miragevpn.crypto.suites import Mode, Suite

NOT_AUTHENTIC = "packet fails authentication"


def _algorithm(suite: Suite, key: bytes) -> Any:
    """The library's cipher object for `suite`."""
    if suite.name.startswith("AES-"):
        return algorithms.AES(key)
    name = {"BF-CBC": "Blowfish", "DES-EDE3-CBC": "TripleDES"}[suite.name]
    try:
        from cryptography.hazmat.decrepit.ciphers import algorithms as decrepit
    except ImportError:  # before cryptography 43 they stood among the others
        return getattr(algorithms, name)(key)
    return getattr(decrepit, name)(key)


class Cbc:
    """`suite` keyed with `key`."""

    __slots__ = ("_algorithm", "_size", "suite")

    def __init__(self, suite: Suite, key: Secret) -> None:
        if suite.mode is not Mode.CBC or len(key) != suite.key_size:
            raise MisuseError(f"{suite.name} is not CBC, or takes a key of {suite.key_size} bytes, not {len(key)}")
        self.suite = suite
        self._size = suite.block_size
        self._algorithm = _algorithm(suite, key.reveal())

    def encrypt(self, iv: bytes, plaintext: bytes) -> bytes:
        """Return `plaintext`, padded, as ciphertext; `iv` is one block that nobody can foretell."""
        pad = self._size - len(plaintext) % self._size
        worker = Cipher(self._algorithm, modes.CBC(iv)).encryptor()
        ciphertext: bytes = worker.update(plaintext + bytes((pad,)) * pad) + worker.finalize()
        return ciphertext

    def decrypt(self, iv: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext of an authentic `ciphertext`; raises `PeerError` if it is not padded as it must be."""
        if not ciphertext or len(ciphertext) % self._size:
            raise PeerError(NOT_AUTHENTIC)
        worker = Cipher(self._algorithm, modes.CBC(iv)).decryptor()
        padded: bytes = worker.update(ciphertext) + worker.finalize()
        pad = padded[-1]
        if not 1 <= pad <= self._size or padded[-pad:] != bytes((pad,)) * pad:
            raise PeerError(NOT_AUTHENTIC)
        return padded[:-pad]


class Hmac:
    """An HMAC key with the digest of canonical name `digest`; `key` is as long as the digest, as in OpenVPN."""

    __slots__ = ("_key", "_name", "size")

    def __init__(self, digest: str, key: Secret) -> None:
        self.size = digest_size(digest)
        if len(key) != self.size:
            raise MisuseError(f"an HMAC key for {digest} has {self.size} bytes, not {len(key)}")
        self._key = key.reveal()
        self._name = hashlib_name(digest)

    def sign(self, message: bytes) -> bytes:
        """The tag of `message`."""
        return hmac.digest(self._key, message, self._name)

    def verify(self, tag: bytes, message: bytes) -> None:
        """Raise `PeerError` unless `tag` is that of `message`; the comparison takes the same time either way."""
        if not hmac.compare_digest(tag, hmac.digest(self._key, message, self._name)):
            raise PeerError(NOT_AUTHENTIC)

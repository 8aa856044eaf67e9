# SPDX-License-Identifier: BSD-2-Clause
"""One AEAD key, ready to seal and open.

A thin layer over `cryptography`: it builds the cipher object of a suite once, and turns the library's
"invalid tag" into the one typed error for anything a peer gets wrong. It refuses keys of the wrong size. It does not
make nonces: that no nonce is used twice under a key is its caller's duty (`dataplane.reference`, packet ids).
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from qubes_miragevpn.base.errors import MisuseError, PeerError
from qubes_miragevpn.base.secret import Secret
from qubes_miragevpn.crypto.suites import Mode, Suite

NONCE_SIZE = 12


class Aead:
    """`suite` keyed with `key`.

    `seal(nonce, plaintext, ad)` returns ciphertext || tag. It is the library's own bound method: one call
    less for every packet that is sent.
    """

    __slots__ = ("_decrypt", "seal", "suite")

    def __init__(self, suite: Suite, key: Secret) -> None:
        if suite.mode is not Mode.AEAD or len(key) != suite.key_size:
            raise MisuseError(f"{suite.name} is not AEAD, or takes a key of {suite.key_size} bytes, not {len(key)}")
        cipher = ChaCha20Poly1305(key.reveal()) if suite.name == "CHACHA20-POLY1305" else AESGCM(key.reveal())
        self.suite = suite
        self.seal: Callable[[bytes, bytes, bytes], bytes] = cipher.encrypt
        self._decrypt: Callable[[bytes, bytes, bytes], bytes] = cipher.decrypt

    def open(self, nonce: bytes, sealed: bytes, ad: bytes) -> bytes:
        """Return the plaintext of `sealed` = ciphertext || tag.

        Raises `PeerError` if the tag does not fit (or is not even there): nothing of the packet may be believed.
        """
        try:
            return self._decrypt(nonce, sealed, ad)
        except InvalidTag:
            raise PeerError("packet fails authentication") from None

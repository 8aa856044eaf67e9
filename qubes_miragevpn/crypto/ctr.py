# SPDX-License-Identifier: BSD-2-Clause
"""AES-256-CTR, which tls-crypt uses for control packets."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def aes256_ctr(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt `data` (the same operation) under the 32-byte `key`, counter starting at the 16-byte `iv`."""
    worker = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return worker.update(data) + worker.finalize()
